"""The file from which a fit goes on whose process was killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from torchreg._serialization import (
    ImportAllowlist,
    Reader,
    Writer,
    read_file,
    remove_leftovers,
    write_file,
)
from torchreg.exceptions import CheckpointError, FileError

#: Seconds between two writes, at least, ...
INTERVAL = 10.0
#: ... and so many times as long as a write takes, so that writing costs a fiftieth of the fit.
PAUSE = 50.0


class Checkpoint:
    """Keeps the state of one fit in a file; see :meth:`torchreg.TorchRegressor.fit`.

    Parameters
    ----------
    path : path
        Of the file.
    description : dict of str to str
        Digests of all that the fit depends on, by name.
    seed : int
        Of the fit.
    state : dict or None
        What an earlier process left; ``None`` if it, or this one, has just begun.
    """

    def __init__(
        self, path: Path, description: dict[str, str], seed: int, state: dict[str, Any] | None
    ) -> None:
        self.path, self.description, self.seed, self.state = path, description, seed, state
        self.next_write = time.monotonic() + INTERVAL

    def load(self) -> dict[str, Any] | None:
        """Give the state to go on from; ``None`` begins anew."""
        return self.state

    def save(self, state: Callable[[], dict[str, Any]], *, ended: bool) -> None:
        """Write the state, if it is time."""
        began = time.monotonic()
        if not ended and began < self.next_write:
            return
        self.write(state())
        now = time.monotonic()
        self.next_write = now + max(INTERVAL, PAUSE * (now - began))

    def write(self, state: dict[str, Any] | None) -> None:
        """Write a state.

        Raises
        ------
        CheckpointError
            If it cannot be written. The file still holds the one before.
        """
        writer = Writer()
        content = {"description": self.description, "seed": self.seed, "state": state}
        try:
            written = writer.write(content, path="")
            write_file(self.path, {"checkpoint": written}, writer.tensors)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} cannot be written: {error}. What it held "
                "before is whole. Make room for it or give another path, and call fit again."
            ) from error
        except TypeError as error:
            raise CheckpointError(
                f"The optimizer remembers what no checkpoint can hold: {error}. Choose another, "
                "or fit without checkpoint."
            ) from error


def open_checkpoint(
    path: str | os.PathLike[str],
    description: Callable[[], dict[str, str]],
    seed: Callable[[], int],
) -> AbstractContextManager[Checkpoint]:
    """Open the file of a fit, for this process alone: the one that is there, or a new one.

    Parameters
    ----------
    path : str or path
        Of the file.
    description : callable
        Gives the digests of all that the fit depends on, by name.
    seed : callable
        Draws the seed of a fit that begins.

    Raises
    ------
    CheckpointError
        On entry, if it is that of another fit, another process uses it, it is damaged, or
        cannot be written.
    TypeError
        If ``path`` is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"checkpoint expects the path of a file, or None, got {path!r}.")
    return _opened(Path(path), description, seed)


@contextmanager
def _opened(
    path: Path, description: Callable[[], dict[str, str]], seed: Callable[[], int]
) -> Iterator[Checkpoint]:
    with ExitStack() as held:
        lock = FileLock(path.with_name(f"{path.name}.lock"), blocking=False)
        try:
            os.stat(path.parent)  # filelock would create a missing folder.
            held.enter_context(lock)
        except Timeout as error:
            raise CheckpointError(
                f"The checkpoint {str(path)!r} is in use by another fit that is still running. "
                "Give each fit a path of its own."
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {str(path)!r} cannot be written: {error}. Give the path of a file "
                "in a folder that exists and can be written to."
            ) from error
        held.callback(_remove, lock.lock_file)
        remove_leftovers(path)
        if path.exists():
            yield _read(path, description())
            return
        checkpoint = Checkpoint(path, description(), seed(), None)
        # If it cannot be written, it is better to know before the training.
        checkpoint.write(None)
        yield checkpoint


def _remove(lock_file: str) -> None:
    """Remove a lock file while it is locked; filelock does not lock a file without a name."""
    with suppress(OSError):  # Windows removes no open file; there filelock removes it.
        os.unlink(lock_file)


def _read(path: Path, description: dict[str, str]) -> Checkpoint:
    try:
        record, tensors = read_file(path)
        content = Reader(tensors, ImportAllowlist()).read(record.get("checkpoint"))
        if not isinstance(content, dict) or content.keys() != {"description", "seed", "state"}:
            raise FileError(f"{path}: the file is no checkpoint.")
    except (OSError, FileError) as error:
        raise CheckpointError(
            f"The checkpoint cannot be read: {error} Delete the file, or give another path, to "
            "begin anew."
        ) from error
    before = content["description"]
    changed = [
        name
        for name in sorted(before.keys() | description.keys())
        if before.get(name) != description.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} was written by another fit: {', '.join(changed)} "
            f"{'differ' if len(changed) > 1 else 'differs'}. To go on with that one, call fit as "
            "then; to begin anew, delete the file or give another path."
        )
    return Checkpoint(path, description, content["seed"], content["state"])
