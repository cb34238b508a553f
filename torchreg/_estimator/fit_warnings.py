"""What there is to say about a fit that did not end as it should, in words."""

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
    DeadUnitsWarning,
    DivergenceWarning,
    EffectivelyLinearWarning,
    InterruptWarning,
    PrecisionWarning,
    UnscaledWarning,
)
from torchreg.nn.links import target_layer

#: From a warning up to who called ``fit``: past this file, ``fit``, and its two decorators.
_CALLER = 5
#: Of an ensemble, ``fit`` has one decorator.
_CALLER_OF_ENSEMBLE = 4

#: In which class a finding is warned of.
_WARNINGS: dict[str, type[Warning]] = {
    "effectively-linear": EffectivelyLinearWarning,
    "dead-units": DeadUnitsWarning,
    "unscaled-inputs": UnscaledWarning,
    "unscaled-target": UnscaledWarning,
}


class FitWarning(NamedTuple):
    """What there is to say about a fit: the class of a warning, and its text."""

    category: type[Warning]
    text: str


def issue_fit_warnings(fitted: FitResult, config: FitConfig, attributes: dict[str, Any]) -> None:
    """Warn the caller of ``fit`` of what there is to say.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupted a fit that is a part of something larger, which must end, too.
    """
    if fitted.interrupted and not is_top_level_fit():
        raise KeyboardInterrupt
    for remark in remarks_on(fitted, config, attributes):
        warnings.warn(remark.text, remark.category, stacklevel=_CALLER)


def warn_about_members(
    fits: Sequence[tuple[FitResult, FitConfig, dict[str, Any]]], *, n_members: int
) -> None:
    """Warn the caller of an ensemble's ``fit``, once of what there is to say of several members.

    Parameters
    ----------
    fits : sequence of (FitResult, FitConfig, dict)
        Of those that have learned something; see :func:`issue_fit_warnings`.
    n_members : int
        How many there should be.

    Raises
    ------
    KeyboardInterrupt
        As :func:`issue_fit_warnings`.
    """
    interrupted = len(fits) < n_members or any(fitted.interrupted for fitted, *_ in fits)
    if interrupted:
        if not is_top_level_fit():
            raise KeyboardInterrupt
        warnings.warn(
            f"Interrupted: the ensemble holds what {len(fits)} of {n_members} members had learned "
            "by then, and can predict.",
            InterruptWarning,
            stacklevel=_CALLER_OF_ENSEMBLE,
        )
    said: defaultdict[type[Warning], list[str]] = defaultdict(list)
    for fit in fits:
        for category, text in {r.category: r.text for r in remarks_on(*fit)}.items():
            said[category].append(text)
    said.pop(InterruptWarning, None)
    for category, texts in said.items():
        text = f"{len(texts)} of {n_members} members: {texts[0]}"
        warnings.warn(text, category, stacklevel=_CALLER_OF_ENSEMBLE)


def remarks_on(
    fitted: FitResult, config: FitConfig, attributes: dict[str, Any]
) -> Iterator[FitWarning]:
    """Put into words why a fit ended, and what is certain about its network."""
    result = fitted.train_result
    epoch, kept = result.last_epoch, result.best_epoch
    summary = fitted.summary
    if summary.lost_digits is not None:
        yield FitWarning(PrecisionWarning, summary.lost_digits)
    if fitted.interrupted:
        when = f"in epoch {epoch + 1} of {config.first_epoch + config.max_epochs}"
        if result.reason != "interrupted":
            when = f"before all of n_init={config.n_init} networks were trained"
        yield FitWarning(
            InterruptWarning,
            f"Interrupted {when}: the regressor holds the weights of epoch {kept}, and can "
            "predict.",
        )
    if result.reason == "diverged":
        yield FitWarning(
            DivergenceWarning,
            f"The loss ceased to be finite in epoch {epoch} (it was {result.losses[-1]}): "
            f"the fit stopped there, and the weights of epoch {kept} were kept, the best finite "
            f"ones. Likely cause: lr={config.optimizer.options.get('lr')} is too large for "
            f"optimizer={config.optimizer.name!r} and this module. Lower it, or clip gradients.",
        )
    if result.still_falling:
        yield FitWarning(
            ConvergenceWarning,
            f"The budget of max_epochs={config.max_epochs} ran out while the loss still fell by "
            f"more than tol={config.stopping.tol} of itself in an epoch. Raise max_epochs or "
            "lr, or set tol=None.",
        )
    # What it needs is needed at the end of a fit, and not by an import.
    from torchreg.diagnosis.findings import certain_findings

    names = [str(name) for name in attributes.get("feature_names_in_", [])]
    for finding in certain_findings(summary, names, n_epochs=len(result.losses)):
        text = f"{finding.message} Try: {finding.advice} More: diagnose()."
        yield FitWarning(_WARNINGS[finding.code], text)


def describe_lost_digits(
    data: Data, module: torch.nn.Sequential, attributes: dict[str, Any]
) -> str | None:
    """Write the warning for columns that were too coarse before they came, if there are any."""
    names = attributes.get("feature_names_in_", [])
    found = []
    for name, layer, values, dtype in (
        ("standardize", getattr(module, "standardize", None), data.x, data.x_dtype),
        ("unstandardize", target_layer(module), data.y, data.y_dtype),
    ):
        if layer is None:
            continue
        kind = dtype if dtype.is_floating_point else torch.float64
        if not any(is_imprecise(layer.mean.tolist(), layer.scale.tolist(), kind)):
            continue
        statistics = ColumnStatistics(layer.mean.cpu(), layer.scale.cpu())
        flattened = _flattened(values, statistics)
        for column in sorted({*find_imprecise_columns(statistics, dtype), *flattened}):
            of_x = name == "standardize"
            label = f"X column {names[column] if len(names) else column}" if of_x else "y"
            mean, scale = float(statistics.mean[column]), float(statistics.scale[column])
            spread = f"a standard deviation of {scale:.4g}"
            if column in flattened:
                spread = "so small a spread that it counts as constant"
            found.append(
                f"{label} lies at {mean:.4g} with {spread}, but "
                f"{str(kind).removeprefix('torch.')} can only tell numbers "
                f"{abs(mean) * torch.finfo(kind).eps:.2g} apart there"
            )
    if not found:
        return None
    return (
        f"{'; '.join(found)}: digits were lost before fit. Subtract the offset, or pass float64, "
        "where the numbers are made."
    )


def _flattened(values: Rows, statistics: ColumnStatistics) -> list[int]:
    """List the columns that count as constant although their values differ."""
    zero = (statistics.scale.numpy() == 0).nonzero()[0]
    if isinstance(values, SparseRows) or not len(zero):
        return []
    columns = values[:, torch.from_numpy(zero)]
    differ = (columns != columns[:1]).any(dim=0).numpy()
    return [int(column) for column in zero[differ]]


def is_top_level_fit() -> bool:
    """Tell whether the running fit stands alone, not inside a search or an ensemble.

    Only there may an interrupt be kept quiet: anywhere else the caller must end, too.
    """
    harmless = ("base", "pipeline", "callback", "compose", "utils")
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        root, _, rest = str(frame.f_globals.get("__name__", "")).partition(".")
        if root == "joblib" or (root == "sklearn" and rest.partition(".")[0] not in harmless):
            return False
        frame = frame.f_back
    return True
