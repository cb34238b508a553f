"""Atomic writes: after a crash, a file has either its old or its new content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as a whole or not at all.

    The bytes are written to a temporary file in the same folder, which is renamed once they are on
    the disk. A new file has default permissions, and a replaced one keeps its own. The target
    of a symbolic link is replaced, not the link.

    Parameters
    ----------
    path : str or path
        The folder must exist.
    data : bytes

    Raises
    ------
    OSError
        If the file cannot be written (no such folder, a full disk, no permission). An
        existing file is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_atomically(Path(folder.name, "a.bin"), b"all or nothing")
    >>> Path(folder.name, "a.bin").read_bytes()
    b'all or nothing'
    >>> folder.cleanup()
    """
    target = Path(os.path.realpath(os.fspath(path)))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "A file is expected, this is a folder", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(target.parent))
    temporary = target.with_name(f".{_short_name(target)}.{secrets.token_hex(8)}.tmp")
    try:
        # Not tempfile, whose files ignore the umask; "x" fails if the file exists.
        with open(temporary, "xb") as file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove temporary files of killed writes; no other process may be writing the file."""
    target = Path(os.path.realpath(os.fspath(path)))
    for leftover in target.parent.glob(f".{_short_name(target)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _short_name(target: Path) -> str:
    """Digest a file's name, which may be too long to be extended."""
    return hashlib.blake2b(os.fsencode(target.name), digest_size=4).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush the renaming to the disk, if the system supports it."""
    if os.name != "posix":
        return
    # A file system that does not support this has not lost the file.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
