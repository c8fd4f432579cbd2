import contextlib
import dataclasses
import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from distributed import get_worker
from rich.console import Console

from experiments.runner import chunks, frame, results, workers
from experiments.runner.environment import Settings
from experiments.runner.stopping import RefusedError, StoppedError
from experiments.runner.store import ChunkStore
from tests.experiments.runner import toy_networks, toy_units
from tests.experiments.runner.toy_networks import Unit


def run(experiment, config, folder, pool=None):
    """Run a toy; return the number of failures, its result, None if there is none, and the text."""
    text = io.StringIO()
    console = Console(file=text, width=300)
    failed = frame.run(experiment, config, pool or workers.Here(), console=console, folder=folder)
    folder = folder / experiment.__name__.rpartition(".")[2]
    found = list(folder.glob("*.nc"))
    result = results.read(max(found, key=lambda path: path.stat().st_mtime_ns)) if found else None
    return failed, result, text.getvalue()


def chunk_files(folder):
    return sorted(path.name for path in folder.glob("*/chunks/*/*.nc"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with jax.enable_x64(True):
        failed, result, _ = run(
            toy_networks, toy_networks.PRESETS["quick"], tmp_path_factory.mktemp("reference")
        )
    assert failed == 0
    return result


def assert_equal(result, reference):
    xr.testing.assert_identical(result.drop_attrs(), reference.drop_attrs())


def test_every_network_is_there_once_in_order_and_right(reference):
    seeds = reference["seed"].to_numpy()
    np.testing.assert_array_equal(seeds, [*np.arange(7), *(np.arange(5) + 10)])
    rows = {"gain": jnp.float32(1.5), "seed": jnp.int32(10)}
    alone = jax.jit(toy_networks.program)(rows)
    np.testing.assert_allclose(reference["size"][7], alone["size"], rtol=1e-2)


def test_a_chunk_that_is_filled_up_has_the_numbers_of_a_full_one(tmp_path, reference, monkeypatch):
    made = toy_networks.networks

    def fewer(config, unit):
        networks = made(config, unit)
        rows = {name: values[:4] for name, values in networks.rows.items()}
        return networks._replace(rows=rows)

    monkeypatch.setattr(toy_networks, "networks", fewer)
    chunks._compiled.cache_clear()
    _, result, _ = run(toy_networks, toy_networks.Toy(log=str(tmp_path / "log")), tmp_path)
    chunks._compiled.cache_clear()
    chosen = [*range(4), *range(7, 11)]
    assert_equal(result, reference.isel(network=chosen))


def test_a_resumed_run_computes_only_what_is_missing_or_damaged(tmp_path, reference):
    config = toy_networks.Toy(log=str(tmp_path / "log"))
    run(toy_networks, config, tmp_path)
    (folder,) = tmp_path.glob("*/chunks/*")
    (folder / "g0-000003-by-3.nc").unlink()
    (folder / "g1-000000-by-3.nc").write_bytes(b"half")
    (folder / "g0-000000-by-3.nc").write_bytes((folder / "g0-000006-by-3.nc").read_bytes())
    (folder / "left.part").write_text("of a killed run")
    (tmp_path / "log").unlink()
    _, result, text = run(toy_networks, config, tmp_path)
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    assert "5 chunks, 2 of them done already" in text
    assert "g1-000000-by-3.nc is damaged" in text
    assert "g0-000000-by-3.nc belongs elsewhere" in text
    assert not list(folder.glob("*.part"))
    assert_equal(result, reference)


@pytest.fixture(scope="module")
def two_workers():
    """Two processes of this machine, which compute as the tests do."""
    with workers.local(Settings("cpu", "float64", optimize=False), 2) as pool:
        yield pool


def test_two_processes_give_the_bits_of_one_and_share_the_work(tmp_path, reference, two_workers):
    config = toy_networks.Toy(log=str(tmp_path / "log"), pause=0.3)
    failed, result, text = run(toy_networks, config, tmp_path, two_workers)
    assert failed == 0
    assert "5 chunks; 2 at a time" in text
    assert_equal(result, reference)
    assert len({line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}) == 2


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
@pytest.mark.parametrize("here", [True, False])
def test_a_failing_unit_is_named_and_does_not_stop_the_others(tmp_path, here, error, two_workers):
    config = toy_units.Toy(log=str(tmp_path / "log"), fail="a", error=error)
    failed, result, text = run(toy_units, config, tmp_path, None if here else two_workers)
    assert failed == 1
    assert result is None
    assert "a failed" in text
    assert f"{error}" in text
    assert "no such luck" in text
    assert "nothing is written" in text
    assert chunk_files(tmp_path) == ["b.nc"]


def test_of_networks_what_is_there_is_written_and_a_failing_shape_is_named(tmp_path, reference):
    config = toy_networks.Toy(broken="g0")
    failed, result, text = run(toy_networks, config, tmp_path)
    assert failed == 3
    assert "ArithmeticError: no such luck" in text
    assert "missing from the result" in text
    assert_equal(result, reference.isel(network=slice(7, None)))


def test_a_new_configuration_has_a_result_of_its_own_name_and_shares_no_chunk(tmp_path):
    log = str(tmp_path / "log")
    first = toy_units.Toy(log=log)
    run(toy_units, first, tmp_path)
    run(toy_units, first, tmp_path)
    assert (tmp_path / "log").read_text() == "ab"
    run(toy_units, dataclasses.replace(first, offset=3.0), tmp_path)
    assert (tmp_path / "log").read_text() == "abab"
    assert len(list(tmp_path.glob("*/custom_*-float64.nc"))) == 2
    _, result, text = run(toy_units, toy_units.PRESETS["quick"], tmp_path)
    assert float(result["value"].sum()) == 6.0
    assert (tmp_path / "toy_units" / "quick-float64.nc").is_file()
    assert text.endswith("toy_units/quick-float64.nc` draws it\n")


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path, reference, monkeypatch):
    write, written = ChunkStore.save, []

    def save(store, name, chunk):
        if len(written) == 2:
            msg = "the disk is full"
            raise StoppedError(msg)
        written.append(name)
        write(store, name, chunk)

    monkeypatch.setattr(ChunkStore, "save", save)
    config = toy_networks.PRESETS["quick"]
    with pytest.raises(StoppedError, match="disk is full"):
        run(toy_networks, config, tmp_path)
    monkeypatch.undo()
    _, result, text = run(toy_networks, config, tmp_path)
    assert "5 chunks, 2 of them done already" in text
    assert_equal(result, reference)


def test_a_chunk_that_a_worker_saved_elsewhere_ends_the_run_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(ChunkStore, "save", lambda *_: None)
    with pytest.raises(StoppedError, match=r"need a --folder that all share"):
        run(toy_networks, toy_networks.PRESETS["quick"], tmp_path)


def test_a_worker_that_would_round_otherwise_is_refused(tmp_path):
    made_with = chunks.origin() | {"jax": "0.0.1"}
    chunk = chunks.Chunk("a", toy_units.Unit("a"))
    with pytest.raises(RefusedError, match=r"jax .* instead of '0.0.1'"):
        chunks.compute(
            toy_units.__name__, toy_units.Toy(), chunk, tmp_path, "abc", made_with, print
        )


def refuse_on(address, report):
    """Refuse to be computed by one worker."""
    del report
    if get_worker().address == address:
        msg = "rounds otherwise"
        raise RefusedError(msg)


def test_what_a_refused_worker_was_given_goes_to_another_one(two_workers, capsys):
    bad, good = two_workers.client.nthreads()
    works = [(f"x{number}", partial(refuse_on, bad)) for number in range(6)]
    done = dict(two_workers.compute(lambda _: works.pop() if works else None, None))
    assert done == dict.fromkeys((f"x{number}" for number in range(6)), None)
    assert capsys.readouterr().err.count("gets no more work: rounds otherwise") == 1
    everywhere = [("x", partial(refuse_on, address)) for address in (bad, good)]

    def refuse_all(place):
        return ("x", partial(refuse_on, place)) if everywhere else None

    with pytest.raises(StoppedError, match="no worker is left"):
        list(two_workers.compute(refuse_all, None))


def test_the_chunk_size_is_measured_once_and_never_again(tmp_path, monkeypatch):
    config = toy_networks.Toy(nums=(20, 20), chunk_size=None)
    _, result, text = run(toy_networks, config, tmp_path)
    assert "by measurement" in text
    (folder,) = tmp_path.glob("*/chunks/*")
    size = ChunkStore(folder, "").plan()["chunk_size"]
    assert 1 <= size <= 20
    assert f'"chunk_size": {size}' in result.attrs["configuration"]
    monkeypatch.setattr(chunks, "measure_chunk_size", None)
    _, again, _ = run(toy_networks, config, tmp_path)
    assert_equal(again, result)
    assert results.differences(result, config) == []


def test_chunks_that_do_not_fit_into_memory_are_not_chosen(monkeypatch):
    monkeypatch.setattr(chunks, "_device_bytes", lambda _: 0)
    size, seconds = chunks.measure_chunk_size(
        toy_networks.__name__, toy_networks.Toy(nums=(50,)), 1, lambda *_: None
    )
    assert size == 4
    assert list(seconds) == [4]


def test_workers_keep_to_the_shapes_that_they_have_compiled():
    names = ("g0", "g0", "g1", "g1")
    waiting = [
        chunks.Chunk(f"{name}-{index}", Unit(name), 0, 3, 3) for index, name in enumerate(names)
    ]
    visited = {"one": set(), "two": set()}
    taken = {"one": [], "two": []}
    while waiting:
        for worker, own in taken.items():
            chunk = chunks.take(waiting, worker, visited)
            visited[worker].add(chunk.unit)
            own.append(chunk.unit.name)
    assert taken == {"one": ["g0", "g0"], "two": ["g1", "g1"]}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_does_not_answer_is_said(monkeypatch, address):
    monkeypatch.setattr(workers, "GONE", 0.2)
    settings = Settings("cpu", "float64", optimize=False)
    with (
        pytest.raises(StoppedError, match="no scheduler answers there"),
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(workers.joined(settings, address))
