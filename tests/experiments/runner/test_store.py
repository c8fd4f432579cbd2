import errno
import resource

import numpy as np
import pytest
import xarray as xr

from experiments.runner import results
from experiments.runner.stopping import StoppedError
from experiments.runner.store import ChunkStore, checksum

CHUNK = xr.Dataset({"a": ("network", np.array([0.1, np.nan, -0.0])), "b": ("network", [1, 2, 3])})


def test_a_chunk_comes_back_bit_for_bit(tmp_path):
    store, said = ChunkStore(tmp_path, "abc"), []
    assert store.load("x-0", said.append) is None
    chunk = CHUNK.assign_coords(network=["x", "longer", "y"], all=True)
    store.save("x-0", chunk)
    loaded = store.load("x-0", said.append)
    assert checksum(loaded) == checksum(chunk)
    assert np.signbit(loaded["a"].to_numpy()[2])
    assert loaded["network"].to_numpy().tolist() == ["x", "longer", "y"]
    assert not said


def test_the_checksum_sees_every_bit_name_type_and_shape():
    others = [
        CHUNK.assign(a=("network", np.array([0.1, np.nan, 0.0]))),
        CHUNK.rename(a="c"),
        CHUNK.assign(b=("network", np.array([1, 2, 3], np.int32))),
        CHUNK.rename(network="other"),
        CHUNK.isel(network=slice(2)),
    ]
    assert len({checksum(dataset) for dataset in [CHUNK, *others]}) == 6


def test_truncated_altered_and_foreign_chunks_are_deleted_with_a_message(tmp_path):
    store, said = ChunkStore(tmp_path, "abc"), []
    store.save("x-0", CHUNK)
    whole = store.path("x-0").read_bytes()
    altered = results.read(store.path("x-0"))
    altered["b"][0] = 7

    store.path("x-0").write_bytes(whole[: len(whole) // 2])
    assert store.load("x-0", said.append) is None
    store.path("x-1").write_bytes(whole)
    assert store.load("x-1", said.append) is None
    store.path("x-0").write_bytes(whole)
    assert store.load("x-0", said.append) is not None
    assert ChunkStore(tmp_path, "another").load("x-0", said.append) is None
    results.write(altered, store.path("x-0"))
    assert store.load("x-0", said.append) is None
    assert said == [
        "x-0.nc is damaged and is computed again",
        "x-1.nc belongs elsewhere and is computed again",
        "x-0.nc belongs elsewhere and is computed again",
        "x-0.nc does not have the contents it was written with and is computed again",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot write")]
)
def test_a_failed_write_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, number, said):
    store = ChunkStore(tmp_path, "abc")
    store.save("x-0", CHUNK)

    def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", refuse)
    for name in ("x-0", "x-1"):
        with pytest.raises(StoppedError, match=said):
            store.save(name, CHUNK)
    monkeypatch.undo()
    assert store.load("x-0", print) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["x-0.nc"]


def test_a_disk_that_is_really_full_ends_in_a_message(tmp_path):
    store = ChunkStore(tmp_path, "abc")
    store.save("x-0", CHUNK)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoppedError, match="cannot write"):
            store.save("x-1", CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.load("x-0", print) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["x-0.nc"]


def test_a_second_run_is_refused_and_the_lock_ends_with_the_first(tmp_path):
    store = ChunkStore(tmp_path / "run", "abc")
    with (
        store.locked(),
        pytest.raises(StoppedError, match="running already"),
        ChunkStore(tmp_path / "run", "abc").locked(),
    ):
        pass
    (tmp_path / "run" / "left.part").write_text("of a killed run")
    with store.locked():
        assert not list((tmp_path / "run").glob("*.part"))


def test_a_plan_is_kept_and_a_damaged_one_stops(tmp_path):
    store = ChunkStore(tmp_path, "abc")
    assert store.plan() is None
    store.write_plan({"chunk_size": 3})
    assert store.plan() == {"chunk_size": 3}
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(StoppedError, match="damaged"):
        store.plan()
