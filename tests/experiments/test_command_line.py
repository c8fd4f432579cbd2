import importlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from rich.console import Console

from experiments import __main__ as experiments_command
from experiments import catalogue, results, run_all
from paper_figures import __main__ as figures_command
from paper_figures import claims, style
from tests.networks import mostly_slow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", catalogue.EXPERIMENTS)
def test_an_experiment_has_what_the_command_line_relies_on(name):
    module = catalogue.module_of(name)
    assert set(module.PRESETS) == {"quick", "default", "full"}
    assert {preset.dtype for preset in module.PRESETS.values()} == {catalogue.dtype_of(name)}
    assert callable(module.run)
    assert name == module.NAME
    if own := catalogue.EXPERIMENTS[name].own_options:
        assert callable(importlib.import_module(f"experiments.{own}").main)


def test_every_module_that_runs_is_in_the_catalogue_and_has_a_figure():
    runs = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if "\nNAME = " in (text := path.read_text()) and "\ndef run(" in text
    }
    assert runs == set(catalogue.EXPERIMENTS)
    assert set(figures_command.NAMES) == runs | {catalogue.BENCHMARKS}
    rows = (ROOT / "paper_figures" / "README.md").read_text().splitlines()
    listed = [row.split("|")[1].strip() for row in rows if row.startswith("|")]
    assert listed[2:] == list(figures_command.NAMES)


def says(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_lines_explain_themselves_and_refuse_what_they_do_not_know():
    shown = says("experiments", "--help")
    assert shown.returncode == 0
    assert "--preset" in shown.stdout
    assert all(name in shown.stdout for name in (*catalogue.EXPERIMENTS, "all", "show"))
    refused = says("paper_figures", "no_such_name")
    assert refused.returncode == 1
    assert "regime_versus_training" in refused.stderr
    with pytest.raises(SystemExit, match="expected one of regime_versus_training"):
        experiments_command.main("no_such_name")
    with pytest.raises(SystemExit, match="at least 0"):
        experiments_command.main("full_spectrum", workers=-1)
    with pytest.raises(SystemExit, match="name it first"):
        experiments_command.main("phase_diagram")


def run_all_of(monkeypatch, scripts, **options):
    """Run little scripts in place of experiments."""
    names = dict.fromkeys(scripts, catalogue.Experiment(""))
    monkeypatch.setattr(catalogue, "EXPERIMENTS", names)
    monkeypatch.setattr(run_all, "_command", lambda name, *_: [sys.executable, "-c", scripts[name]])
    text = io.StringIO()
    code = run_all.run("quick", console=Console(file=text, width=200), **options)
    return code, text.getvalue()


def test_one_failing_experiment_does_not_stop_the_others_and_is_named_with_its_reason(
    monkeypatch, capfd
):
    code, text = run_all_of(
        monkeypatch,
        {"first": "raise ValueError('no luck')", "second": "print('done')", "third": "exit(3)"},
    )
    assert code == 1
    outcome = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "failed: ValueError: no luck" in outcome["first"]
    assert "made" in outcome["second"]
    assert "failed: exit status 3" in outcome["third"]
    assert "paper_figures --preset quick" in text
    shown = capfd.readouterr()
    assert "done" in shown.out
    assert "no luck" in shown.err
    assert run_all_of(monkeypatch, {"only": ""})[0] == 0


def test_experiments_side_by_side_are_shown_whole_when_they_end(monkeypatch, tmp_path, capfd):
    meet = "import sys, time\nfrom pathlib import Path\n"
    wait = f"while not Path({str(tmp_path / 'met')!r}).exists(): time.sleep(0.01)\n"
    code, text = run_all_of(
        monkeypatch,
        {
            "first": meet + "print('one', flush=True)\n" + wait + "print('two')\nsys.exit('bad')",
            "second": meet + f"Path({str(tmp_path / 'met')!r}).touch()\nprint('three')",
        },
        at_once=2,  # one after another the first would wait forever
    )
    assert code == 1
    assert "one\ntwo\n" in text
    assert "three" in text
    assert "failed: bad" in text
    assert "together" in text
    assert text.index("2 of 2: second") < text.index("three")
    assert "bad" in capfd.readouterr().err


def test_options_reach_an_experiment_in_its_own_words():
    command = run_all._command("phase_diagram", "quick", "cpu", None, 3)
    assert command[2:4] == ["experiments", "phase_diagram"]
    assert command[-4:] == ["--device", "cpu", "--processes", "3"]
    # Without workers each works in its own process: of phase_diagram that is the first of one.
    assert run_all._command("phase_diagram", "quick", "cpu", None, 0)[-2:] == ["--processes", "1"]
    assert run_all._command("full_spectrum", "quick", "cpu", None, 0)[-2:] == ["--workers", "0"]
    command = run_all._command("full_spectrum", "full", "gpu", "float32", None)
    assert command[-4:] == ["--device", "gpu", "--dtype", "float32"]


STOPPED = """
import sys
from experiments import catalogue, run_all
child = f'''
import sys, tempfile, time
try:
    print("started", flush=True)
    tempfile.mkstemp(dir={sys.argv[2]!r})
    time.sleep(60)
except KeyboardInterrupt:
    print("saved", flush=True)
    sys.exit(130)
'''
catalogue.EXPERIMENTS = dict.fromkeys(("first", "second", "third"), catalogue.Experiment(""))
run_all._command = lambda name, *_: [sys.executable, "-c", child]
run_all.stop_in_order()
sys.exit(run_all.run("quick", at_once=int(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("how", "at_once"),
    mostly_slow(
        [(how, at_once) for how in (signal.SIGINT, signal.SIGTERM) for at_once in (1, 2)],
        [(signal.SIGINT, 2), (signal.SIGTERM, 1)],
    ),
)
def test_what_is_stopped_lets_experiments_save_and_runs_no_other(how, at_once, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(at_once), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    while len(list(tmp_path.iterdir())) < at_once:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    shown = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert shown.count("started") == shown.count("saved") == at_once
    assert shown.count("not run") == 3 - at_once


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Give `stored(name)`, the path of a little result with the quick preset's configuration."""
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    monkeypatch.setattr(figures_command, "OUT", tmp_path / "out")
    (tmp_path / "out").mkdir()

    def store(name, **changes):
        config = catalogue.configuration(name, "quick", catalogue.dtype_of(name))
        dataset = results.described(xr.Dataset({"a": 1.0}), config, device="cpu", seconds=1.0)
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
    module = importlib.import_module(f"paper_figures.{good}")
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
    assert f"`python -m experiments {missing} --preset quick`" in said[missing]
    assert text.endswith("1 of 1 claims hold\n")
    assert code == 1
    assert f"| {good} | a is 1 |" in (tmp_path / "out" / "claims-quick.md").read_text()
    # Named: what is missing or of another configuration counts; what is well does not.
    assert draw_quick(capsys, missing)[0] == 1
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
