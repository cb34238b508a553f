"""The report: one HTML page that loads nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchreg._serialization import write_atomically
from torchreg.plotting._axes import require_matplotlib
from torchreg.plotting._labels import Labels, as_columns, labels_of
from torchreg.reporting.code import estimator_code, versions
from torchreg.reporting.column_summary import summarize_columns
from torchreg.reporting.figures import draw_figures, scores
from torchreg.reporting.network import constants_tables, layers_table, n_averaged
from torchreg.reporting.render import Table, join_names, number, render

#: Headings of the findings, by severity.
SEVERITIES = {"severe": "Severe", "warning": "Warning", "info": "Good to know"}

#: Content security policy: the page loads and runs nothing, whatever names the data have.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(
    path: str | os.PathLike[str],
    estimator: Any,
    X: Any,
    y: Any,
    *,
    diagnosis: Any,
    units: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """Write a page about a fitted regressor and some rows.

    Parameters
    ----------
    path : str or path
        The file. It is replaced as a whole, or not at all.
    estimator : TorchRegressor
        Fitted.
    X, y : array-like
        The rows to report, in raw units.
    diagnosis : Diagnosis
        Has ``findings`` and ``headline()``.
    units : mapping of str to str or None, default=None
        Units by name.
    title : str or None, default=None
        Title of the page.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If y does not have the shape of the predictions.
    """
    require_matplotlib("A report")
    predicted = as_columns(estimator.predict(X), name="the prediction")
    true = as_columns(y, name="y")
    if true.shape != predicted.shape:
        raise ValueError(
            f"y expects the shape of the predictions, {predicted.shape}, got {true.shape}."
        )
    labels = labels_of(
        estimator, X, y, units, n_features=estimator.n_features_in_, n_outputs=true.shape[1]
    )
    module, targets = estimator.module_, join_names(labels.targets)
    page = render(
        "report.html",
        policy=POLICY,
        title=title or f"{type(estimator).__name__}: {targets}",
        lead=f"Predicts {targets} from {join_names(labels.features)}. Numbers are of the rows "
        "shown here.",
        facts=_facts(estimator, labels, true, predicted),
        headline=diagnosis.headline(),
        findings=diagnosis.findings,
        severities=SEVERITIES,
        figures=draw_figures(estimator, X, y, predicted, true, labels),
        n_networks=n_averaged(module),
        module=module,
        network_tables=[
            *constants_tables(module, labels.features, labels.targets, labels.units),
            layers_table(module),
        ],
        data_table=summarize_columns(X, true, labels),
        code=estimator_code(estimator),
        is_seeded=isinstance(estimator.random_state, int | np.integer),
        versions=Table("Versions", ["package", "version"], [*versions().items()]),
    )
    write_atomically(path, page.encode())
    return Path(path)


def _facts(estimator: Any, labels: Labels, true: Any, predicted: Any) -> list[tuple[str, str]]:
    """List scores and sizes for the head of the page."""
    facts = []
    for name, (rmse, r2) in zip(labels.targets, scores(true, predicted), strict=True):
        of_target = f" of {name}" if len(labels.targets) > 1 else ""
        facts.append((f"RMSE{of_target}", f"{number(rmse)} {labels.unit(name)}".rstrip()))
        facts.append((f"R²{of_target}", f"{r2:.3f}"))
    n_networks = n_averaged(estimator.module_)
    n_parameters = sum(p.numel() for p in estimator.module_.parameters())
    return [
        *facts,
        *([("networks", f"mean of {n_networks}")] if n_networks > 1 else []),
        ("rows", f"{len(true):,}"),
        ("features", f"{len(labels.features):,}"),
        ("parameters", f"{n_parameters:,}"),
        ("epochs", f"{estimator.n_iter_:,}"),
    ]
