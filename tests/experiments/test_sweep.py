import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from experiments import sweep
from experiments.chunk_store import ChunkStore, SweepStoppedError

ROOT = Path(__file__).resolve().parent.parent.parent
# A sweep of small chaotic networks in a process of its own, with an optional pause per chunk.
SCRIPT = """
import sys, time
from pathlib import Path
import jax
from tests.experiments import test_sweep
if len(sys.argv) > 3:
    jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[4]))
pause = float(sys.argv[2])
groups = test_sweep.make_groups(after=lambda: time.sleep(pause))
store = test_sweep.make_store(Path(sys.argv[1]))[0]
with store.locked(jax.process_index()):
    datasets, failures = test_sweep.sweep.run(
        groups, store, chunk_size=3, console=test_sweep.Console(quiet=True)
    )
assert not failures
print(jax.device_count())
"""


def program(row):
    """Iterate a small random network, whose last bits depend on the order of every sum."""
    key = jax.random.fold_in(jax.random.key(0), row["seed"])
    weights = row["gain"] * jax.random.normal(key, (16, 16), row["gain"].dtype) / 4

    def step(state, _):
        state = jnp.tanh(weights @ state)
        return state, jnp.sum(state**2)

    state, sizes = jax.lax.scan(step, jnp.full(16, 0.1, weights.dtype), length=200)
    return {"state": state, "size": jnp.mean(sizes), "seed": row["seed"]}


def make_groups(nums=(7, 5), after=lambda: None, of=program):
    def record(numbers):
        after()
        return xr.Dataset(
            {
                "state": (("network", "unit"), numbers["state"]),
                "size": ("network", numbers["size"]),
                "seed": ("network", numbers["seed"]),
            }
        )

    def group(index, num):
        rows = {
            "gain": np.linspace(1.5, 3.0, num, dtype=np.float32),
            "seed": np.arange(num, dtype=np.int32) + 10 * index,
        }
        return sweep.Group(f"g{index}", rows, of, record, of)

    return [group(index, num) for index, num in enumerate(nums)]


def make_store(folder):
    text = io.StringIO()
    return ChunkStore(folder, "abc", Console(file=text, width=200)), text


def run(folder, groups=None, chunk_size=3):
    store, text = make_store(folder)
    with store.locked():
        result = sweep.run(
            groups or make_groups(), store, chunk_size=chunk_size, console=store.console
        )
    return *result, text.getvalue()


def run_process(folder, *others, pause=0.0, devices=1, wait=True):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(devices + 1 if devices > 1 else 1),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_ENABLE_X64": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(pause), *others],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if wait:
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0
        assert output.split() == [str(devices)]
    return process


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with jax.enable_x64(True):
        datasets, failures, _ = run(tmp_path_factory.mktemp("reference"))
    assert not failures
    return datasets


def assert_equal(datasets, reference):
    assert set(datasets) == set(reference)
    for name, dataset in datasets.items():
        xr.testing.assert_identical(dataset, reference[name])


def test_every_network_is_there_once_in_order_and_right(reference):
    for index, num in enumerate((7, 5)):
        seeds = reference[f"g{index}"]["seed"].to_numpy()
        np.testing.assert_array_equal(seeds, np.arange(num) + 10 * index)
    rows = {"gain": jnp.float32(1.5), "seed": jnp.int32(10)}
    alone = jax.jit(program)(rows)
    np.testing.assert_allclose(reference["g1"]["size"][0], alone["size"], rtol=1e-2)


def test_a_chunk_that_is_filled_up_has_the_numbers_of_a_full_one(tmp_path, reference):
    shorter, _, _ = run(tmp_path, make_groups((7, 5)), chunk_size=3)
    groups = [
        group._replace(rows={name: values[:4] for name, values in group.rows.items()})
        for group in make_groups()
    ]
    cut, _, _ = run(tmp_path / "cut", groups)
    assert_equal(shorter, reference)
    for name, dataset in cut.items():
        xr.testing.assert_identical(dataset, reference[name].isel(network=slice(4)))


def test_a_resumed_sweep_recomputes_only_what_is_missing_or_damaged(tmp_path, reference):
    run(tmp_path)
    (tmp_path / "g0-000003-by-3.nc").unlink()
    (tmp_path / "g1-000000-by-3.nc").write_bytes(b"half")
    (tmp_path / "g0-000000-by-3.nc").write_bytes((tmp_path / "g0-000006-by-3.nc").read_bytes())
    (tmp_path / "left.part").write_text("of a killed run")
    calls = []
    datasets, _, text = run(tmp_path, make_groups(after=lambda: calls.append(1)))
    assert len(calls) == 3
    assert "2 of 5 chunks were already done" in text
    assert "g1-000000-by-3.nc is damaged" in text
    assert "g0-000000-by-3.nc belongs elsewhere" in text
    assert not list(tmp_path.glob("*.part"))
    assert_equal(datasets, reference)


