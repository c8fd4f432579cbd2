import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.benchmarks import (
    accuracy,
    dense_jacobians,
    forecasts,
    speed,
    sweeps,
    timing,
    verdicts,
    workloads,
)
from experiments.benchmarks.__main__ import CAPTIONS, GPU_NOTE, WIDTH, tables_of
from experiments.benchmarks.timing import Row, as_dataset, compare, timed_row
from experiments.benchmarks.workloads import ChainCase, Sizes
from experiments.runner import results
from paper_figures import benchmarks as figure

TINY = Sizes(
    repeats=2,
    autonomous_steps=16,
    width_steps=8,
)


def printed(tables):
    console = Console(file=io.StringIO(), width=WIDTH)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


@pytest.fixture
def sleep(monkeypatch):
    """Let the benchmarks read a clock that moves on in this function alone, by some seconds."""
    now = [0.0]

    def move_on(seconds):
        now[0] += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return move_on


def test_ratios_are_paired_within_rounds_and_robust_to_a_machine_that_slows_down(sleep):
    slowness = iter(np.repeat(np.geomspace(0.002, 0.03, 6), 2).tolist())
    twice = compare(
        {"one": lambda: sleep(next(slowness)), "two": lambda: sleep(2 * next(slowness))},
        repeats=5,
    )
    assert twice.num_rounds == 5
    assert twice.of["one"].ratio == twice.of["one"].ratio_low == twice.of["one"].ratio_high == 1
    ratios = twice.of["two"].ratio_low, twice.of["two"].ratio, twice.of["two"].ratio_high
    assert ratios == pytest.approx((2, 2, 2))


def test_compile_time_is_what_only_the_first_call_took(sleep):
    first = iter([0.2])

    def compiled():
        sleep(next(first, 0.01))
        return "output"

    timings = compare({"quick": lambda: None, "compiled": compiled}, 3, reference="compiled")
    assert timings.of["compiled"].compile_seconds == pytest.approx(0.19)
    assert timings.of["compiled"].seconds == pytest.approx(0.01)
    assert timings.of["quick"].ratio == 0
    assert timings.outputs == {"quick": None, "compiled": "output"}


def test_rounds_end_when_the_time_is_over_but_one_is_made(sleep):
    assert compare({"slow": lambda: sleep(0.02)}, 50, max_seconds=0.0).num_rounds == 1


@pytest.mark.parametrize("reference", ["missing", None])
def test_a_reference_that_is_not_there_is_refused(reference):
    with pytest.raises(ValueError, match="compare: received 3 repeats"):
        compare({}, 3, reference=reference)


@pytest.mark.parametrize(
    "case", [ChainCase("distinct", 5, 30), ChainCase("degenerate", 4, 20)], ids=str
)
def test_chains_have_the_singular_values_that_they_claim(case):
    chain = workloads.chain_of(case)
    with mpmath.workdps(80):
        product = mpmath.eye(case.n)
        for jacobian in chain.jacobians:
            product = mpmath.matrix(jacobian.tolist()) * product
        values = mpmath.svd_r(product, compute_uv=False)
        exact = sorted((float(mpmath.log(value)) for value in values), reverse=True)
    np.testing.assert_allclose(chain.log_singular_values, exact, atol=1e-12)


def test_chains_have_the_rates_of_their_kind():
    degenerate = workloads.chain_of(ChainCase("degenerate", 6, 50)).log_singular_values
    np.testing.assert_allclose(degenerate, np.repeat([100.0, -100.0], 3), atol=1e-11)
    narrow = workloads.chain_of(ChainCase("narrow", 4, 50)).log_singular_values
    assert narrow[0] - narrow[-1] == pytest.approx(10)
    dense = np.linalg.svd(
        np.linalg.multi_dot(workloads.chain_of(ChainCase("narrow", 4, 50)).jacobians[::-1]),
        compute_uv=False,
    )
    np.testing.assert_allclose(narrow, np.log(dense), atol=1e-9)


@pytest.mark.slow
def test_the_package_is_accurate_where_plain_products_are_not():
    rows = {row.name: row for row in accuracy.measure(ChainCase("degenerate", 4, 300), TINY)}
    assert rows[accuracy.ONE_PASS].error < 1e-6
    assert rows[accuracy.WITH_ERROR].own_error < 1e-6
    assert np.isnan(rows[accuracy.ONE_PASS].own_error)
    for name in ("naive product, SVD", "rescaled product, SVD"):
        assert rows[name].error > 100
    assert accuracy.largest_error(np.array([np.nan, 0.0]), np.zeros(2)) == np.inf


@pytest.mark.slow
def test_the_references_compute_what_the_package_computes():
    network, state = workloads.autonomous(8, "float64")
    frame = workloads.frame_of(8, 3, "float64")
    jacobians = jrnn.step_jacobians(network, state, None, num_steps=40)
    q, logs = np.asarray(frame), np.zeros(3)
    for jacobian in np.asarray(jacobians):
        q, r = np.linalg.qr(jacobian @ q)
        logs += np.log(np.abs(np.diagonal(r)))
    for found in (
        workloads.qr_of_jacobians(jacobians, frame),
        workloads.qr_of_system(network, state, None, frame, 40),
    ):
        np.testing.assert_allclose(found, logs / 40, atol=1e-10)
    driven, carry, xs = speed._driven("LSTMCell", 4, 7, "float64")
    batch = jax.tree.map(lambda leaf: jnp.tile(leaf, (2, 1)), carry)
    last = jax.tree.map(lambda leaf: leaf[-1], workloads.own_steps(driven, batch, xs))
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(last)[0], jrnn.trajectory(driven, carry, xs)[-1], atol=1e-14
    )


