import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from scipy.stats import binomtest

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.initialization import critical_initialization as critical
from paper_figures.initialization import critical_initialization as figure

QUICK = critical.PRESETS["quick"]
LEARNED, STUCK = int(jrnn.Outcome.LEARNED), int(jrnn.Outcome.STUCK)


def found(parameter, target, value, *, fresh=0.001):
    """What a search returns, with numbers that tests choose."""
    known = not np.isnan(value)
    return SimpleNamespace(
        found=known,
        value=np.array(value),
        interval=np.array([value - 0.5, value + 0.25]),
        rate=jrnn.Estimate(np.array(target), np.array(0.002)),
        fresh_rate=jrnn.Estimate(np.array(fresh), np.array(0.003)),
        rates=np.array([-1.0, np.nan, 0.5]),
        target=target,
        parameter=parameter,
        confirmed=fresh < 0.01,
    )


def constructed():
    """Two cells on which training showed what tests choose."""
    default, critical_gain = [STUCK] * 8, [LEARNED] * 6 + [STUCK] * 2
    parts = []
    for cell, searches, outcomes in (
        ("SimpleCell", [found("gain", 0.0, 1.6)], [default, critical_gain]),
        (
            "GRUCell",
            [
                found("gain", 0.0, 3.0, fresh=0.2),
                found("forget bias", 0.0, np.nan),
                found("forget bias", -0.005, 4.5),
            ],
            [[LEARNED] + [STUCK] * 7, [STUCK] * 8, [LEARNED] * 8],
        ),
    ):
        arms = critical.arms_of(searches, gated=cell == "GRUCell")
        outcome = np.array(outcomes)
        log_growth = np.where(outcome == LEARNED, -1.0, -60.0)[..., None] + [-1.0, 0.0, 2.0]
        part = xr.Dataset(
            {
                "outcome": (("condition", "seed"), outcome),
                "regime": (("condition", "seed"), outcome),
                "test_skill": (("condition", "seed"), np.where(outcome == LEARNED, 0.9, 0.1)),
                "log_growth": (("condition", "seed", "sequence"), log_growth),
                "horizon": 200,
            },
            coords={
                "cell": ("condition", [cell] * len(arms)),
                "arm": ("condition", [arm.name for arm in arms]),
                "seed": np.arange(8),
            },
        )
        parts.append(part.merge(critical.table_of(cell, searches)))
    return critical.counted(critical.joined(parts))


def written(table):
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


@pytest.mark.parametrize("num_trials", [1, 8, 96])
def test_intervals_are_wilsons(num_trials):
    counts = np.arange(num_trials + 1)
    expected = [
        binomtest(int(count), num_trials).proportion_ci(method="wilson") for count in counts
    ]
    np.testing.assert_allclose(critical.wilson(counts, num_trials), expected, atol=1e-12)


def test_only_seeds_that_differ_count_in_the_sign_test():
    assert critical.sign_test(0, 0) == 1
    assert critical.sign_test(6, 0) == pytest.approx(2 / 2**6)
    assert critical.sign_test(1, 2) == 1


def test_successes_are_counted_for_each_arm_and_compared_with_the_default_of_the_same_cell():
    dataset = constructed()
    assert dataset["num_learned"].to_numpy().tolist() == [0, 6, 1, 0, 8]
    np.testing.assert_allclose(dataset["success_rate"], np.array([0, 6, 1, 0, 8]) / 8)
    assert dataset["only_here"].to_numpy().tolist() == [0, 6, 0, 0, 7]
    assert dataset["only_default"].to_numpy().tolist() == [0, 0, 0, 1, 0]
    np.testing.assert_allclose(dataset["p_value"], [1, 2 / 2**6, 1, 1, 2 / 2**7])
    assert dataset["success_rate"].attrs["units"] == "1"


def test_the_table_of_successes_says_what_was_predicted_and_what_happened():
    text = written(critical.success_table(constructed()))
    assert "delayed recall over 200 steps, 8 networks each" in text
    (row,) = lines_with(text, "Simple", "critical gain")
    for part in ("-1.0", "6/8  ", "6/8 [0.41, 0.93]", "0.90, 0.90"):
        assert part in row
    (row,) = lines_with(text, "GRU", "default")
    assert "-60.0" in row
    assert "1/8 [0.02, 0.47]" in row
    assert "0.10, 0.90" in row
    lines = critical.comparisons(constructed())
    assert len(lines) == 4
    assert lines[2].startswith("GRUCell, memory bias: 7 of 8 seeds learned that did not")
    assert lines[2].endswith("0 the other way (exact sign test, p = 0.016)")
    assert lines[3] == "of 15 networks predicted to be stable 15 learned, of 25 others 0"


