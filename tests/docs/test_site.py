"""The site is built without a warning, and what it shows can be found."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jacobian_rnn as jrnn
from experiments import catalogue
from tests.docs.pages import PAGES, ROOT

pytest.importorskip("mkdocs")
spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
assert spec is not None
assert spec.loader is not None
site_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site_pages)
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
run_tutorial = site_pages.run_tutorial


def test_every_public_name_has_a_place_in_the_api():
    pages = "\n".join(site_pages.api_pages().values())
    for name in jrnn.__all__:
        if name not in ("mean_field",):  # a page of its own
            assert f"::: jacobian_rnn.{name}\n" in pages, name
    for name in jrnn.mean_field.__all__:
        assert f"::: jacobian_rnn.mean_field.{name}\n" in pages, name


def test_every_folder_of_the_api_is_in_the_navigation():
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    for page in site_pages.api_pages():
        assert f"- {page}\n" in settings, page


def test_every_tutorial_is_in_the_navigation():
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    for script in TUTORIALS:
        assert f": tutorials/{script.stem}.md\n" in settings, script.stem


SCRIPT = """\
# %% [markdown]
# # Title
#
# Prose.

# %%
import matplotlib.pyplot as plt
print(1 + 1)

# %% check
assert True

# %% alt="A line"
plt.plot([0, 1])
plt.show()
"""


def test_a_script_becomes_a_page_with_what_it_prints_and_shows():
    page = run_tutorial(Path("lines.py"), SCRIPT, ROOT)
    assert page.text == (
        "# Title\n\nProse.\n\n"
        "```python\nimport matplotlib.pyplot as plt\nprint(1 + 1)\n```\n\n```text\n2\n```\n\n"
        "```python\nplt.plot([0, 1])\nplt.show()\n```\n\n"
        '![A line](lines_1.png){ width="640" }\n'
    )
    assert page.pictures["lines_1.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SCRIPT.replace("assert True", "assert 1 == 2"), "lines.py., line 11"),
        (SCRIPT.replace(' alt="A line"', ""), "received a figure, expected"),
        (SCRIPT.replace("assert True", "import warnings; warnings.warn('odd')"), "odd"),
    ],
)
def test_a_script_that_fails_or_warns_or_hides_a_figure_is_refused(wrong, message):
    with pytest.raises(RuntimeError, match=message):
        run_tutorial(Path("lines.py"), wrong, ROOT)


def test_links_of_the_repository_become_links_of_the_site():
    text = (
        "[a](docs/concepts/growth.md#growth) ![b](paper_figures/gallery/folklore.png) `[c](d.md)`"
    )
    moved = "[a](concepts/growth.md#growth) ![b](gallery/folklore.png) `[c](d.md)`"
    assert site_pages.relink(text, "README.md", "index.md") == moved
    back = site_pages.relink(
        "[r](../../README.md)", "docs/concepts/growth.md", "concepts/growth.md"
    )
    assert back == "[r](../index.md)"
    with pytest.raises(ValueError, match=r"pyproject\.toml, expected a file of the site"):
        site_pages.relink("[p](pyproject.toml)", "README.md", "index.md")


def test_the_gallery_has_a_command_for_each_figure_and_a_sentence_for_each_claim_that_fails():
    gallery = site_pages.complete_gallery(PAGES["docs/gallery.md"])
    for name in (*catalogue.EXPERIMENTS, catalogue.BENCHMARKS):
        assert f"\npython -m paper_figures {name}\n" in gallery, name
    failed = re.findall(r"^- \w+: (.*)$", PAGES["docs/claims.md"], re.MULTILINE)
    assert len(failed) == len(re.findall(r"\| fails \|$", PAGES["docs/claims.md"], re.MULTILINE))
    for sentence in failed:
        assert f"**Fails:** {sentence}" in gallery
    assert "<!--" not in gallery


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the site, where a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    settings = str(ROOT / "docs" / "mkdocs.yml")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        settings,
        "-d",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_built_whole_and_search_finds_names(built):
    entries = json.loads((built / "search" / "search_index.json").read_text())["docs"]
    found = {entry["location"] for entry in entries if "predict_regime" in entry["title"]}
    assert "api/regimes.html#jacobian_rnn.predict_regime" in found
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for source in re.findall(r'<img[^>]* src="([^"]+)"', text):
            assert "://" not in source, source  # nothing is loaded from elsewhere
            assert (page.parent / source).resolve().is_file(), f"{page.name}: {source}"
        assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL), page


@pytest.mark.slow
def test_pictures_are_those_of_the_repository(built):
    for picture in (ROOT / "paper_figures" / "gallery").glob("*.png"):
        assert (built / "gallery" / picture.name).read_bytes() == picture.read_bytes()
    committed = [path for path in (ROOT / "docs").rglob("*.png") if "site" not in path.parts]
    assert not committed
