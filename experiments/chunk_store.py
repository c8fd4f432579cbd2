"""Finished chunks of a sweep on disk: whole or absent, checked, and safe from a second run."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console

from experiments import results

STOPPED = "stopped"


class SweepStoppedError(Exception):
    """A sweep cannot go on; the message says why and what to do. What was saved stays."""


class ChunkStore:
    """One folder with the chunks of one sweep, which is told apart by its fingerprint.

    Args:
        folder: of the sweep; made when it is first locked.
        fingerprint: of everything that decides the numbers. It is stored in each chunk, and a
            chunk with another one is not taken for this sweep's.
        console: where damaged and foreign chunks are reported.
    """

    def __init__(self, folder: Path, fingerprint: str, console: Console):
        """Name the folder; nothing is read or written yet."""
        self.folder, self.fingerprint, self.console = folder, fingerprint, console

    @contextlib.contextmanager
    def locked(self, process: int = 0) -> Iterator[None]:
        """Hold the sweep for this process; the lock ends with the process, however that ends.

        Raises:
            SweepStoppedError: another run of the same sweep holds it, or the disk is full.
        """
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / f"lock-{process}", "w")  # noqa: SIM115 (held while yielding)
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = (
                    f"the same sweep is running already (it holds {self.folder}): wait until it "
                    "ends, or stop it"
                )
                raise SweepStoppedError(msg) from None
            yield

    def unfinished(self, others: Mapping[int, Iterable[str]]) -> bool:
        """Say whether other processes still have chunks to do.

        Args:
            others: by number of the process, the chunks that it does.

        Raises:
            SweepStoppedError: a process stopped, or ended without a word before it was done.
        """
        unfinished = False
        for process, names in others.items():
            # In this order: it ends after it has saved its last chunk.
            running = self._is_running(process)
            if any(not self.path(name).is_file() and self.failure(name) is None for name in names):
                if why := self.stopped():
                    msg = f"another process of this sweep stopped: {why}"
                    raise SweepStoppedError(msg)
                if not running:
                    msg = (
                        f"process {process} of this sweep is gone before its chunks were done; "
                        "finished chunks are saved: start the sweep again"
                    )
                    raise SweepStoppedError(msg)
                unfinished = True
        return unfinished

    def _is_running(self, process):
        try:
            with open(self.folder / f"lock-{process}") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def remove_leftovers(self) -> None:
        """Delete what a killed run was writing, and the marks of what failed or stopped."""
        for pattern in ("*.part", "*.failed", STOPPED):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"{name}.nc"

    def save(self, name: str, chunk: xr.Dataset) -> None:
        """Write a chunk, whole or not at all.

        Raises:
            SweepStoppedError: it cannot be written; chunks saved before are as they were.
        """
        marks = {"fingerprint": self.fingerprint, "chunk": name, "checksum": checksum(chunk)}
        with _explained(self.folder):
            results.write(chunk.assign_attrs(marks), self.path(name))

    def load(self, name: str) -> xr.Dataset | None:
        """Read a chunk; None, with a message, if it is damaged or not this sweep's."""
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            chunk = results.read(path)
        except ValueError:
            return self._refused(path, "is damaged")
        marks = chunk.attrs
        if marks.get("fingerprint") != self.fingerprint or marks.get("chunk") != name:
            return self._refused(path, "belongs elsewhere")
        if marks.get("checksum") != checksum(chunk):
            return self._refused(path, "does not have the contents it was written with")
        return chunk

    def _refused(self, path, why):
        self.console.print(f"{path.name} {why} and is computed again", highlight=False)

    def mark_failed(self, name: str, error: str) -> None:
        """Say, to this and other processes, that a chunk could not be computed."""
        with _explained(self.folder):
            _write_text(error, self.folder / f"{name}.failed")

    def failure(self, name: str) -> str | None:
        """Return why a chunk could not be computed, None if nothing is known of a failure."""
        try:
            return (self.folder / f"{name}.failed").read_text()
        except FileNotFoundError:
            return None

    def mark_stopped(self, why: str) -> None:
        """Tell other processes that this one cannot go on, where the disk still has the room."""
        with contextlib.suppress(OSError):
            _write_text(why, self.folder / STOPPED)

    def stopped(self) -> str | None:
        """Return why another process of this sweep cannot go on, None if nothing is known of it."""
        try:
            return (self.folder / STOPPED).read_text()
        except FileNotFoundError:
            return None

    def plan(self) -> dict[str, Any] | None:
        """Read what an earlier run decided by measurement; None if there was none.

        Raises:
            SweepStoppedError: the file is damaged. Another decision could differ, and its chunks
                would be rounded otherwise.
        """
        path = self.folder / "plan.json"
        if not path.is_file():
            return None
        try:
            plan = json.loads(path.read_text())
        except ValueError as error:
            msg = f"{path} is damaged ({error}): delete {self.folder} to begin again"
            raise SweepStoppedError(msg) from error
        return plan

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Keep what was decided by measurement, so that it is never measured again."""
        with _explained(self.folder):
            _write_text(json.dumps(plan, indent=1), self.folder / "plan.json")


def checksum(dataset: xr.Dataset) -> str:
    """Return a hash of the names, dimensions, dtypes and bits of all variables."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset[name]
        values = np.ascontiguousarray(variable.to_numpy())
        digest.update(f"{name} {variable.dims} {values.shape} {values.dtype.str} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _explained(folder):
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"cannot write ({error})"
        msg = (
            f"{what}: {folder}; nothing saved is lost: make room and give the same command again, "
            "which goes on from there"
        )
        raise SweepStoppedError(msg) from error


def _write_text(text, path):
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
