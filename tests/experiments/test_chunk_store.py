import errno
import io
import resource

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from experiments import results
from experiments.chunk_store import ChunkStore, SweepStoppedError, checksum

CHUNK = xr.Dataset({"a": ("network", np.array([0.1, np.nan, -0.0])), "b": ("network", [1, 2, 3])})


def make_store(folder, fingerprint="abc"):
    text = io.StringIO()
    return ChunkStore(folder, fingerprint, Console(file=text, width=200)), text


def test_a_chunk_comes_back_bit_for_bit(tmp_path):
    store, text = make_store(tmp_path)
    assert store.load("x-0") is None
    store.save("x-0", CHUNK)
    loaded = store.load("x-0")
    assert checksum(loaded) == checksum(CHUNK)
    assert np.signbit(loaded["a"].to_numpy()[2])
    assert not text.getvalue()


def test_the_checksum_sees_every_bit_name_type_and_shape():
    others = [
        CHUNK.assign(a=("network", np.array([0.1, np.nan, 0.0]))),
        CHUNK.rename(a="c"),
        CHUNK.assign(b=("network", np.array([1, 2, 3], np.int32))),
        CHUNK.rename(network="other"),
        CHUNK.isel(network=slice(2)),
    ]
    assert len({checksum(dataset) for dataset in [CHUNK, *others]}) == 6


def test_truncated_altered_and_foreign_chunks_are_refused_with_a_message(tmp_path):
    store, text = make_store(tmp_path)
    store.save("x-0", CHUNK)
    whole = store.path("x-0").read_bytes()
    store.path("x-0").write_bytes(whole[: len(whole) // 2])
    assert store.load("x-0") is None
    assert "x-0.nc is damaged and is computed again" in text.getvalue()

    store.path("x-1").write_bytes(whole)
    assert store.load("x-1") is None
    assert "x-1.nc belongs elsewhere" in text.getvalue()
    store.path("x-0").write_bytes(whole)
    assert make_store(tmp_path, "another")[0].load("x-0") is None
    assert store.load("x-0") is not None

    altered = results.read(store.path("x-0"))
    altered["b"][0] = 7
    results.write(altered, store.path("x-0"))
    assert store.load("x-0") is None
    assert "does not have the contents" in text.getvalue()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot write")]
)
def test_a_failed_write_stops_the_sweep_and_loses_nothing(tmp_path, monkeypatch, number, said):
    store, _ = make_store(tmp_path)
    store.save("x-0", CHUNK)

    def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", refuse)
    for name in ("x-0", "x-1"):
        with pytest.raises(SweepStoppedError, match=said):
            store.save(name, CHUNK)
    monkeypatch.undo()
    assert store.load("x-0") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["x-0.nc"]


def test_a_disk_that_is_really_full_ends_in_a_message(tmp_path):
    store, _ = make_store(tmp_path)
    store.save("x-0", CHUNK)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(SweepStoppedError, match="cannot write"):
            store.save("x-1", CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.load("x-0") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["x-0.nc"]


def test_what_stopped_one_process_is_told_to_the_others_until_the_next_run(tmp_path):
    store, _ = make_store(tmp_path)
    assert store.stopped() is None
    store.mark_stopped("the disk is full")
    assert make_store(tmp_path)[0].stopped() == "the disk is full"
    store.remove_leftovers()
    assert store.stopped() is None


def test_a_second_run_is_refused_and_the_lock_ends_with_the_first(tmp_path):
    store, _ = make_store(tmp_path / "sweep")
    with store.locked():
        with (
            pytest.raises(SweepStoppedError, match="running already"),
            make_store(tmp_path / "sweep")[0].locked(),
        ):
            pass
        with store.locked(process=1):
            pass
    with store.locked():
        pass


def test_plans_and_failures_are_kept_and_a_damaged_plan_stops(tmp_path):
    store, _ = make_store(tmp_path)
    assert store.plan() is None
    store.write_plan({"chunk_size": 3})
    assert store.plan() == {"chunk_size": 3}
    store.mark_failed("x-0", "no such luck")
    assert store.failure("x-0") == "no such luck"
    store.remove_leftovers()
    assert store.failure("x-0") is None
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SweepStoppedError, match="damaged"):
        store.plan()


def test_another_process_is_waited_for_while_it_runs_and_missed_when_it_is_gone(tmp_path):
    store, _ = make_store(tmp_path)
    others = {1: ["a"]}
    with pytest.raises(SweepStoppedError, match="process 1 of this sweep is gone"):
        store.unfinished(others)
    with store.locked(1):
        assert store.unfinished(others)
        store.mark_stopped("no room")
        with pytest.raises(SweepStoppedError, match="stopped: no room"):
            store.unfinished(others)
    with pytest.raises(SweepStoppedError, match="stopped: no room"):
        store.unfinished(others)
    store.mark_failed("a", "no luck")
    assert not store.unfinished(others)
    assert not store.unfinished({})
