"""Links between pages lead somewhere, the front door is small, and the pages tell of everything."""

from pathlib import PurePosixPath

import pytest

from experiments import catalogue
from tests.docs.pages import LINK, PAGES, ROOT, anchors, without_code

GALLERY = {path.stem for path in (ROOT / "paper_figures" / "gallery").glob("*.png")}


@pytest.mark.parametrize("source", PAGES)
def test_links_and_pictures_are_there(source):
    for found in LINK.finditer(without_code(PAGES[source])):
        path, anchor = found["path"], found["anchor"]
        if "://" in path:
            continue
        folder = (ROOT / source).parent
        target = (folder / path).resolve() if path else ROOT / source
        assert target.is_file(), path
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def test_the_readme_is_a_page():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 150
    assert len(readme.split()) <= 900
    assert readme.count("![") == 1


def test_every_experiment_has_a_picture_that_is_on_the_page_of_the_gallery_once():
    assert {*catalogue.EXPERIMENTS, catalogue.BENCHMARKS} == GALLERY
    for name in GALLERY:
        assert PAGES["docs/gallery.md"].count(f"gallery/{name}.png") == 1, name


def test_every_folder_and_experiment_is_told_of():
    contributing = PAGES[".github/CONTRIBUTING.md"]
    for folder in (ROOT / "jacobian_rnn").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`jacobian_rnn/{folder.name}/`" in contributing, folder.name
    for folder in {known.folder for known in catalogue.EXPERIMENTS.values()}:
        assert f"`{folder}/`" in PAGES["experiments/README.md"], folder


def test_pages_are_where_the_site_looks_for_them():
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    for source in PAGES:
        if source.startswith("docs/"):
            assert f": {PurePosixPath(source).relative_to('docs')}\n" in settings, source