def test_the_table_of_searches_says_what_was_not_found_and_what_fresh_networks_deny():
    text = written(critical.search_table(constructed()))
    (row,) = lines_with(text, "Simple", "gain")
    for part in ("1.600 [1.100, 1.850]", "+0.0010 ± 0.0030", "+0.5000"):
        assert part in row
    assert "!" not in row
    (row,) = lines_with(text, "GRU", "gain")
    assert "+0.2000 ± 0.0030 !" in row
    (row,) = lines_with(text, "bias", "not found")
    assert "nan" not in row
    assert len(lines_with(text, "bias", "-0.005", "4.500")) == 1


def test_an_arm_is_made_only_of_what_was_found():
    bias = found("forget bias", -0.005, 4.5)
    arms = critical.arms_of([found("gain", 0.0, np.nan), bias], gated=True)
    assert arms == [critical.Arm("default", 1.0, 0.0), critical.Arm("memory bias", 1.0, 4.5)]
    plain = critical.arms_of([found("gain", 0.0, 1.6)], gated=False)
    assert [arm[:2] for arm in plain] == [("default", 1.0), ("critical gain", 1.6)]
    assert np.isnan([arm.forget_bias for arm in plain]).all()


def test_the_search_is_under_the_noise_of_the_task():
    xs = np.asarray(protocol.recall(50, "float32").sample(jax.random.key(0), 200).xs)[:, 1:]
    np.testing.assert_allclose(xs.std(), protocol.NOISE_STD, rtol=0.02)
    assert abs(xs.mean()) < 0.01


def test_networks_of_one_seed_differ_by_gain_and_bias_alone():
    arms = [critical.Arm("a", 1.0, 0.0), critical.Arm("b", 3.0, 0.0), critical.Arm("c", 1.0, 4.0)]
    networks = critical.draw(dataclasses.replace(QUICK, num_seeds=1), "GRUCell", arms)
    params = jax.tree.map(lambda leaf: leaf[:, 0], networks.params["params"])
    for gate in ("hr", "hz", "hn"):
        kernel = params[gate]["kernel"]
        np.testing.assert_allclose(kernel[0] @ kernel[0].T, np.eye(QUICK.width), atol=1e-5)
        np.testing.assert_allclose(kernel[1:], jnp.stack([3 * kernel[0], kernel[0]]), rtol=1e-6)
        np.testing.assert_array_equal(
            params["i" + gate[1]]["kernel"][1:], [params["i" + gate[1]]["kernel"][0]] * 2
        )
    np.testing.assert_array_equal(params["iz"]["bias"][:, 0], [0, 0, 4])
    for gate in ("ir", "in"):
        assert not params[gate]["bias"].any()


def test_claims_pool_the_defaults_and_ask_most_of_each_other_arm():
    made = figure.claims(constructed())
    assert [claim.measured for claim in made] == [1 / 16, 6 / 8, 0, 1]
    assert [claim.verdict for claim in made] == ["not decided", "not decided", "fails", "holds"]
    assert "-60.0 nats" in made[2].reason


@pytest.mark.slow
def test_the_quick_run_searches_and_trains_and_is_drawn():
    config = dataclasses.replace(QUICK, cells=("GRUCell",))
    (unit,) = critical.units(config)
    first = critical.combine(config, {unit: critical.work(config, unit, lambda *_: None)})
    assert first["arm"].to_numpy()[:2].tolist() == ["default", "critical gain"]
    assert first["searched"].to_numpy().tolist() == ["gain", "forget bias", "forget bias"]
    np.testing.assert_allclose(first["wanted_rate"], [0, 0, -1 / 10])
    # At λ₁ = 0 gradients fare as the default's do not.
    default, by_gain = first["log_growth"].median(("seed", "sequence")).to_numpy()[:2]
    assert default < -2 < by_gain
    assert first["loss"].sizes == {"rate_index": 1, "condition": 3, "seed": 2, "update": 8}
    assert np.isfinite(first["loss"]).all()
    text = io.StringIO()
    critical.show(first, Console(file=text, width=160))
    assert "delayed recall over 10 steps, 2 networks each" in text.getvalue()

    fields = json.dumps(dataclasses.asdict(config))
    drawing = figure.draw(first.assign_attrs(configuration=fields))
    success, skill = drawing.axes
    points = [bars.lines[0].get_ydata()[0] for bars in success.containers]
    np.testing.assert_allclose(points, first["success_rate"])
    drawn = [line.get_xydata() for line in skill.lines if str(line.get_marker()) in "o^D"]
    drawn = [points for points in drawn if len(points)]
    log_growth = first["log_growth"].median("sequence")
    np.testing.assert_allclose(drawn, np.stack([log_growth, first["test_skill"]], axis=-1))
    assert "2 networks" in drawing.legends[0].get_title().get_text()
    plt.close(drawing)
