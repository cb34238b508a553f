"""Writing a file so that, whatever happens, the old one or the new one is there, whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is either there whole or not at all.

    The bytes go into a temporary file in the same folder, which takes the name only when
    they are on the disk. A new file has the permissions that any new file would have, and a
    replaced one keeps its own; a symbolic link stays, and what it points to is replaced.

    Parameters
    ----------
    path : str or path
        Where. The folder must exist.
    data : bytes
        What.

    Raises
    ------
    OSError
        If it cannot be written (no such folder, a full disk, no permission). What was there
        before is still there.

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
    temporary = target.with_name(f".{_mark_of(target)}.{secrets.token_hex(8)}.tmp")
    # Like open(path, "w"), which leaves the permissions to the umask; "x" is for nobody else's.
    try:
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
    """Remove what killed writes of a file have left; nobody may be writing it just now."""
    target = Path(os.path.realpath(os.fspath(path)))
    for leftover in target.parent.glob(f".{_mark_of(target)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _mark_of(target: Path) -> str:
    """Shorten a file's name, which may be as long as a name can be, to a part of another."""
    return hashlib.blake2b(os.fsencode(target.name), digest_size=4).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the system can be asked for that."""
    if os.name != "posix":
        return
    # The file is in place by now: a file system that cannot do this has not lost it.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
