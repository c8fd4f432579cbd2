"""What the site shows beside its own texts: a hook of MkDocs.

Pages and pictures are used where they lie in the repository, and links between them are written as
they work there. The pages of the API are made from the names that the package shows. The gallery is
completed from the catalogue of experiments and from the claims. Tutorials are scripts, which run
while the site is built.
"""

import ast
import os
import posixpath
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from tutorial_pages import TutorialPage, run_tutorial  # noqa: E402

from experiments import catalogue  # noqa: E402

PACKAGE = ROOT / "jacobian_rnn"
# Files outside docs/ and their places on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    ".github/CONTRIBUTING.md": "contributing.md",
    "experiments/README.md": "experiments.md",
    "paper_figures/README.md": "figures.md",
}
# A link of Markdown: its text, and where it goes without what follows #.
LINK = re.compile(
    r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)"
)
FIGURE = re.compile(r"^!\[[^\]]*\]\(\S*?gallery/(?P<name>\w+)\.png\)$", re.MULTILINE)


@cache
def places() -> dict[str, str]:
    """Return the place on the site of each file of the repository that it shows."""
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pictures = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("paper_figures/gallery/*.png")
    }
    scripts = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/tutorials/*.py")}
    return (
        ELSEWHERE
        | {source: source.removeprefix("docs/") for source in docs if "/site/" not in source}
        | {source: source.removeprefix("paper_figures/") for source in pictures}
        | {source: re.sub(r"^docs/(.*)\.py$", r"\1.md", source) for source in scripts}
    )


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository, the pages of the API, and what tutorials show."""
    for source, place in places().items():
        if not source.endswith(".py"):
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for source, page in tutorials().items():
        files.append(File.generated(config, places()[source], content=page.text))
        for name, picture in page.pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
    for place, text in api_pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def tutorials() -> dict[str, TutorialPage]:
    """Run the tutorials, one on each core, and return their pages by their scripts."""
    scripts = [source for source in places() if source.endswith(".py")]

    def run(source: str) -> TutorialPage:
        return run_tutorial(ROOT / source, (ROOT / source).read_text(encoding="utf-8"), ROOT)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(scripts, pool.map(run, scripts), strict=True))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to places on the site, and complete the gallery."""
    place = page.file.src_uri
    source = next((source for source, known in places().items() if known == place), None)
    if source is None:  # made by this hook
        return markdown
    if place == "gallery.md":
        markdown = complete_gallery(markdown)
    return relink(markdown, source, place)


def relink(markdown: str, source: str, place: str) -> str:
    """Write each relative link of a file of the repository as it works at its place on the site."""

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["path"]))
        if target in places():
            path = posixpath.relpath(places()[target], posixpath.dirname(place) or ".")
        elif not (ROOT / target).exists() and target.startswith("docs/"):
            path = found["path"]  # a page that this hook makes; MkDocs checks it
        else:
            message = f"{source}: received a link to {found['path']}, expected a file of the site"
            raise ValueError(message)
        return f"{found['text']}({path}{found['anchor'] or ''})"

    # Code is no place for links.
    parts = re.split(r"(^```.*?^```$|`[^`\n]*`)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def complete_gallery(markdown: str) -> str:
    """Put commands and claims under each picture."""
    sections = re.split(r"(?=^## )", markdown, flags=re.MULTILINE)
    for i, section in enumerate(sections):
        for name in FIGURE.findall(section):
            sections[i] = f"{section.rstrip()}\n\n{about(name)}\n\n"
    counted = f"Of the default presets, {claims()[1]}"
    return "".join(sections).replace("<!-- summary of claims -->", counted)


def about(name: str) -> str:
    """Say what an experiment does, how its figure is made, and which of its claims fail."""
    known = catalogue.EXPERIMENTS.get(name)
    said = f"The experiment {known.summary}." if known else "It measures accuracy and speed."
    command = catalogue.command(name, "default", catalogue.dtype_of(name))
    command = command.removesuffix(" --preset default")
    lines = [said, f"```sh\n{command}\npython -m paper_figures {name}\n```"]
    verdicts, _, failures = claims()
    if name in verdicts:
        words = {"holds": "hold", "fails": "fail", "not decided": "not decided"}
        counts = (
            f"{n} {words.get(verdict, verdict)}" for verdict, n in verdicts[name].items() if n
        )
        lines.append(f"[Claims](claims.md): {', '.join(counts)}.")
    return "\n\n".join([*lines, *(f"**Fails:** {sentence}" for sentence in failures.get(name, []))])


@cache
def claims() -> tuple[dict[str, dict[str, int]], str, dict[str, list[str]]]:
    """Read docs/claims.md: verdicts of each figure, the line that counts them, and what fails."""
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    verdicts: dict[str, dict[str, int]] = {}
    for row in re.findall(r"^\| (\w+) \| .* \| ([a-z ]+) \|$", text, re.MULTILINE):
        if row[0] != "figure":
            counts = verdicts.setdefault(row[0], {"holds": 0, "fails": 0, "not decided": 0})
            counts[row[1]] = counts.get(row[1], 0) + 1
    (summary,) = re.findall(r"^\d+ of \d+ claims hold.*$", text, re.MULTILINE)
    failures: dict[str, list[str]] = {}
    for name, sentence in re.findall(r"^- (\w+): (.*)$", text, re.MULTILINE):
        failures.setdefault(name, []).append(sentence)
    return verdicts, summary, failures


def title(name: str) -> str:
    """Write the name of a folder as words."""
    return name.replace("_", " ").capitalize()


def public_names() -> dict[str, list[str]]:
    """Return what each folder of the package shows, by the paths under which users know them."""
    top = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {}
    for node in top.body:
        if isinstance(node, ast.ImportFrom) and node.module != "jacobian_rnn":
            folder = str(node.module).split(".")[1]
            names.setdefault(folder, []).extend(alias.name for alias in node.names)
    paths = {
        folder: [f"jacobian_rnn.{name}" for name in sorted(known)]
        for folder, known in names.items()
    }
    for init in sorted(PACKAGE.glob("*/__init__.py")):
        folder = init.parent.name
        own = [name for name in shown_by(init) if name not in names.get(folder, [])]
        paths.setdefault(folder, []).extend(f"jacobian_rnn.{folder}.{name}" for name in own)
    return {folder: known for folder, known in paths.items() if known}


def shown_by(init: Path) -> list[str]:
    """Return `__all__` of a module, read and not run."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def api_pages() -> dict[str, str]:
    """Write a page for each folder of the package, and one that lists them."""
    pages, rows = {}, []
    for folder, paths in public_names().items():
        module = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
        said = str(ast.get_docstring(module)).split("\n")[0]
        parts = [f"# {title(folder)}", said, *(f"::: {path}" for path in paths)]
        pages[f"api/{folder}.md"] = "\n\n".join(parts) + "\n"
        links = ", ".join(f"[`{path.rpartition('.')[2]}`][{path}]" for path in paths)
        rows.append(f"## [{title(folder)}]({folder}.md)\n\n{said}\n\n{links}")
    head = (
        "# API\n\nNames of `jacobian_rnn` itself come first on each page, and those of the folder "
        "after them. `import jacobian_rnn as jrnn` is how the examples call it."
    )
    return pages | {"api/index.md": "\n\n".join([head, *rows]) + "\n"}
