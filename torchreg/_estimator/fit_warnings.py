"""Warnings about a fit that did not end as it should."""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning

from torchreg._estimator.dataset import Data
from torchreg.engine.build import FitResult
from torchreg.engine.data import (
    ColumnStatistics,
    Rows,
    SparseRows,
    find_imprecise_columns,
    is_imprecise,
)
from torchreg.engine.spec import FitConfig
from torchreg.exceptions import (
    BoundedOutputWarning,
    CallbackWarning,
    DeadUnitsWarning,
    DivergenceWarning,
    EffectivelyLinearWarning,
    InterruptWarning,
    NetworkFailedWarning,
    PrecisionWarning,
    UnscaledWarning,
    ValidationWarning,
    WorseThanConstantWarning,
)
from torchreg.nn.links import target_layer

# Frames from warnings.warn up to the caller of fit: this file, fit and its two decorators.
_STACKLEVEL = 5
# The fit of an ensemble has one decorator.
_STACKLEVEL_OF_ENSEMBLE = 4

#: The class of the warning for each finding that is certain after a fit.
_FINDING_CATEGORIES: dict[str, type[Warning]] = {
    "bounded-output": BoundedOutputWarning,
    "distant-validation-rows": ValidationWarning,
    "placeholder-values": PrecisionWarning,
    "effectively-linear": EffectivelyLinearWarning,
    "worse-than-constant": WorseThanConstantWarning,
    "dead-units": DeadUnitsWarning,
    "unscaled-inputs": UnscaledWarning,
    "unscaled-target": UnscaledWarning,
}


class FitWarning(NamedTuple):
    """The class and the text of a warning."""

    category: type[Warning]
    text: str


def issue_fit_warnings(result: FitResult, config: FitConfig, attributes: dict[str, Any]) -> None:
    """Warn the caller of ``fit``.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted a fit inside a search or an ensemble, which must end too.
    """
    if result.interrupted and not is_top_level_fit():
        raise KeyboardInterrupt
    for warning in fit_warnings(result, config, attributes):
        warnings.warn(warning.text, warning.category, stacklevel=_STACKLEVEL)


def issue_ensemble_warnings(
    fits: Sequence[tuple[FitResult, FitConfig, dict[str, Any]]], *, n_members: int
) -> None:
    """Warn the caller of an ensemble's ``fit``, once for each class of warning.

    Parameters
    ----------
    fits : sequence of (FitResult, FitConfig, dict)
        Of the members that were trained; see :func:`issue_fit_warnings`.
    n_members : int
        Number of members that were requested.
    """
    interrupted = len(fits) < n_members or any(result.interrupted for result, *_ in fits)
    if interrupted:
        if not is_top_level_fit():
            raise KeyboardInterrupt
        warnings.warn(
            f"The fit was interrupted: the ensemble has {len(fits)} of {n_members} members, with "
            "the weights learned until then. Call fit again to train all members.",
            InterruptWarning,
            stacklevel=_STACKLEVEL_OF_ENSEMBLE,
        )
    texts_of: defaultdict[type[Warning], list[str]] = defaultdict(list)
    for fit in fits:
        for category, text in {w.category: w.text for w in fit_warnings(*fit)}.items():
            texts_of[category].append(text)
    texts_of.pop(InterruptWarning, None)
    for category, texts in texts_of.items():
        text = f"{len(texts)} of {n_members} members: {texts[0]}"
        warnings.warn(text, category, stacklevel=_STACKLEVEL_OF_ENSEMBLE)


