import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments import catalogue
from experiments.runner import run_all
from tests.networks import mostly_slow

ROOT = Path(__file__).resolve().parents[3]


def run_all_of(monkeypatch, scripts, **options):
    """Run little scripts in place of experiments."""
    names = dict.fromkeys(scripts, catalogue.Experiment("", ""))
    monkeypatch.setattr(catalogue, "EXPERIMENTS", names)
    monkeypatch.setattr(run_all, "_command", lambda name, *_: [sys.executable, "-c", scripts[name]])
    text = io.StringIO()
    console = Console(file=text, width=200)
    code = run_all.run(
        run_all.Options("quick"), None, console=console, **({"at_once": 1} | options)
    )
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


def test_options_reach_every_experiment():
    command = run_all._command("phase_diagram", run_all.Options("quick"), 0)
    assert command[2:] == [
        *("experiments", "phase_diagram", "--preset", "quick", "--device", "cpu"),
        *("--workers", "0"),
    ]
    options = run_all.Options("full", device="gpu", dtype="float32")
    command = run_all._command("full_spectrum", options, None)
    assert command[-4:] == ["--device", "gpu", "--dtype", "float32"]


def test_fewer_workers_than_none_are_refused():
    with pytest.raises(SystemExit, match="at least 0"):
        run_all.main(["--workers", "-1"])


STOPPED = """
import sys
from rich.console import Console
from experiments import catalogue
from experiments.runner import run_all, stopping
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
catalogue.EXPERIMENTS = dict.fromkeys(("first", "second", "third"), catalogue.Experiment("", ""))
run_all._command = lambda name, *_: [sys.executable, "-c", child]
stopping.stop_in_order()
options = run_all.Options("quick")
sys.exit(run_all.run(options, None, at_once=int(sys.argv[1]), console=Console()))
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
