"""The report: one HTML page that loads nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchreg._serialization import write_atomically
from torchreg.losses import find_loss, loss_name
from torchreg.nn.links import target_layer
from torchreg.plotting._axes import require_matplotlib
from torchreg.plotting._labels import Labels, as_columns, labels_of
from torchreg.reporting.code import estimator_code, versions
from torchreg.reporting.column_summary import summarize_columns
from torchreg.reporting.effects import draw_effects
from torchreg.reporting.figures import draw_fits, draw_network, scores
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
    lead = f"Predicts {targets} from {join_names(labels.features)}."
    if diagnosis.summary.get("validation_score") is not None:
        score = find_loss(loss_name(estimator.loss)).score_name.replace("2", "²")
        lead += (
            " Held-out rows are those that a network was not trained on; their "
            f"{score} compares it with a constant for the training rows."
        )
    page = render(
        "report.html",
        policy=POLICY,
        title=title or f"{type(estimator).__name__}: {targets}",
        lead=lead,
        facts=_facts(estimator, labels, true, predicted, diagnosis.summary),
        headline=diagnosis.headline(),
        findings=diagnosis.findings,
        severities=SEVERITIES,
        figures=[
            *draw_fits(estimator, X, y, predicted, true, labels),
            *draw_effects(estimator, X, true, labels),
            *draw_network(estimator, X, labels),
        ],
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


def _facts(
    estimator: Any, labels: Labels, true: Any, predicted: Any, summary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """List scores and sizes for the head of the page, those of held-out rows first."""
    facts = _held_out_facts(estimator, labels, summary.get("validation_score"))
    shown = " of the rows shown" if facts else ""
    for name, (rmse, r2) in zip(labels.targets, scores(true, predicted), strict=True):
        of_target = f" of {name}" if len(labels.targets) > 1 else ""
        facts.append((f"RMSE{of_target}{shown}", f"{number(rmse)} {labels.unit(name)}".rstrip()))
        facts.append((f"R²{of_target}{shown}", f"{r2:.3f}"))
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


def _held_out_facts(estimator: Any, labels: Labels, score: float | None) -> list[tuple[str, str]]:
    """List the error and the score of validation rows, those of its fold for each network."""
    if score is None:
        return []
    loss = find_loss(loss_name(estimator.loss))
    facts = [(f"{loss.score_name.replace('2', '²')} of held-out rows", f"{score:.3f}")]
    layer = target_layer(estimator.module_)
    if loss.raw_error is not None and layer is not None and len(labels.targets) == 1:
        value = estimator.validation_loss_curve_[estimator.best_epoch_ - 1]
        error = float(loss.raw_error.to_raw(np.asarray(value), float(layer.scale.max())))
        shown = f"{number(error)} {labels.unit(labels.targets[0])}".rstrip()
        facts.insert(0, (f"{loss.raw_error.name} of held-out rows", shown))
    return facts
