"""Finished chunks on disk: whole or absent, checked, and safe from a second run."""

import contextlib
import errno
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.runner import results
from experiments.runner.stopping import StoppedError


class ChunkStore:
    """One folder with the chunks of one run, which is told apart by its fingerprint.

    Args:
        folder: of the run; made when it is first locked.
        fingerprint: of everything that decides the numbers. It is stored in each chunk, and a
            chunk with another one is not taken for this run's.
    """

    def __init__(self, folder: Path, fingerprint: str):
        """Name the folder. Nothing is read or written yet."""
        self.folder, self.fingerprint = folder, fingerprint

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. The lock ends with the process, however that ends.

        What an earlier run was writing when it was killed is deleted.

        Raises:
            StoppedError: another process holds it, or the disk is full.
        """
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held while yielding)
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = (
                    f"the same experiment is running already (it holds {self.folder}): wait until "
                    "it ends, or stop it"
                )
                raise StoppedError(msg) from None
            except OSError as error:
                msg = f"{self.folder}: this file system has no locks ({error}); choose a --folder"
                raise StoppedError(msg) from error
            for path in self.folder.glob("*.part"):
                path.unlink(missing_ok=True)
            yield

    def path(self, name: str) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"{name}.nc"

    def has(self, name: str) -> bool:
        """Tell whether a chunk is there. What another machine wrote may be seen a second later."""
        for _ in range(10):
            if self.path(name).is_file():
                return True
            time.sleep(0.1)
        return False

    def save(self, name: str, chunk: xr.Dataset) -> None:
        """Write a chunk, whole or not at all.

        Raises:
            StoppedError: it cannot be written. Chunks saved before are as they were.
        """
        marks = {"fingerprint": self.fingerprint, "chunk": name, "checksum": checksum(chunk)}
        with explained(self.folder):
            results.write(chunk.assign_attrs(marks), self.path(name))

    def load(self, name: str, complain: Callable[[str], None]) -> xr.Dataset | None:
        """Read a chunk, and delete it if it is damaged or not this run's.

        Args:
            name: of the chunk.
            complain: is told in a line why one is deleted.

        Returns:
            Its dataset, None if there is none that can be used.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        chunk = None
        try:
            chunk = results.read(path)
        except ValueError:
            why = "is damaged"
        else:
            marks = chunk.attrs
            if marks.get("fingerprint") != self.fingerprint or marks.get("chunk") != name:
                why = "belongs elsewhere"
            elif marks.get("checksum") != checksum(chunk):
                why = "does not have the contents it was written with"
            else:
                return chunk
        complain(f"{path.name} {why} and is computed again")
        path.unlink(missing_ok=True)
        return None

    def plan(self) -> dict[str, Any] | None:
        """Read what an earlier run decided by measurement, None if there was none.

        Raises:
            StoppedError: the file is damaged. Another decision could differ, and its chunks would
                be rounded otherwise.
        """
        path = self.folder / "plan.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            msg = f"{path} is damaged ({error}): delete {self.folder} to begin again"
            raise StoppedError(msg) from error

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Keep what was decided by measurement, so that it is never measured again."""
        with explained(self.folder):
            results.write_bytes(json.dumps(plan, indent=1).encode(), self.folder / "plan.json")


def checksum(dataset: xr.Dataset) -> str:
    """Return a hash of the names, dimensions, dtypes and bits of all variables."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset[name]
        values = np.ascontiguousarray(variable.to_numpy())
        if values.dtype.kind in "OU":  # texts, which are read back as objects
            values = np.frombuffer(json.dumps(values.tolist()).encode(), np.uint8)
        digest.update(f"{name} {variable.dims} {variable.shape} {values.dtype.str} ".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; make room" if full else f"cannot write ({error})"
        msg = f"{path}: {what}; nothing saved is lost, and the same command goes on from there"
        raise StoppedError(msg) from error
