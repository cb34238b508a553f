"""From rows to predictions, a bounded number of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import statistics_dtype
from torchreg.engine.data import CHUNK_SIZE, Rows, count_columns, iter_chunks
from torchreg.nn import Ensemble, Link
from torchreg.nn.links import columns_per_output, point_prediction


def predict_rows(module: nn.Module, rows: Rows, *, n_outputs: int, dtype: torch.dtype) -> Tensor:
    """Send rows through a fitted module.

    Parameters
    ----------
    module : nn.Module
        Raw units to raw units.
    rows : Tensor of shape (n, n_features) or SparseRows
        Raw units.
    n_outputs : int
        Number of outputs.
    dtype : torch.dtype
        In which the network computes, for a module that does not standardize X itself.

    Returns
    -------
    Tensor of shape (n, n_outputs)
        float64, or what the module gives if it does not unstandardize.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    one = module.members[0] if isinstance(module, Ensemble) else module
    columns = predict_outputs(module, rows, n_outputs=n_outputs, dtype=dtype)
    return point_prediction(one, columns)


def predict_outputs(module: nn.Module, rows: Rows, *, n_outputs: int, dtype: torch.dtype) -> Tensor:
    """Send rows through a fitted module, and keep all that it gives.

    Parameters
    ----------
    module, rows, n_outputs, dtype : see :func:`predict_rows`

    Returns
    -------
    Tensor of shape (n, n_outputs * per_output)
        Several columns per output where the module has a link that gives several.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    if isinstance(module, Ensemble):
        return predict_members(module, rows, n_outputs=n_outputs).mean(dim=0)
    width = n_outputs * columns_per_output(module)
    standardize = getattr(module, "standardize", None)
    device = next(module.parameters()).device if standardize is None else standardize.mean.device
    if module.training:
        # The whole last: another thread that finds it in evaluation mode finds all of it so.
        for child in module.children():
            child.eval()
        module.training = False

    # Standardize casts, and writes to memory of its own; another first layer does neither.
    bare = standardize is None
    cast = dtype if bare or device.type == "mps" else None

    def send(x: Tensor) -> Tensor:
        # (n,) or (n, width) -> (n, width)
        output: Tensor = module(x.to(device, cast, copy=bare)).reshape(-1, width)
        return output

    with torch.no_grad():
        if isinstance(rows, Tensor) and rows.numel() <= CHUNK_SIZE:
            prediction = send(rows)
        else:
            prediction = torch.empty(0, width)
            for piece in iter_chunks(len(rows), count_columns(rows)):
                output = send(rows[piece])
                if not len(prediction):
                    # At once: small pieces that stay would lie between large ones that go, and
                    # keep their places from being used again.
                    prediction = output.new_empty(len(rows), width)
                prediction[piece] = output
    _require_finite(prediction)
    return prediction


def predict_members(ensemble: Ensemble, rows: Rows, *, n_outputs: int) -> Tensor:
    """Send rows through each of several fitted modules.

    Parameters
    ----------
    ensemble : Ensemble
        Of modules from raw units to raw units.
    rows : Tensor of shape (n, n_features) or SparseRows
        Raw units.
    n_outputs : int
        Number of outputs.

    Returns
    -------
    Tensor of shape (n_members, n, n_outputs * per_output)
        float64.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    found = []
    for member in ensemble.members:
        dtype = next(member.get_submodule("network").parameters()).dtype
        output = predict_outputs(member, rows, n_outputs=n_outputs, dtype=dtype)
        found.append(output.to(statistics_dtype(output.device)))
    # n_members of (n, width) -> (n_members, n, width)
    return torch.stack(found)


def select_predictions(
    link: Link | None,
    columns: Tensor,
    *,
    return_std: bool = False,
    quantiles: float | Iterable[float] | None = None,
) -> list[Tensor]:
    """Read what was asked for out of all that a fitted module gives.

    Parameters
    ----------
    link : Link or None
        Of the module.
    columns : Tensor of shape (n, n_outputs * per_output)
        Raw units.
    return_std : bool, default=False
        Whether the standard deviation is asked for, too.
    quantiles : float, iterable of float or None, default=None
        Levels that are asked for instead.

    Returns
    -------
    list of Tensor
        The prediction of shape (n, n_outputs), and the standard deviation of that shape; or
        quantiles of shape (n, n_outputs, n_levels), or (n, n_outputs) for one number.

    Raises
    ------
    ValueError
        If the module does not give what is asked for.
    """
    if quantiles is not None:
        if return_std:
            raise ValueError("predict expects return_std or quantiles, not both at once.")
        if not isinstance(quantiles, Iterable):
            return [_quantile(link, columns, quantiles)]
        found = [_quantile(link, columns, level) for level in quantiles]
        if not found:
            raise ValueError("quantiles expects one level or more, got none.")
        return [torch.stack(found, dim=-1)]
    prediction = columns if link is None else link.point_prediction(columns)
    if not return_std:
        return [prediction]
    std = None if link is None else link.std(columns)
    if std is None:
        raise ValueError(
            "return_std=True expects a fit with loss='gaussian_nll', which learns a standard "
            f"deviation; this one learned {_describe(link)}."
        )
    return [prediction, std]


def combine_members(
    link: Link | None,
    outputs: Tensor,
    *,
    return_std: bool = False,
    quantiles: float | Iterable[float] | None = None,
) -> list[Tensor]:
    """Read what was asked for out of what several fitted modules give.

    Normal distributions are taken as one mixture, of which mean and variance are kept; of
    anything else the mean over the members is taken, and the spread around it.

    Parameters
    ----------
    link : Link or None
        Of each module.
    outputs : Tensor of shape (n_members, n, n_outputs * per_output)
        Raw units.
    return_std, quantiles : see :func:`select_predictions`

    Returns
    -------
    list of Tensor
        As :func:`select_predictions`.

    Raises
    ------
    ValueError
        If the modules do not give what is asked for.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", NeurIPS (2017), section 2.4.
    """
    columns = outputs.mean(dim=0) if link is None else link.combine_members(outputs)
    if return_std and quantiles is None and (link is None or link.std(columns) is None):
        prediction = outputs if link is None else link.point_prediction(outputs)
        return [prediction.mean(dim=0), prediction.std(dim=0, correction=0)]
    return select_predictions(link, columns, return_std=return_std, quantiles=quantiles)


def _quantile(link: Link | None, columns: Tensor, level: Any) -> Tensor:
    """Compute the quantile of a level, of shape (n, n_outputs)."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0 < float(level) < 1:
        raise ValueError(f"quantiles expects levels between 0 and 1, got {level!r}.")
    found = None if link is None else link.quantile(columns, float(level))
    if found is None:
        raise ValueError(
            f"quantiles expects levels that were trained; this fit learned {_describe(link)}, "
            f"got {level!r}. Fit with loss='quantile' and loss__quantile=[...], or with "
            "loss='gaussian_nll'."
        )
    return found


def _describe(link: Link | None) -> str:
    return "a point prediction" if link is None else link.describe()


def _require_finite(prediction: Tensor) -> None:
    # A finite sum has finite terms; only where it is not is each of them looked at.
    if math.isfinite(float(prediction.sum())):
        return
    unsound = ~torch.isfinite(prediction).all(dim=1)
    if bool(unsound.any()):
        row = int(torch.nonzero(unsound)[0])
        raise ValueError(
            f"The prediction for row {row} is not finite ({int(unsound.sum())} of "
            f"{len(prediction)} rows): its features lie so far from the training rows that the "
            "network's arithmetic overflows. Check the units of X."
        )
