"""What a person sees while chunks are computed."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:  # it imports JAX
    from experiments.runner.chunks import Chunk


class Display:
    """On a terminal a bar for all chunks and one for each at work, elsewhere a line when one ends.

    Args:
        console: where it is shown.
        chunks: those that are to be computed.
    """

    def __init__(self, console: Console, chunks: "Sequence[Chunk]"):
        """Prepare the bars. None is shown yet."""
        self.console = console
        self.chunks = {chunk.name: chunk for chunk in chunks}
        self.total = sum(chunk.cost for chunk in chunks)
        self.num_done, self.done = 0, 0.0
        self.started = time.perf_counter()
        self.progress = Progress(
            TextColumn("{task.fields[what]:<44}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
        )
        self.bars: dict[str, TaskID] = {}
        self.all = self.progress.add_task("", total=self.total, what=f"0 of {len(chunks)} chunks")

    def __enter__(self) -> "Display":
        """Show the bars, where there is something to do and a terminal."""
        if self.chunks and self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bars as they are."""
        self.progress.stop()

    def report(self, name: str, what: str, fraction: float) -> None:
        """Show what is being done on a chunk, and which fraction of it is done."""
        if not self.console.is_terminal:
            return
        if name not in self.bars:
            self.bars[name] = self.progress.add_task("", total=1.0, what="")
        self.progress.update(self.bars[name], what=f"{name}: {what}", completed=fraction)

    def finish(self, name: str, error: str | None = None) -> None:
        """Count a chunk that has ended, and say how if it failed."""
        self.num_done += 1
        self.done += self.chunks[name].cost
        counted = f"{self.num_done} of {len(self.chunks)} chunks, {self._left()}"
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))
        self.progress.update(self.all, completed=self.done, what=counted)
        if error is not None or not self.console.is_terminal:
            ended = "done" if error is None else f"failed: {error}"
            self.console.print(
                f"{name} {ended}; {counted}", highlight=False, markup=False, soft_wrap=True
            )

    def _left(self):
        seconds = time.perf_counter() - self.started
        return f"about {duration(seconds / self.done * (self.total - self.done))} left"


def duration(seconds: float) -> str:
    """Write a duration in words."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
