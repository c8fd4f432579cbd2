"""Tutorials: scripts that run while the site is built, and become pages with what they show.

A script is in jupytext's percent format: `# %% [markdown]` begins prose, and `# %%` code. What a
cell of code prints stands below it, and so does the figure that it shows, with the cell's
`alt="..."` as the text for those who cannot see it. A cell tagged "check" asserts what the prose
says. It runs, and is not shown.
"""

import base64
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient

# Figures of twice the resolution, for small print on good screens.
SETUP = "%config InlineBackend.figure_formats = ['retina']"
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "NPROC": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class TutorialPage(NamedTuple):
    """A page of Markdown, and the pictures in it by name."""

    text: str
    pictures: dict[str, bytes]


@cache
def run_tutorial(name: str, script: str, folder: Path) -> TutorialPage:
    """Run a script cell by cell, and write its page. The same script is run once in a process.

    Args:
        name: with which the names of its pictures begin.
        script: its text.
        folder: in which it runs.

    Raises:
        CellExecutionError: a cell raises.
        ValueError: a cell writes to stderr, as warnings do, or shows a figure and has no `alt`.
    """
    notebook = jupytext.reads(script, fmt="py:percent")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP, metadata={"tags": ["check"]}))
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    client.create_kernel_manager().transport = "ipc"  # nothing goes through the network
    client.execute(env=os.environ | SETTINGS | {"PYTHONPATH": paths})
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif "check" not in cell.metadata.get("tags", []):
            parts += [f"```python\n{cell.source}\n```", *_shown(name, cell, pictures)]
    return TutorialPage("\n\n".join(parts) + "\n", pictures)


def _shown(name: str, cell: Any, pictures: dict[str, bytes]) -> list[str]:
    """Write what a cell prints and shows, and add its pictures to those of the page."""
    streams = {"stdout": "", "stderr": ""}
    links = []
    for output in cell.outputs:
        if output.output_type == "stream":
            streams[output.name] += output.text
        elif "image/png" in output.data:
            picture = f"{name}_{len(pictures) + 1}.png"
            pictures[picture] = base64.b64decode(output.data["image/png"])
            width = output.metadata["image/png"]["width"]
            links.append(f'![{cell.metadata.get("alt")}]({picture}){{ width="{width}" }}')
        else:
            streams["stdout"] += output.data["text/plain"] + "\n"
    if streams["stderr"]:
        message = f"{name}: received warnings, expected none:\n{streams['stderr']}"
        raise ValueError(message)
    if links and not cell.metadata.get("alt"):
        message = f'{name}: received a figure, expected # %% alt="..." above\n{cell.source}'
        raise ValueError(message)
    printed = [f"```text\n{streams['stdout'].rstrip()}\n```"] if streams["stdout"] else []
    return printed + links
