import dataclasses
import io

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments import phase_diagram, phase_diagram_options, results
from experiments.phase_diagram_options import PRESETS, PhaseDiagram
from paper_figures import __main__ as command_line
from paper_figures import phase_diagram as figure

SMALL = PhaseDiagram(
    cells=("SimpleCell",),
    gains=(0.5, 2.0, 2),
    horizons=(8,),
    seeds=1,
    learning_rates=(0.003, 0.01),
    width=4,
    updates=5,
    batch=4,
    held_out=8,
    sequences=2,
    chunk_size=2,
    dtype="float64",
)


def made_up(cells=("SimpleCell", "GRUCell"), horizons=(10, 40), num_gains=5, seeds=2):
    """Lay out networks that learn where the magnitude of the log growth is small."""
    config = PhaseDiagram(cells=cells, horizons=horizons, gains=(0.5, 2.0, num_gains), seeds=seeds)
    gains = phase_diagram_options.gains_of(config)
    parts = {}
    for cell in cells:
        for horizon in horizons:
            rate = np.repeat(np.log(gains), seeds)
            log_growth = horizon * rate
            parts[f"{cell}-{horizon}"] = xr.Dataset(
                {
                    "log_growth": (("network", "sequence"), np.stack([log_growth] * 3, axis=1)),
                    "outcome": ("network", np.where(np.abs(log_growth) < 10, 0, -1)),
                    "exponent": ("network", rate),
                }
            )
    return config, parts


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    text, root = io.StringIO(), tmp_path_factory.mktemp("small")
    with jax.enable_x64(True):
        failed = phase_diagram.run(SMALL, console=Console(file=text, width=160), root=root)
    assert failed == 0
    (path,) = root.glob("*.nc")
    return results.read(path), text.getvalue(), root


def test_a_result_names_its_axes_and_says_where_it_comes_from(small):
    dataset, text, _ = small
    assert dict(dataset["log_growth"].sizes) == {
        "cell": 1, "horizon": 1, "gain": 2, "seed": 1, "sequence": 2,
    }  # fmt: skip
    assert dataset["outcome_by_rate"].dims[-1] == "learning_rate"
    np.testing.assert_allclose(dataset["gain"], [0.5, 2.0])
    assert np.isfinite(dataset["final_loss"]).all()
    assert dataset["final_loss"].dtype == np.float64
    assert '"chunk_size": 2' in dataset.attrs["configuration"]
    assert {"versions", "device", "dtype", "wall_seconds"} <= set(dataset.attrs)
    assert "Spearman" in text
    assert "2 of 2 networks" in text


@pytest.mark.slow
def test_predictions_are_those_of_the_library(small):
    dataset, _, _ = small
    shape = phase_diagram.Shape(SMALL, "SimpleCell", 8)
    row = {"gain": np.float64(2.0), "seed": np.int32(0)}
    xs = shape.task.sample(phase_diagram._key(1, row["seed"]), 2).xs
    alone = jrnn.predict_regime(shape._draw(row), shape.carry, xs, horizon=8)
    at = dataset.isel(cell=0, gain=1, seed=0).sel(horizon=8)
    np.testing.assert_allclose(at["log_growth"], alone.log_growth, rtol=1e-9)
    np.testing.assert_allclose(at["exponent"], alone.exponent, rtol=1e-9)


def test_a_second_run_computes_nothing_and_equals_the_first(small):
    dataset, _, root = small
    text = io.StringIO()
    phase_diagram.run(SMALL, console=Console(file=text, width=160), root=root)
    assert "1 of 1 chunks were already done" in text.getvalue()
    (path,) = root.glob("*.nc")
    xr.testing.assert_identical(results.read(path).drop_attrs(), dataset.drop_attrs())


def test_the_learning_rate_with_the_best_validation_counts_and_its_outcome_is_observed():
    shape = phase_diagram.Shape(SMALL, "SimpleCell", 8)
    updates = np.ones((1, 2, 5))
    numbers = {
        "loss": updates,
        "update_norm": updates,
        "validation_skill": np.array([[0.2, 0.9]]),
        "validation_loss": np.array([[1.0, 0.1]]),
        "test_skill": np.array([[0.99, 0.8]]),
        "final_loss": np.array([[1.0, 0.2]]),
    }
    kept = shape.record(numbers)
    assert kept["best_rate"].item() == 1
    assert kept["test_skill"].item() == 0.8
    assert kept["final_loss"].item() == 0.2
    assert kept["outcome"].item() == jrnn.Outcome.LEARNED


