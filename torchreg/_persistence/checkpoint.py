"""The file from which a fit is resumed after its process was killed."""

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
from torchreg._utils import __version__
from torchreg.exceptions import CheckpointError, FileError

#: The layout of the state. It is raised with every change of the keys, of their meaning or of the
#: arithmetic of a fit; the checkpoint of an earlier layout is refused. The first had no number.
LAYOUT = 2


class Checkpoint:
    """The file with the state of one fit; see :meth:`torchreg.TorchRegressor.fit`.

    Parameters
    ----------
    path : path
    fingerprint : dict of str to str
        Digests of everything that the fit depends on, by name.
    seed : int
        The seed of the fit.
    state : dict or None
        The state to resume from; ``None`` at the beginning of a fit.
    """

    #: The shortest time between two writes in seconds, ...
    MIN_INTERVAL_S = 10.0
    #: ... and in multiples of the time of a write, so that writing takes at most 2 % of the fit.
    MIN_INTERVAL_WRITES = 50.0

    def __init__(
        self, path: Path, fingerprint: dict[str, str], seed: int, state: dict[str, Any] | None
    ) -> None:
        self.path, self.fingerprint, self.seed, self.state = path, fingerprint, seed, state
        self.next_write = time.monotonic() + self.MIN_INTERVAL_S

    def load(self) -> dict[str, Any] | None:
        """Return the state to resume from; ``None`` at the beginning of a fit."""
        return self.state

    def save(self, state: Callable[[], dict[str, Any]], *, ended: bool) -> None:
        """Write the state, unless the last write was recent and the fit has not ended."""
        start = time.monotonic()
        if not ended and start < self.next_write:
            return
        self.write(state())
        now = time.monotonic()
        self.next_write = now + max(self.MIN_INTERVAL_S, self.MIN_INTERVAL_WRITES * (now - start))

    def write(self, state: dict[str, Any] | None) -> None:
        """Write a state.

        Raises
        ------
        CheckpointError
            If it cannot be written. The file still holds the previous state.
        """
        writer = Writer()
        content = {
            "layout": LAYOUT,
            "description": self.fingerprint,
            "seed": self.seed,
            "state": state,
        }
        try:
            written = writer.write(content, path="")
            write_file(self.path, {"checkpoint": written}, writer.tensors)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} cannot be written: {error}. The previous "
                "state is still in the file. Free some space or pass another path, and call fit "
                "again."
            ) from error
        except TypeError as error:
            raise CheckpointError(
                f"A checkpoint cannot hold the state of the optimizer: {error}. Choose another "
                "optimizer, or fit without checkpoint."
            ) from error


def open_checkpoint(
    path: str | os.PathLike[str],
    make_fingerprint: Callable[[], dict[str, str]],
    draw_seed: Callable[[], int],
) -> AbstractContextManager[Checkpoint]:
    """Open or create the checkpoint of a fit, and lock it for this process.

    Parameters
    ----------
    path : str or path
    make_fingerprint : callable
        Returns the digests of everything that the fit depends on, by name.
    draw_seed : callable
        Returns the seed of a new fit.

    Raises
    ------
    CheckpointError
        On entry, if the checkpoint belongs to another fit, is in use, is damaged or cannot be
        written.
    TypeError
        If ``path`` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"checkpoint expects the path of a file, or None, got {path!r}.")
    return _open(Path(path), make_fingerprint, draw_seed)


@contextmanager
def _open(
    path: Path, make_fingerprint: Callable[[], dict[str, str]], draw_seed: Callable[[], int]
) -> Iterator[Checkpoint]:
    with ExitStack() as stack:
        lock = FileLock(path.with_name(f"{path.name}.lock"), blocking=False)
        try:
            os.stat(path.parent)  # filelock would create a missing folder.
            stack.enter_context(_acquire(lock))
        except Timeout as error:
            raise CheckpointError(
                f"The checkpoint {str(path)!r} is in use by another fit that is still running. "
                "Pass a different path for each fit."
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {str(path)!r} cannot be written: {error}. Pass the path of a file "
                "in a folder that exists and is writable."
            ) from error
        stack.callback(_unlink, lock.lock_file)
        remove_leftovers(path)
        if path.exists():
            yield _read(path, make_fingerprint())
            return
        checkpoint = Checkpoint(path, make_fingerprint(), draw_seed(), None)
        checkpoint.write(None)  # A full disk is an error before the training, too.
        yield checkpoint


def _acquire(lock: FileLock) -> AbstractContextManager[Any]:
    """Lock a file, again if another fit ended and removed it after it was opened."""
    while True:
        try:
            return lock.acquire()
        except Timeout:
            if os.path.exists(lock.lock_file):
                raise


def _unlink(lock_file: str) -> None:
    """Remove a locked file; filelock does not lock a file that was removed."""
    with suppress(OSError):  # Windows removes no open file; there filelock removes it.
        os.unlink(lock_file)


def _read(path: Path, fingerprint: dict[str, str]) -> Checkpoint:
    try:
        record, tensors = read_file(path)
        content = Reader(tensors, ImportAllowlist()).read(record.get("checkpoint"))
        if not isinstance(content, dict) or not content.keys() >= {"description", "seed", "state"}:
            raise FileError(f"{path}: The file is not a checkpoint.")
        layout = content.get("layout", 1)
        if layout != LAYOUT:
            raise FileError(
                f"{path}: Another version of torchreg wrote it, with layout {layout}; this version "
                f"({__version__}) reads layout {LAYOUT}. Resume the fit with the version that "
                "began it."
            )
    except (OSError, FileError) as error:
        raise CheckpointError(
            f"The checkpoint cannot be read: {error} Delete the file or pass another path to start "
            "a new fit."
        ) from error
    saved = content["description"]
    changed = [
        name
        for name in sorted(saved.keys() | fingerprint.keys())
        if saved.get(name) != fingerprint.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} was written by another fit: {', '.join(changed)} "
            f"{'differ' if len(changed) > 1 else 'differs'}. To resume that fit, pass the same "
            "parameters and data; to start a new fit, delete the file or pass another path."
        )
    return Checkpoint(path, fingerprint, content["seed"], content["state"])
