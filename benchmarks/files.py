"""A fitted regressor as a file: its size, the way out and back, and a row predicted afterwards.

The default regressor, fitted to the penguins; needs the extra ``dev`` for skops.
"""

from __future__ import annotations

import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import skops.io
from _harness import begin, interleave, penguins, table

import torchreg

NOTES = """\
The default regressor (100 hidden units, 200 epochs), fitted to the penguins; medians. *Row* is
`predict` of one row by what was loaded. torchreg's `save` waits until the file is on the disk,
the others do not."""


def save_with_skops(reg: Any, file: str) -> None:
    """Write with skops."""
    skops.io.dump(reg, file)


def load_with_skops(file: str) -> Any:
    """Read with skops; every type in the file is trusted."""
    return skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))


def save_with_pickle(reg: Any, file: str) -> None:
    """Write with pickle."""
    Path(file).write_bytes(pickle.dumps(reg))


def load_with_pickle(file: str) -> Any:
    """Read with pickle."""
    return pickle.loads(Path(file).read_bytes())


#: How each way writes, and how it reads.
WAYS: dict[str, tuple[Callable[[Any, str], Any], Callable[[str], Any]]] = {
    "save, torchreg.load": (lambda reg, file: reg.save(file), torchreg.load),
    "joblib": (joblib.dump, joblib.load),
    "pickle": (save_with_pickle, load_with_pickle),
    "skops": (save_with_skops, load_with_skops),
}


def measure(reg: Any, row: Any, way: str, folder: str) -> tuple[int, float, float, float]:
    """Return a way's size in bytes, and its seconds for writing, reading and one row."""
    save, load = WAYS[way]
    file = os.path.join(folder, "regressor")
    start = time.perf_counter()
    save(reg, file)
    saved = time.perf_counter()
    loaded = load(file)
    end = time.perf_counter()
    loaded.predict(row)
    rows = time.perf_counter()
    for _ in range(100):
        loaded.predict(row)
    latency = (time.perf_counter() - rows) / 100
    return os.path.getsize(file), saved - start, end - saved, latency


def main() -> None:
    run = begin("files", __doc__)
    X, y = penguins()
    reg = torchreg.TorchRegressor(random_state=0).fit(X, y)
    with tempfile.TemporaryDirectory() as folder:
        timings = interleave(
            {way: lambda _, way=way: measure(reg, X[:1], way, folder) for way in WAYS},
            rounds=run.pick(50, 2),
        )
    rows = []
    for way, timing in timings.items():
        parts = zip(*timing.results, strict=True)
        size, save, load, row = (statistics.median(part) for part in parts)
        times = [f"{1e3 * save:.1f}", f"{1e3 * load:.1f}", f"{1e6 * row:.0f}"]
        rows.append([way, f"{size:,.0f}", *times])
    run.report(
        "A fitted regressor as a file",
        NOTES,
        table(["", "bytes", "write, ms", "read, ms", "row, µs"], rows),
    )


if __name__ == "__main__":
    main()
