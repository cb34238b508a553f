"""Accuracy on real data: TorchRegressor compared with boosting and other networks, untuned.

Each result is appended to ``results/accuracy.csv`` at once, and reused until the rows, the code of
the regressor or its packages change. ``accuracy.md`` and ``accuracy.png`` are written from this
file at the end, or with ``--report`` alone.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from _accuracy_report import SELECTION_SPLITS, TEST_SPLITS, write_report
from _datasets import DATASETS, OTHERS, Dataset, load, split
from _harness import RESULTS, processor
from _models import MODELS, Model
from _scores import Result, append, is_done, nrmse, read
from threadpoolctl import threadpool_limits

FILE = RESULTS / "accuracy.csv"
#: Data sets of this size or more have one split fewer.
LARGE = 10_000


def splits_for(n_rows: int) -> tuple[int, ...]:
    """Return the splits of a data set of this size."""
    return (
        (SELECTION_SPLITS[0], *TEST_SPLITS)
        if n_rows >= LARGE
        else (*SELECTION_SPLITS, *TEST_SPLITS)
    )


def measure(
    dataset: Dataset, number: int, name: str, model: Model, threads: int, data: str
) -> Result:
    """Fit a model to the training rows of a split, and compute its error on the test rows."""
    X_train, X_test, y_train, y_test = split(dataset, number)
    error, note = math.inf, ""
    predict_s = math.nan
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        predict = model.fit(X_train, y_train, number, threads)
        fit_s, fit_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        start = time.perf_counter()
        prediction = np.asarray(predict(X_test), dtype=np.float64).reshape(-1)  # (n, 1) -> (n,)
        predict_s = time.perf_counter() - start
        error = nrmse(y_test, prediction)
    except Exception as failure:  # A failure is a result, too.
        fit_s, fit_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        note = f"{type(failure).__name__}: {failure}".splitlines()[0]
    return Result(
        dataset=dataset.name,
        split=number,
        model=name,
        nrmse=round(error, 6),
        fit_s=round(fit_s, 4),
        fit_cpu_s=round(fit_cpu_s, 4),
        predict_s=round(predict_s, 5),
        n_rows=len(dataset.y),
        n_columns=X_train.shape[1],
        data=data,
        version=model.version,
        threads=threads,
        machine=f"{processor()}, {os.cpu_count()} cores",
        date=datetime.date.today().isoformat(),
        note=note,
    )


def digest_split(dataset: Dataset, number: int) -> str:
    """Return a digest of the rows of a split."""
    digest = hashlib.sha256()
    for array in split(dataset, number):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:8]


def run(
    options: argparse.Namespace,
    models: Mapping[str, Model] | None = None,
    datasets: Sequence[Dataset] | None = None,
) -> None:
    """Run the requested fits that have no valid result, model by model."""
    models = MODELS if models is None else models
    if datasets is None:
        datasets = [load(name) for name in options.datasets]
    work = [
        (dataset, number, digest_split(dataset, number))
        for dataset in sorted(datasets, key=lambda dataset: len(dataset.y))
        for number in splits_for(len(dataset.y))
        if number in options.splits
    ]
    for name in options.models:
        model = models[name]
        if not model.installed:
            print(f'{name}: {model.module} is not installed: pip install -e ".[accuracy]".')
            continue
        known, warm = read(options.file), False
        for dataset, number, data in work:
            result = known.get((dataset.name, number, name))
            is_valid = options.keep and result is not None
            is_valid |= is_done(result, data, model.version, options.threads)
            if is_valid and name not in options.again:
                continue
            if not warm:
                model.warm_up(options.threads)
                warm = True
            result = measure(dataset, number, name, model, options.threads, data)
            append(options.file, result)
            print(
                f"{name:34} {dataset.name:15} split {number}  nRMSE {result.nrmse:.4f}  "
                f"fit {result.fit_s:.2f} s, predict {result.predict_s:.3f} s  {result.note}",
                flush=True,
            )


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    every = (*DATASETS, *OTHERS)
    parser.add_argument("--datasets", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--splits", nargs="+", type=int, default=(*SELECTION_SPLITS, *TEST_SPLITS))
    parser.add_argument(
        "--again",
        nargs="+",
        choices=MODELS,
        default=[],
        metavar="MODEL",
        help="ignore earlier results",
    )
    parser.add_argument("--keep", action="store_true", help="reuse results of earlier code")
    parser.add_argument("--report", action="store_true", help="write only the report")
    parser.add_argument("--list", action="store_true", help="list data sets and models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE, help="file of the results")
    return parser.parse_args()


def main() -> None:
    options = read_command_line()
    if options.list:
        print("\n".join([*DATASETS, "", *OTHERS, "", *MODELS]))
        return
    if not options.report:
        logging.disable(logging.WARNING)  # pytabkit logs the GPUs at each fit
        torch.set_num_threads(options.threads)
        with threadpool_limits(options.threads):
            run(options)
    write_report(options.file)


if __name__ == "__main__":
    main()