def test_parts_are_laid_out_by_their_names_and_a_missing_one_is_nan():
    config, parts = made_up()
    del parts["GRUCell-40"]
    dataset = phase_diagram.laid_out(config, parts)
    assert dataset["cell"].to_numpy().tolist() == ["SimpleCell", "GRUCell"]
    gains = phase_diagram_options.gains_of(config)
    at = dataset["log_growth"].sel(cell="SimpleCell", horizon=40, seed=1).isel(sequence=0)
    np.testing.assert_allclose(at, 40 * np.log(gains))
    assert dataset["outcome"].sel(cell="GRUCell", horizon=40).isnull().all()
    assert phase_diagram.rank_correlation(dataset).num_networks == 30


def test_rank_correlation_is_high_where_success_follows_the_prediction_and_low_where_not():
    config, parts = made_up(num_gains=12)
    dataset = phase_diagram.laid_out(config, parts)
    follows = phase_diagram.rank_correlation(dataset, num_resamples=200)
    assert follows.value > 0.7
    assert follows.interval[0] < follows.value < follows.interval[1]
    generator = np.random.default_rng(0)
    dataset["outcome"][:] = generator.integers(-1, 1, dataset["outcome"].shape)
    low, high = phase_diagram.rank_correlation(dataset, num_resamples=200).interval
    assert low < 0 < high
    dataset["outcome"][:] = 0
    assert np.isnan(phase_diagram.rank_correlation(dataset, num_resamples=10).value)


def test_every_cell_has_a_panel_and_theory_only_the_plain_one():
    config, parts = made_up()
    dataset = phase_diagram.laid_out(config, parts)
    dataset = results.described(dataset, config, device="cpu", seconds=1.0)
    drawn = figure.draw(dataset)
    first, second = drawn.axes[:2]
    assert first.get_title() == "linen SimpleCell"
    assert len(first.lines) == 1
    assert not second.lines
    plt.close(drawn)


@pytest.mark.slow
def test_results_of_no_preset_are_drawn_from_their_file(tmp_path, monkeypatch, capsys):
    config, parts = made_up()
    dataset = phase_diagram.laid_out(config, parts)
    dataset = results.described(dataset, config, device="cpu", seconds=1.0)
    path = results.write(dataset, tmp_path / "phase_diagram" / "custom_abc-float32.nc")
    monkeypatch.setattr(command_line, "OUT", tmp_path / "out")
    with pytest.raises(SystemExit) as left:
        command_line.main(("phase_diagram",), file=path)
    assert not left.value.code
    assert (tmp_path / "out" / "phase_diagram-custom_abc-float32.png").stat().st_size > 10_000
    with pytest.raises(SystemExit) as left:
        command_line.main(("phase_diagram",), file=path.with_name("custom_abd-float32.nc"))
    assert left.value.code == 1
    assert "with the options that it was made with" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--file: received 2 names"):
        command_line.main(("phase_diagram", "benchmarks"), file=path)


def test_options_override_the_preset_and_a_preset_has_its_own_file():
    command = phase_diagram_options.parsed(
        ["--preset", "quick", "--cell", "LSTMCell", "--gains", "0.5", "4", "24", "--seeds", "5"]
    )
    expected = dataclasses.replace(
        PRESETS["quick"], cells=("LSTMCell",), gains=(0.5, 4.0, 24), seeds=5
    )
    assert command.sweep == expected
    assert phase_diagram.result_path(command.sweep).name.startswith("custom_")
    assert phase_diagram.result_path(PRESETS["full"]).name == "full-float32.nc"
    assert phase_diagram_options.parsed([]).sweep == PRESETS["default"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--gains 4 0.5 3", "--gains"),
        ("--horizons 5 0", "--horizons"),
        ("--seeds 0", "--seeds"),
        ("--cells GRUCell GRUCell", "--cells"),
        ("--learning-rates -1", "--learning-rates"),
        ("--sequences 1", "--sequences"),
        ("--chunk-size 0", "--chunk-size"),
        ("--devices 0", "--devices"),
        ("--devices 2 --device gpu", "for a CPU only"),
        ("--processes 0", "--processes"),
        ("--processes 2 --distributed", "--processes"),
        ("--devices 100000000", "--devices"),
        ("--coordinator nowhere --num-processes 2 --process-id 1", "expected HOST:PORT"),
        ("--coordinator here:70000 --num-processes 2 --process-id 1", "from 1 to 65535"),
        ("--distributed --coordinator a:1 --num-processes 2 --process-id 1", "give one of them"),
        ("--process-id 1", "all three"),
        ("--coordinator a:1 --num-processes 2 --process-id 2", "--process-id"),
        ("--cells NoCell", ""),
        ("--preset huge", ""),
    ],
)
def test_options_that_cannot_be_computed_are_refused_by_name(arguments, said):
    with pytest.raises(SystemExit) as left:
        phase_diagram_options.parsed(arguments.split())
    assert left.value.code not in (0, None)
    assert said in str(left.value.code)
