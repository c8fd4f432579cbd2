"""The texts of the project: their places, listings, links and headings."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SOURCES = (
    "README.md",
    ".github/CONTRIBUTING.md",
    "experiments/README.md",
    "paper_figures/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.md"))),
)
PAGES = {source: (ROOT / source).read_text(encoding="utf-8") for source in SOURCES}
LISTING = re.compile(
    r"^(?:<!-- (?P<mark>\w+) -->\n)?```python\n(?P<code>.*?)^```\n"
    # What it prints is in a block right after it, or after "prints".
    r"(?:\s*(?:prints[^\n]*\n)?\s*```text\n(?P<printed>.*?)^```)?",
    flags=re.DOTALL | re.MULTILINE,
)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<path>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")


class Listing(NamedTuple):
    """A listing of Python in a page: its mark, its code, and what it is said to print."""

    mark: str | None
    code: str
    printed: str | None


def listings(source: str) -> list[Listing]:
    """Return the listings of a page, in order."""
    return [
        Listing(*found.group("mark", "code", "printed"))
        for found in LISTING.finditer(PAGES[source])
    ]


def commands(source: str) -> list[str]:
    """Return the lines of the command listings of a page, without comments."""
    blocks = "".join(COMMANDS.findall(PAGES[source]))
    return [line.partition(" #")[0].strip() for line in blocks.splitlines()]


def without_code(text: str) -> str:
    """Return a text without its listings and code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE),
        re.MULTILINE,
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
