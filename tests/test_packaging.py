"""What is built and shipped has everything that runs."""

import configparser
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import jacobian_rnn as jrnn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jacobian_rnn"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def shipped_files():
    """List the files of the package, as paths in it, without what Python makes."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build wheel and source."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


@pytest.mark.slow
def test_the_wheel_has_the_package_with_its_data_the_command_and_the_mark_of_types(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        parser = configparser.ConfigParser()
        parser.read_string(wheel.read(entries).decode())
    assert shipped_files() <= names
    assert "jacobian_rnn/py.typed" in names
    data = {name for name in shipped_files() if not name.endswith((".py", ".typed"))}
    assert {name.rpartition(".")[2] for name in data} >= {"json", "jinja"}
    module, _, function = parser["console_scripts"]["jacobian-rnn"].partition(":")
    assert f"{module.replace('.', '/')}.py" in names
    assert callable(getattr(__import__(module, fromlist=[function]), function))
    # Tests, experiments and figures are no part of it.
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jacobian_rnn"}


@pytest.mark.slow
def test_the_source_has_all_that_the_tests_and_the_site_need(built):
    with tarfile.open(built[1]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert shipped_files() <= names
    for path in ("README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "docs/mkdocs.yml"):
        assert path in names
    assert not {name for name in names if name.startswith(("results/", "paper_figures/out/"))}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == citation["preferred-citation"]["version"] == VERSION
    assert Path(jrnn.__file__).parent == PACKAGE  # what is tested is what is here


def test_workflows_and_templates_are_yaml_and_use_extras_that_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for path in (*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"):
        text = path.read_text()
        assert isinstance(yaml.safe_load(text), dict), path
        for asked in ("test", "dev", "report"):
            if f"[{asked}]" in text:
                assert asked in extras


def test_the_lower_bounds_are_tried_as_contributors_are_told():
    """On the oldest Python that the package allows: not all of them are built for newer ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    told = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    assert f'python: "{oldest}", resolution: lowest-direct' in workflow
    assert f"python{oldest} -m venv lowest" in told
    assert "--resolution lowest-direct -e '.[test]'" in told
    extras = project["optional-dependencies"].values()
    for requirement in (*project["dependencies"], *(one for extra in extras for one in extra)):
        assert ">=" in requirement or requirement.startswith("jacobian_rnn["), requirement
