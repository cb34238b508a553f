"""A file has either its old or its new content, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torchreg._serialization import remove_leftovers, write_atomically

OLD, NEW = b"old" * 1000, b"new" * 50_000

ATOMIC_WRITE = sys.modules[write_atomically.__module__]

#: A script that forks children. It runs the module as a file, because importing torch takes long.
CHILDREN = """
import os, random, runpy, signal, sys, time
from pathlib import Path

write_atomically = runpy.run_path(sys.argv[2])["write_atomically"]
file = Path(sys.argv[1])
OLD, NEW = b"old" * 1000, b"new" * 50_000

def fork(work):
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child
"""


def run(script: str, file: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN + script, str(file), str(ATOMIC_WRITE.__file__)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_new_file_has_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", NEW)
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "ours")]
    assert modes[0] == modes[1]
    assert (tmp_path / "ours").read_bytes() == NEW


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "private"
    file.write_bytes(OLD)
    file.chmod(0o600)
    write_atomically(file, NEW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == NEW


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    file.write_bytes(OLD)
    link.symlink_to(file)
    write_atomically(link, NEW)
    assert link.is_symlink() and file.read_bytes() == NEW


def test_a_name_can_have_255_bytes(tmp_path: Path) -> None:
    write_atomically(str(tmp_path / ("n" * 255)), NEW)
    with pytest.raises(OSError, match="name too long"):
        write_atomically(tmp_path / ("n" * 256), NEW)


def test_a_folder_or_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(IsADirectoryError, match="A file is expected, this is a folder"):
        write_atomically(tmp_path, NEW)
    for missing in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match=f"There is no such folder: '{missing}'"):
            write_atomically(missing / "new", NEW)
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("call", ["open", "chmod", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_write_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    file = tmp_path / "file"
    file.write_bytes(OLD)

    def fail(*_: object) -> None:
        raise error

    if call == "open":  # As in a read-only folder.
        monkeypatch.setattr(ATOMIC_WRITE, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_atomically(file, NEW)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == OLD


def test_a_file_is_written_even_if_its_folder_cannot_be_synchronized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush: Callable[[int], None] = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_disk_that_fills_up_during_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(OLD)
    # The kernel refuses to let a file grow beyond 64 kB.
    done = run(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))\n"
        "try:\n"
        "    write_atomically(file, NEW)\n"
        "except OSError as error:\n"
        "    print(error)\n",
        file,
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == OLD


def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    done = run(
        "random.seed(0)\n"
        "seen = set()\n"
        "for moment in range(25):\n"
        "    file.write_bytes(OLD)\n"
        "    def work():\n"
        "        while True:\n"
        "            write_atomically(file, NEW)\n"
        "            write_atomically(file, OLD)\n"
        "    child = fork(work)\n"
        "    time.sleep(random.uniform(0, 0.02))\n"
        "    os.kill(child, signal.SIGKILL)\n"
        "    os.waitpid(child, 0)\n"
        "    assert file.read_bytes() in (OLD, NEW), moment\n"
        "    seen.add(file.read_bytes())\n"
        "print(len(seen))\n",
        file,
    )
    assert done.stdout == "2\n"


def test_two_processes_that_write_one_file_never_mix_their_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    run(
        "def work(content):\n"
        "    for _ in range(40):\n"
        "        write_atomically(file, content)\n"
        "children = [fork(lambda: work(OLD)), fork(lambda: work(NEW))]\n"
        "while children:\n"
        "    assert not file.exists() or file.read_bytes() in (OLD, NEW)\n"
        "    children = [c for c in children if os.waitpid(c, os.WNOHANG) == (0, 0)]\n"
        "assert file.read_bytes() in (OLD, NEW)\n"
        "assert list(file.parent.iterdir()) == [file]\n",
        file,
    )


def test_only_leftovers_of_the_given_file_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / ("n" * 255), tmp_path / "other"
    with monkeypatch.context() as patch:
        # As if the process were killed before the renaming.
        patch.setattr(os, "replace", lambda *_: None)
        write_atomically(file, NEW)
        write_atomically(other, NEW)
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(file, OLD)
    remove_leftovers(file)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert left[0].startswith(".") and left[1] == file.name
    remove_leftovers(other)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