@pytest.mark.slow
def test_two_devices_give_the_bits_of_one(tmp_path, reference):
    run_process(tmp_path, devices=2)
    datasets, _, text = run(tmp_path)
    assert "5 of 5 chunks were already done" in text
    assert_equal(datasets, reference)


def test_two_processes_give_the_bits_of_one_and_share_the_work(tmp_path, reference):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [run_process(tmp_path, address, rank, wait=False) for rank in "01"]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    datasets, _, text = run(tmp_path)
    assert "5 of 5 chunks were already done" in text
    assert_equal(datasets, reference)


@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_processes_share_all_chunks_evenly_and_each_compiles_few_shapes(num):
    groups = [
        group._replace(name=f"h{index}", cost=cost)
        for index, (group, cost) in enumerate(zip(make_groups((40,) * 6), range(1, 7), strict=True))
    ]
    chunks = {group.name: sweep.chunks_of(group, 3) for group in groups}
    every = {chunk.name for of_group in chunks.values() for chunk in of_group}
    todo = every - {"h3-000000-by-3"}
    shares = sweep.shared(groups, chunks, todo, num)
    names = [chunk.name for share in shares for _, chunk in share]
    assert sorted(names) == sorted(todo)
    costs = [sum(group.cost for group, _ in share) for share in shares]
    assert max(costs) - min(costs) <= 2 * 6
    assert sum(len({group.name for group, _ in share}) for share in shares) <= 6 + num - 1
    assert sweep.shared(groups, chunks, set(), num) == [[]] * num


@pytest.mark.slow
def test_a_sweep_killed_at_a_random_moment_ends_with_the_same_bits(tmp_path, reference):
    process = run_process(tmp_path, pause=0.3, wait=False)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.nc")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random().uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    datasets, _, text = run(tmp_path)
    assert "chunks were already done" in text
    assert_equal(datasets, reference)


def test_a_full_disk_stops_the_sweep_and_room_lets_it_go_on(tmp_path, reference, monkeypatch):
    write, written = sweep.ChunkStore.save, []

    def save(store, name, chunk):
        if len(written) == 2:
            msg = "the disk is full"
            raise SweepStoppedError(msg)
        written.append(name)
        write(store, name, chunk)

    monkeypatch.setattr(sweep.ChunkStore, "save", save)
    with pytest.raises(SweepStoppedError, match="disk is full"):
        run(tmp_path)
    monkeypatch.undo()
    datasets, _, text = run(tmp_path)
    assert "2 of 5 chunks were already done" in text
    assert_equal(datasets, reference)


def test_a_failing_shape_is_named_and_the_others_are_computed(tmp_path, reference):
    def broken(_):
        msg = "no such luck"
        raise ArithmeticError(msg)

    good, bad = make_groups()[0], make_groups(of=broken)[1]
    datasets, failures, _ = run(tmp_path, [bad, good])
    assert failures == dict.fromkeys(
        ("g1-000000-by-3", "g1-000003-by-3"), "ArithmeticError: no such luck"
    )
    assert_equal(datasets, {"g0": reference["g0"]})
    datasets, failures, _ = run(tmp_path)
    assert not failures
    assert_equal(datasets, reference)


def test_a_chunk_that_is_damaged_while_the_sweep_runs_ends_it_with_a_message(tmp_path):
    def damage():
        for path in tmp_path.glob("g0-*.nc"):
            path.write_bytes(b"")

    with pytest.raises(SweepStoppedError, match="was changed while the sweep ran"):
        run(tmp_path, make_groups(after=damage))
    datasets, failures, _ = run(tmp_path)
    assert not failures
    assert set(datasets) == {"g0", "g1"}


def test_the_chunk_size_is_measured_once_and_never_again(tmp_path, monkeypatch):
    store, _ = make_store(tmp_path)
    groups = make_groups((20, 20))
    with store.locked():
        size = sweep.planned_chunk_size(groups, store, None, store.console)
    assert 1 <= size <= 20
    assert store.plan()["chunk_size"] == size
    monkeypatch.setattr(sweep, "measure_chunk_size", None)
    assert sweep.planned_chunk_size(groups, store, None, store.console) == size


def test_chunks_that_do_not_fit_into_memory_are_not_chosen(monkeypatch):
    monkeypatch.setattr(sweep, "_device_bytes", lambda: 0)
    size, seconds = sweep.measure_chunk_size(make_groups((50,)))
    assert size == 4
    assert list(seconds) == [4]
