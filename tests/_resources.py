"""What a process holds."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """Bytes of memory, files, threads, and objects that Python's collector follows."""

    memory: int
    files: int
    threads: int
    objects: int


def resources() -> Resources:
    """Count what this process holds; 0 where the system (not Linux) does not say."""
    own = Path("/proc/self")
    known = own.exists()
    pages = int((own / "statm").read_text().split()[1]) if known else 0
    return Resources(
        memory=pages * os.sysconf("SC_PAGE_SIZE") if known else 0,
        files=len(os.listdir(own / "fd")) if known else 0,
        threads=threading.active_count(),
        objects=len(gc.get_objects()),
    )
