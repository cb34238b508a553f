"""A lock that two processes cannot hold at once, and that dies with the process that holds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType


class FileLock:
    """Holds a file so that nobody else, in this process or another, can hold it too.

    The operating system lets go of it when the process ends, however it ends.

    Parameters
    ----------
    path : str or path
        A file that is made for this, and removed afterwards.

    Raises
    ------
    BlockingIOError
        On entry, if somebody holds it.
    OSError
        On entry, if it cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FileLock(Path(folder, "a.lock")):
    ...         pass
    ...     os.listdir(folder)
    []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> FileLock:
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(self.descriptor)
                # Whoever held it before may have removed it between the two lines above.
                if _is_same_file(self.descriptor, self.path):
                    return self
            except BaseException:
                os.close(self.descriptor)
                raise
            os.close(self.descriptor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if sys.platform != "win32":  # There, a file that is open cannot be removed.
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