def test_a_program_that_is_not_installed_gives_rows_that_say_so(monkeypatch):
    monkeypatch.setattr(speed, "peer", lambda name: workloads.peer(f"{name}_is_not_there"))
    monkeypatch.setattr(
        speed,
        "compare",
        lambda functions, *_, **__: compare(dict.fromkeys(functions, lambda: np.zeros(2)), 1),
    )
    rows = speed.against_peers(2, TINY)
    notes = {row.name: row.note for row in rows}
    for name in ("lyapax, jitted", "lyapax, plain", "chaotax, plain"):
        assert notes.pop(name) == speed.NOT_INSTALLED
    assert set(notes.values()) == {""}
    assert (
        printed(tables_of(as_dataset(rows).assign_attrs(dtype="float64"))).count(
            speed.NOT_INSTALLED
        )
        == 3
    )


def test_exponents_agree_with_the_scans_and_products_have_none_to_compare():
    scan, exponents, product = speed.by_width(4, TINY)
    assert exponents.error < 1e-12
    assert np.isnan(scan.error)
    assert np.isnan(product.error)
    assert product.name == accuracy.ONE_PASS


@pytest.mark.slow
def test_features_of_a_forecast_are_timed_beside_one_training_update():
    rows = forecasts.features("SimpleCell", 4, 5, TINY)
    assert [row.name for row in rows] == [
        forecasts.UPDATE,
        "learning_features",
        "predict_regime",
    ]
    assert rows[0].ratio == 1
    # They take a gradient of the loss themselves, and more.
    assert rows[1].ratio > 1
    assert rows[1].compile_seconds > rows[1].seconds


def test_closed_forms_are_timed_on_what_forward_mode_gives():
    rows = {row.name: row for row in dense_jacobians.measure("MGUCell", 4, TINY)}
    assert rows["closed_form"].error < 1e-14
    assert rows["reverse"].error < 1e-14
    assert rows[dense_jacobians.WRITE].ratio == 1


def test_tables_and_figure_show_every_row_and_survive_a_round_trip(tmp_path):
    timings = compare({"lyapunov_spectrum, auto": lambda: None, "product_of": lambda: None}, 2)
    rows = [
        timed_row(Row(group, "width" if group == "W4" else "k=4", name, 8, 4, 10), timings)
        for group in (
            "Jacobians",
            "W1",
            "W3",
            "floor",
            "W4",
            "verdict",
            "profile",
            "forecast",
            "leading",
            "units",
        )
        for name in timings.of
    ]
    row = Row("accuracy", "distinct, n=64, T=20000", "naive product, SVD", 64, 64, 20_000)
    row = row._replace(seconds=1.0, ratio=1.0, error=float("inf"), log_range=123.4)
    rows += [row, row._replace(name=accuracy.ONE_PASS, error=1e-12, own_error=1e-11)]
    rows += [Row("W4 batch", "batch", "product_of", 8, 4, 10, 32, seconds=0.5, ratio=1.0)]
    rows.append(Row("sweep", "overhead", sweeps.FRAME, 24, 0, 100, 48, seconds=30.0, ratio=0.97))
    rows.append(Row("gpu", "all groups", "every row", 0, 0, 0, note=GPU_NOTE))
    dataset = as_dataset(rows).assign_attrs(dtype="float64")
    dataset = results.read(results.write(dataset, tmp_path / "tiny-float64.nc"))
    text = printed(tables_of(dataset))
    for expected in (*CAPTIONS, *(row.name for row in rows), GPU_NOTE, "inf", "64"):
        assert expected in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= WIDTH < 110
    assert figure.draw(dataset).subfigs


def test_every_preset_lists_its_cases_under_different_names():
    for sizes in workloads.PRESETS.values():
        modules = accuracy, dense_jacobians, speed, verdicts, forecasts
        labels = [label for module in modules for label, _ in module.cases(sizes)]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("other", "error"), [(1.0, 0.0), (1.0 + 1e-15, np.nan)])
def test_workers_that_differ_in_a_bit_are_not_reported_as_the_same(monkeypatch, other, error):
    def run(_, cores, *, num_workers):
        assert num_workers == len(cores)
        return xr.Dataset({"skill": ("network", [1.0 if num_workers == 1 else other])})

    monkeypatch.setattr(sweeps, "_by_command_line", run)
    monkeypatch.setattr(sweeps.os, "sched_getaffinity", lambda _: {2, 5}, raising=False)
    monkeypatch.setattr(sweeps.os, "sched_setaffinity", None, raising=False)
    rows = sweeps.by_workers(TINY)
    assert [row.name for row in rows] == ["one worker on one core", "two workers"]
    np.testing.assert_equal([row.error for row in rows], [0.0, error])
