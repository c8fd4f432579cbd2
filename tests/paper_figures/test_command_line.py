import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import xarray as xr

from experiments import catalogue
from experiments.runner import results
from paper_figures import __main__ as figures_command
from paper_figures import claims, style
from tests.experiments.runner.toy_units import MADE_WITH

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Give `stored(name)`, the path of a little result with the quick preset's configuration."""
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    monkeypatch.setattr(figures_command, "OUT", tmp_path / "out")
    (tmp_path / "out").mkdir()

    def store(name, **changes):
        config = catalogue.configuration(name, "quick", catalogue.dtype_of(name))
        dataset = results.described(xr.Dataset({"a": 1.0}), config, MADE_WITH, seconds=1.0)
        path = results.path_of(name, "quick", config.dtype)
        return results.write(dataset.assign_attrs(**changes), path)

    return store


def draw_quick(capsys, *names):
    with pytest.raises(SystemExit) as left:
        figures_command.main(names, preset="quick")
    shown = capsys.readouterr()
    return left.value.code, shown.out


def test_what_cannot_be_drawn_says_why_and_what_to_do_and_does_not_stop_the_others(
    stored, tmp_path, monkeypatch, capsys
):
    def draw(dataset):
        assert float(dataset["a"]) == 1.0
        return plt.figure()

    def made(dataset):
        return [claims.Claim("a is 1", "us", "a", "within", 1, 0, float(dataset["a"]))]

    good, broken, stale = "full_spectrum", "initialization_audit", "phase_diagram"
    damaged, missing = "calibrate_threshold", "critical_initialization"
    for name in (good, broken):
        stored(name)
    module = figures_command.module_of(good)
    monkeypatch.setattr(module, "draw", draw)
    monkeypatch.setattr(module, "claims", made)
    stored(stale, fingerprint="other", configuration='{"dtype": "float32"}')
    stored(damaged).write_bytes(b"not a result")
    code, text = draw_quick(capsys)
    said = {line.split()[0]: line for line in text.splitlines() if "  " in line[1:]}
    assert " drawn " in said[good]
    assert " failed " in said[broken]
    assert "made with another configuration" in said[stale]
    assert f"`python -m experiments {stale} --preset quick`" in said[stale]
    assert "damaged" in said[damaged]
    assert "not made yet: regime_versus_training, " in text
    assert missing in text
    assert text.endswith("1 of 1 claims hold\n")
    assert code == 1
    assert (
        f"| {good} | reproduction | a is 1 |" in (tmp_path / "out" / "claims-quick.md").read_text()
    )
    # Named: what is missing or of another configuration counts; what is well does not.
    code, text = draw_quick(capsys, missing)
    assert code == 1
    assert f"`python -m experiments {missing} --preset quick`" in text
    assert "0 of 0" in (tmp_path / "out" / "claims-quick.md").read_text()
    assert draw_quick(capsys, stale)[0] == 1
    assert draw_quick(capsys, good)[0] == 0


def test_nothing_to_draw_is_no_failure(stored, capsys):  # noqa: ARG001
    assert draw_quick(capsys)[0] == 0


DRAWN = """
import sys
from pathlib import Path
import numpy as np
from paper_figures import style
import matplotlib.pyplot as plt
style.use()
figure, axes = plt.subplots(layout="constrained")
for place, (colour, marker, line) in enumerate(zip(style.COLOURS, style.MARKERS, style.LINES)):
    axes.errorbar(np.arange(5), place + np.arange(5) ** 2, 0.3, color=colour, marker=marker,
                  linestyle=line, label=f"λ₁, {place}")
axes.pcolormesh(np.eye(4), rasterized=True)
axes.set_title(r"$\\lambda_1 = 0$ and ‖WWᵀ − cI‖")
figure.legend(loc="outside lower center", ncols=4)
style.save(figure, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_figures_are_the_same_bytes_from_run_to_run(tmp_path):
    for run, seed in enumerate("12"):
        # Settings of the user's own, and another order of sets, change nothing.
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "matplotlibrc").write_text(f"lines.linewidth: {1 + run}\n")
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(ROOT),
            "SOURCE_DATE_EPOCH": str(int(time.time()) + run),
        }
        subprocess.run(
            [sys.executable, "-c", DRAWN, folder / "x.1"], cwd=folder, env=environment, check=True
        )
    for suffix in ("png", "pdf"):
        first, second = (tmp_path / seed / f"x.1.{suffix}" for seed in "12")
        assert first.stat().st_size > 5000
        assert first.read_bytes() == second.read_bytes()


def test_a_figure_is_drawn_in_one_style_whatever_was_set_before():
    plt.rcParams["font.size"] = 30
    style.use()
    assert plt.rcParams["font.size"] == style.STYLE["font.size"]
