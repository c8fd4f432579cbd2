"""Tutorials: scripts that run while the site is built, and become pages with what they show.

`# %% [markdown]` begins prose in a script, and `# %%` code, as editors and jupytext have it. What a
cell of code prints stands below it, and so do its figures, with `# %% alt="..."` as the text for
those who cannot see them. A cell `# %% check` asserts what the prose says. It runs, and is not
shown.
"""

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

CELL = re.compile(
    r'^# %%(?P<kind> \[markdown\]| check)?(?: alt="(?P<alt>[^"]+)")?\n(?P<text>.*?)(?=^# %%|\Z)',
    flags=re.MULTILINE | re.DOTALL,
)
SETTINGS = {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg", "NPROC": "1", "OPENBLAS_NUM_THREADS": "1"}
DPI = 200  # for good screens; a figure is shown at 100 dots per inch


class TutorialPage(NamedTuple):
    """A page of Markdown, and the pictures in it by name."""

    text: str
    pictures: dict[str, bytes]


@cache
def run_tutorial(path: Path, script: str, folder: Path) -> TutorialPage:
    """Run a script in a process of its own, and write its page; the same script runs once.

    Args:
        path: of the script. The names of its pictures begin with its name.
        script: its text.
        folder: in which it runs, and whose modules it can import.

    Raises:
        RuntimeError: the script raises, shows a figure without `alt`, or warns.
    """
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__, str(path)],
        input=script,
        cwd=folder,
        env=os.environ | SETTINGS | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"{path}: expected a script that runs without warnings, received\n{done.stderr}"
        raise RuntimeError(message)
    text, pictures = json.loads(done.stdout)
    return TutorialPage(text, {name: base64.b64decode(data) for name, data in pictures.items()})


def parts_of(path: Path, script: str) -> Iterator[str | dict[str, bytes]]:
    """Run a script cell by cell, and yield the parts of its page and its pictures by name."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in CELL.finditer(script):
        if cell["kind"] == " [markdown]":
            yield re.sub(r"^# ?", "", cell["text"], flags=re.MULTILINE).strip()
            continue
        lines_before = script[: cell.start("text")].count("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * lines_before + cell["text"], str(path), "exec"), names)
        if cell["kind"] == " check":
            continue
        yield f"```python\n{cell['text'].strip()}\n```"
        if printed.getvalue():
            yield f"```text\n{printed.getvalue().rstrip()}\n```"
        for figure in open_figures():
            if not cell["alt"]:
                message = f'line {lines_before}: received a figure, expected # %% alt="..."'
                raise ValueError(message)
            count += 1
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=DPI)
            width = round(100 * figure.get_figwidth())
            name = f"{path.stem}_{count}.png"
            yield f'![{cell["alt"]}]({name}){{ width="{width}" }}'
            yield {name: drawn.getvalue()}


def open_figures() -> Iterator[Any]:
    """Yield the figures that are open, and close each after its use."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        yield plt.figure(number)
        plt.close(number)


def refuse_warning(message: Warning | str, *_: Any) -> None:
    """Raise a RuntimeError for a warning that a reader would see."""
    raise RuntimeError(message)


if __name__ == "__main__":
    warnings.showwarning = refuse_warning
    parts = list(parts_of(Path(sys.argv[1]), sys.stdin.read()))
    texts = [part for part in parts if isinstance(part, str)]
    pictures = {
        name: base64.b64encode(data).decode()
        for part in parts
        if isinstance(part, dict)
        for name, data in part.items()
    }
    print(json.dumps(["\n\n".join(texts) + "\n", pictures]))
