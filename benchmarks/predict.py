"""Time and memory of ``predict`` for one row and for a million rows.

One row is compared with MLPRegressor and with scikit-learn's validation alone, a million rows with
the bare modules in one call and in chunks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from _competitors import TorchRegressor, build_network
from _harness import Run, begin, interleave, number, resident_bytes, run_fresh, synthetic, table
from sklearn.neural_network import MLPRegressor
from sklearn.utils import check_array
from torch import nn

from torchreg.nn import MLP

N_COLUMNS = 20
CHUNK_SIZE = 8192
#: By default torchreg computes the first in float64 and the second in float32.
NETWORKS = ((100,), (128, 64))

ONE_ROW_NOTES = """\
One row of 20 float64 numbers, 100 ReLU: median microseconds per call of {rounds} interleaved rounds
of {calls} calls. *Ratio* is relative to MLPRegressor. Target: 1.0."""

MANY_ROWS_NOTES = """\
Median seconds of {rounds} interleaved rounds. *Ratio* is relative to the faster call of the fitted
`module_` (raw units to raw units, under `no_grad`): in one call or in chunks of {chunk} rows.
*Memory* is the peak minus the memory before the call, when X exists and a few rows have been
predicted, as a multiple of X, in a fresh process each. The float32 network has the same layers
without scaling. Target: 1.1 times the bare module."""


def fit_both(hidden: tuple[int, ...]) -> tuple[TorchRegressor, MLPRegressor]:
    """Fit both briefly, because their weights do not matter."""
    X, y = synthetic(1_000, N_COLUMNS)
    ours = TorchRegressor(
        module=MLP, module__hidden_sizes=hidden, max_epochs=20, random_state=0
    ).fit(X, y)
    # With this tolerance the fit stops before it warns that it did not converge.
    theirs = MLPRegressor(hidden_layer_sizes=hidden, tol=1e6, random_state=0)
    return ours, theirs.fit(X.astype(np.float32), y.astype(np.float32))


def in_one_call(module: nn.Module, X: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def in_chunks(module: nn.Module, X: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.from_numpy(X).split(CHUNK_SIZE)]).numpy()


def predictors(hidden: tuple[int, ...]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    ours, theirs = fit_both(hidden)
    network = build_network(N_COLUMNS, hidden).eval()
    return {
        "TorchRegressor.predict": ours.predict,
        "its module_, in one call": partial(in_one_call, ours.module_),
        "its module_, in chunks": partial(in_chunks, ours.module_),
        "float32 network, in one call": partial(in_one_call, network),
        "float32 network, in chunks": partial(in_chunks, network),
        "MLPRegressor.predict": theirs.predict,
    }


def extra_memory(name: str, hidden: tuple[int, ...], n_rows: int) -> float:
    """Return the peak of one prediction as a multiple of X. Call it in a fresh process."""
    predict = predictors(hidden)[name]
    X, _ = synthetic(n_rows, N_COLUMNS, np.float32)
    predict(X[:100])
    before, _ = resident_bytes()
    predict(X)
    return (resident_bytes()[1] - before) / X.nbytes


def one_row(run: Run) -> str:
    ours, theirs = fit_both((100,))
    row = synthetic(1, N_COLUMNS)[0]
    calls = run.pick(1000, 50)

    def repeat(call: Callable[[np.ndarray], object], _: int) -> None:
        for _ in range(calls):
            call(row)

    timings = interleave(
        {
            "TorchRegressor.predict": partial(repeat, ours.predict),
            "MLPRegressor.predict": partial(repeat, theirs.predict),
            "check_array alone": partial(repeat, check_array),
        },
        rounds=run.pick(11, 3),
    )
    reference = timings["MLPRegressor.predict"].median
    rows = [
        [name, number(timing.median / calls * 1e6), f"{timing.median / reference:.2f}"]
        for name, timing in timings.items()
    ]
    notes = ONE_ROW_NOTES.format(rounds=len(timings["check_array alone"].seconds), calls=calls)
    return f"## One row\n\n{notes}\n\n{table(['', 'µs', 'ratio'], rows)}"


def many_rows(run: Run, hidden: tuple[int, ...]) -> str:
    n_rows = run.pick(1_000_000, 100_000)
    X, _ = synthetic(n_rows, N_COLUMNS, np.float32)
    functions = predictors(hidden)
    timings = interleave(
        {
            name: lambda _, predict=predict: predict(X) is None
            for name, predict in functions.items()
        },
        rounds=run.pick(5, 1),
    )
    reference = min(timings[name].median for name in timings if "module_" in name)
    rows = []
    for name, timing in timings.items():
        code = (
            "import json, predict\n"
            f"print(json.dumps(predict.extra_memory({name!r}, {hidden}, {n_rows})))"
        )
        memory = json.loads(run_fresh(code, run.threads)[1])
        ratio = timing.median / reference
        rows.append([name, number(timing.median), f"{ratio:.2f}", f"{memory:.2f}"])
    widths = "-".join(map(str, (N_COLUMNS, *hidden, 1)))
    title = f"## {n_rows:,} × {N_COLUMNS} rows of float32, {widths}"
    return f"{title}\n\n{table(['', 'seconds', 'ratio', 'memory, × X'], rows)}"


def main() -> None:
    run = begin("predict", __doc__)
    run.report(
        "Time and memory of `predict`",
        one_row(run),
        MANY_ROWS_NOTES.format(rounds=run.pick(5, 1), chunk=CHUNK_SIZE),
        *(many_rows(run, hidden) for hidden in NETWORKS),
    )


if __name__ == "__main__":
    main()
