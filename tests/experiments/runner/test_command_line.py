import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import catalogue
from experiments.runner import command_line
from paper_figures import __main__ as figures_command

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", catalogue.EXPERIMENTS)
def test_an_experiment_has_what_the_frame_relies_on(name):
    module = catalogue.module_of(name)
    assert set(module.PRESETS) == {"quick", "default", "full"}
    assert {preset.dtype for preset in module.PRESETS.values()} == {catalogue.dtype_of(name)}
    assert module.__doc__
    for preset in module.PRESETS.values():
        units = module.units(preset)
        assert len({"-".join(unit) for unit in units}) == len(units) > 0
    assert hasattr(module, "work") != hasattr(module, "networks")
    assert callable(module.combine)
    assert callable(module.show)
    fields = {field.name for field in dataclasses.fields(module.PRESETS["default"])}
    assert not fields & {field.name for field in dataclasses.fields(command_line.Command)}
    figure = figures_command.module_of(name)
    assert callable(figure.draw)


@pytest.mark.parametrize("name", catalogue.EXPERIMENTS)
def test_every_field_says_what_it_means(name):
    kind = type(catalogue.module_of(name).PRESETS["default"])
    documented = "\n".join(base.__doc__ or "" for base in kind.__mro__[:-1])
    for field in dataclasses.fields(kind):
        assert f"{field.name}" in documented, field.name


def test_no_experiment_imports_another():
    names = set(catalogue.EXPERIMENTS)
    for name, known in catalogue.EXPERIMENTS.items():
        text = (ROOT / "experiments" / known.folder / f"{name}.py").read_text()
        lines = [line for line in text.splitlines() if "import" in line and "experiments" in line]
        others = {word.strip(",()") for line in lines for word in line.replace(".", " ").split()}
        assert not (others & names) - {known.folder}, lines


def test_every_figure_is_listed_with_what_it_claims():
    rows = (ROOT / "paper_figures" / "README.md").read_text().splitlines()
    listed = [row.split("|")[1].strip() for row in rows if row.startswith("|")]
    assert listed[2:] == list(figures_command.NAMES)


def says(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_lines_explain_themselves_and_refuse_what_they_do_not_know(capsys):
    assert command_line.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*catalogue.EXPERIMENTS, "all", "show"))
    assert command_line.main(["no_such_name"]) == 2
    assert "expected one of regime_versus_training" in capsys.readouterr().err
    refused = says("paper_figures", "no_such_name")
    assert refused.returncode == 1
    assert "regime_versus_training" in refused.stderr


def test_fields_are_options_with_their_meaning_and_a_preset_gives_what_is_not_said(capsys):
    command = command_line.parse(
        "gaussian_products", ["--preset", "quick", "--num-chains", "5", "--workers", "3"]
    )
    quick = catalogue.configuration("gaussian_products", "quick", "float64")
    assert command.config == dataclasses.replace(quick, num_chains=5)
    assert command.workers == 3
    with pytest.raises(SystemExit, match="0"):
        command_line.parse("gaussian_products", ["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "products for each ensemble and width" in shown
    assert "--scheduler" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--num-chains 0", "--num-chains: received 0: .* greater than or equal to 1"),
        ("--widths 4 4", r"--widths: received \(4, 4\): expected each value once"),
        ("--workers -1", "--workers: received -1, expected at least 0"),
        ("--slurm 0", "--slurm: received 0, expected at least 1"),
        ("--workers 2 --scheduler tcp://a:1", "give one of them"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is(options, said):
    with pytest.raises(SystemExit, match=said):
        command_line.parse("gaussian_products", options.split())


def test_a_pipe_that_is_closed_ends_without_a_traceback():
    command = f"{sys.executable} -m experiments --help | head -1"
    shown = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("usage")
    assert not shown.stderr