def fit_warnings(
    result: FitResult, config: FitConfig, attributes: dict[str, Any]
) -> Iterator[FitWarning]:
    """Yield the warnings about the data, the end of training and the network."""
    training, summary = result.train_result, result.summary
    epoch, best_epoch = training.last_epoch, training.best_epoch
    if summary.lost_digits is not None:
        yield FitWarning(
            PrecisionWarning,
            f"{summary.lost_digits}: values were already rounded in the input. Subtract the "
            "offset, or use float64, where the data are computed.",
        )
    if result.interrupted:
        when = f"in epoch {epoch + 1} of {config.first_epoch + config.max_epochs}"
        if training.reason != "interrupted":
            when = f"before all of n_init={config.n_init} networks were trained"
        yield FitWarning(
            InterruptWarning,
            f"The fit was interrupted {when}: the regressor has the weights of epoch {best_epoch}.",
        )
    for text in result.callback_warnings:
        yield FitWarning(CallbackWarning, f"{text}: the callback has no effect.")
    for failure in summary.failures:
        others = "the mean of the other networks predicts"
        if config.n_folds == 1:
            others = "the best of the other networks was kept"
        yield FitWarning(NetworkFailedWarning, f"Training failed in {failure}. Only {others}.")
    if training.reason == "diverged":
        yield FitWarning(
            DivergenceWarning,
            f"Training diverged: the loss was {training.losses[-1]} in epoch {epoch}. The "
            f"regressor has the weights of epoch {best_epoch}, the best finite ones. Probably "
            f"lr={config.optimizer.options.get('lr')} is too large for "
            f"optimizer={config.optimizer.name!r} and this module: decrease it, or clip gradients.",
        )
    if training.still_falling:
        yield FitWarning(
            ConvergenceWarning,
            f"Training did not converge: after max_epochs={config.max_epochs} the loss still "
            f"decreased by more than tol={config.stopping.tol} (relative) per epoch. Increase "
            "max_epochs or lr, or set tol=None.",
        )
    # Imported here to keep `import torchreg` fast.
    from torchreg.diagnosis.findings import certain_findings

    names = [str(name) for name in attributes.get("feature_names_in_", [])]
    for finding in certain_findings(summary, names, n_epochs=len(training.losses)):
        text = f"{finding.message} Try: {finding.advice} More: diagnose()."
        yield FitWarning(_FINDING_CATEGORIES[finding.code], text)


def describe_rounded_columns(
    data: Data, module: torch.nn.Sequential, attributes: dict[str, Any]
) -> str | None:
    """Describe the columns that were already rounded in the input, if there are any."""
    names = attributes.get("feature_names_in_", [])
    described = []
    for table, layer, values, dtype in (
        ("X", getattr(module, "standardize", None), data.x, data.x_dtype),
        ("y", target_layer(module), data.y, data.y_dtype),
    ):
        if layer is None:
            continue
        float_dtype = dtype if dtype.is_floating_point else torch.float64
        statistics = ColumnStatistics(layer.mean.cpu(), layer.scale.cpu())
        if not bool(is_imprecise(statistics, float_dtype).any()):
            continue
        rounded_to_constant = _rounded_to_constant(values, statistics)
        for column in sorted({*find_imprecise_columns(statistics, dtype), *rounded_to_constant}):
            label = f"X column {names[column] if len(names) else column}" if table == "X" else "y"
            mean, scale = float(statistics.mean[column]), float(statistics.scale[column])
            spread = f"standard deviation {scale:.4g}"
            if column in rounded_to_constant:
                spread = "a standard deviation that is numerically 0"
            described.append(
                f"{label} has mean {mean:.4g} and {spread}, but the spacing of "
                f"{str(float_dtype).removeprefix('torch.')} is "
                f"{abs(mean) * torch.finfo(float_dtype).eps:.2g} there"
            )
    return "; ".join(described) or None


def _rounded_to_constant(values: Rows, statistics: ColumnStatistics) -> list[int]:
    """List the columns whose scale is 0 although their values differ."""
    constant = (statistics.scale.numpy() == 0).nonzero()[0]
    if isinstance(values, SparseRows) or not len(constant):
        return []
    columns = values[:, torch.from_numpy(constant)]
    differ = (columns != columns[:1]).any(dim=0).numpy()
    return [int(column) for column in constant[differ]]


def is_top_level_fit() -> bool:
    """Return whether the running fit is not inside a search, an ensemble or joblib.

    Only then does an interrupt end with a warning; elsewhere the caller must end too.
    """
    allowed = ("base", "pipeline", "callback", "compose", "utils")
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        root, _, rest = str(frame.f_globals.get("__name__", "")).partition(".")
        if root == "joblib" or (root == "sklearn" and rest.partition(".")[0] not in allowed):
            return False
        frame = frame.f_back
    return True
