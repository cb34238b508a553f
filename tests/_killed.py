"""Fits that are really killed, again and again, and resumed: run by test_checkpoint.py.

Prints one line of JSON for each case: how often it was killed, whether the result is that of an
uninterrupted fit, and the files that are left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchreg import TorchRegressor
from torchreg._persistence.checkpoint import Checkpoint
from torchreg.nn import MLP

KILLS = 5


def drawing(in_features: int, out_features: int) -> nn.Module:
    """A network that draws random numbers and has buffers."""
    return nn.Sequential(
        nn.Linear(in_features, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Linear(8, out_features),
    )


CASES: dict[str, dict[str, Any]] = {
    "adam, mini-batches, early stopping": {
        "batch_size": 40,
        "early_stopping": True,
        "n_iter_no_change": 15,
        "max_epochs": 20,
    },
    "rprop, all rows": {"optimizer": "rprop", "max_epochs": 40},
    "dropout and batch norm, nadam": {"module": drawing, "optimizer": "nadam", "max_epochs": 15},
    "lbfgs": {"optimizer": "lbfgs", "max_epochs": 12},
}


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) * 30 + 200
    return X, np.abs(X[:, 0] - 200) + X[:, 1] + rng.normal(size=200)


def fitted(params: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Fit, and return everything that was learned."""
    reg = TorchRegressor(**{"module": MLP, "random_state": 0, **params})
    reg.fit(*data(), checkpoint=path)
    return {
        "module": [tensor.tolist() for tensor in reg.module_.state_dict().values()],
        "history": reg.history_,
        "best": [reg.best_epoch_, reg.loss_],
    }


def in_a_child(params: dict[str, Any], path: Path, result: Path, delay: float | None) -> bool:
    """Fit in a child process and kill it after a delay; return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            result.write_text(json.dumps(fitted(params, path)))
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"A fit failed: {params}")
    return os.WIFSIGNALED(status)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    Checkpoint.MIN_INTERVAL_S = Checkpoint.MIN_INTERVAL_WRITES = 0.0
    rng = random.Random(0)
    for name, params in CASES.items():
        expected = json.loads(json.dumps(fitted(params, None)))
        with tempfile.TemporaryDirectory() as folder:
            path, result = Path(folder, "fit.checkpoint"), Path(folder, "result.json")
            began = time.perf_counter()
            assert not in_a_child(params, Path(folder, "once"), result, None)
            duration = time.perf_counter() - began
            result.unlink()
            kills = 0
            while kills < KILLS:
                kills += in_a_child(params, path, result, rng.uniform(0, duration))
                if result.exists():
                    # The fit ended before the kill: start a new one.
                    path.unlink()
                    result.unlink()
            assert not in_a_child(params, path, result, None)
            same = json.loads(result.read_text()) == expected
            names = os.listdir(folder)
        print(json.dumps({"case": name, "kills": kills, "same": same, "files": sorted(names)}))


if __name__ == "__main__":
    main()
