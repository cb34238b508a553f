"""Predictions of fitted modules, in chunks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import statistics_dtype
from torchreg.engine.batched_network import batch_networks
from torchreg.engine.data import CHUNK_SIZE, Rows, count_columns, iter_chunks
from torchreg.nn import Ensemble, Link
from torchreg.nn.links import columns_per_output


def predict_outputs(module: nn.Module, rows: Rows, *, n_outputs: int, dtype: torch.dtype) -> Tensor:
    """Compute all output columns of a fitted module.

    Parameters
    ----------
    module : nn.Module
        Raw units to raw units. It is put in evaluation mode.
    rows : Tensor of shape (n, n_features) or SparseRows
        Raw units.
    n_outputs : int
    dtype : torch.dtype
        Dtype of the network, for a module that does not standardize X itself.

    Returns
    -------
    Tensor of shape (n, n_outputs * per_output)
        float64, or the dtype of a module that does not unstandardize. A link may have several
        columns per output.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    if isinstance(module, Ensemble):
        return predict_members(module, rows, n_outputs=n_outputs).mean(dim=0)
    n_columns = n_outputs * columns_per_output(module)
    standardize = getattr(module, "standardize", None)
    device = next(module.parameters()).device if standardize is None else standardize.mean.device
    if module.training:
        # The root last: a thread that sees it in evaluation mode may rely on its children.
        for child in module.children():
            child.eval()
        module.training = False

    # Standardize casts and copies; another first layer may overwrite its input.
    is_raw = standardize is None
    cast = dtype if is_raw or device.type == "mps" else None

    def forward(x: Tensor) -> Tensor:
        # (n,) or (n, n_columns) -> (n, n_columns)
        output: Tensor = compute(x.to(device, cast, copy=is_raw)).reshape(-1, n_columns)
        return output

    with torch.no_grad():
        compute = batch_networks(module) or module
        if isinstance(rows, Tensor) and rows.numel() <= CHUNK_SIZE:
            prediction = forward(rows)
        else:
            prediction = torch.empty(0, n_columns)
            for chunk in iter_chunks(len(rows), count_columns(rows)):
                output = forward(rows[chunk])
                if not len(prediction):
                    # Allocated once, because small results that stay alive between large freed
                    # activations would fragment memory.
                    prediction = output.new_empty(len(rows), n_columns)
                prediction[chunk] = output
    _check_finite(prediction)
    return prediction


def predict_members(ensemble: Ensemble, rows: Rows, *, n_outputs: int) -> Tensor:
    """Compute all output columns of each member of an ensemble.

    Parameters
    ----------
    ensemble : Ensemble
        Of modules from raw units to raw units.
    rows, n_outputs : see :func:`predict_outputs`

    Returns
    -------
    Tensor of shape (n_members, n, n_outputs * per_output)
        float64.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    outputs = []
    for member in ensemble.members:
        dtype = next(member.get_submodule("network").parameters()).dtype
        output = predict_outputs(member, rows, n_outputs=n_outputs, dtype=dtype)
        outputs.append(output.to(statistics_dtype(output.device)))
    # n_members of (n, n_columns) -> (n_members, n, n_columns)
    return torch.stack(outputs)


def select_predictions(
    link: Link | None,
    columns: Tensor,
    *,
    return_std: bool = False,
    quantiles: float | Iterable[float] | None = None,
) -> list[Tensor]:
    """Select point predictions, standard deviations or quantiles from output columns.

    Parameters
    ----------
    link : Link or None
        Link of the module.
    columns : Tensor of shape (n, n_outputs * per_output)
        Raw units.
    return_std : bool, default=False
        Whether to return standard deviations, too.
    quantiles : float, iterable of float or None, default=None
        Levels to return instead of the point predictions.

    Returns
    -------
    list of Tensor
        Point predictions of shape (n, n_outputs), and standard deviations of that shape; or
        quantiles of shape (n, n_outputs, n_levels), or (n, n_outputs) for one number.

    Raises
    ------
    ValueError
        If the module does not predict what is asked for.
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
    """Combine the output columns of several modules to predictions of their ensemble.

    Normal distributions are combined to the mean and the variance of their mixture. Other outputs
    are averaged, and their standard deviation is that of the members.

    Parameters
    ----------
    link : Link or None
        Link of each module.
    outputs : Tensor of shape (n_members, n, n_outputs * per_output)
        Raw units.
    return_std, quantiles : see :func:`select_predictions`

    Returns
    -------
    list of Tensor
        See :func:`select_predictions`.

    Raises
    ------
    ValueError
        If the modules do not predict what is asked for.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", NeurIPS (2017), section 2.4.
    """
    columns = outputs.mean(dim=0) if link is None else link.combine_members(outputs)
    if return_std and quantiles is None and (link is None or link.std(columns) is None):
        predictions = outputs if link is None else link.point_prediction(outputs)
        return [predictions.mean(dim=0), predictions.std(dim=0, correction=0)]
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


def _check_finite(prediction: Tensor) -> None:
    # A finite sum has finite terms.
    if math.isfinite(float(prediction.sum())):
        return
    is_bad = ~torch.isfinite(prediction).all(dim=1)
    if bool(is_bad.any()):
        row = int(torch.nonzero(is_bad)[0])
        raise ValueError(
            f"The prediction for row {row} is not finite ({int(is_bad.sum())} of "
            f"{len(prediction)} rows): its features are so far from the training rows that the "
            "network's arithmetic overflows. Check the units of X."
        )
