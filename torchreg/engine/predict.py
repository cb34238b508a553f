"""From rows to predictions, a bounded number of rows at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchreg._device import statistics_dtype
from torchreg.engine.rows import CHUNK, Rows, chunks, width_of
from torchreg.nn import Ensemble


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
    if isinstance(module, Ensemble):
        return predict_each(module, rows, n_outputs=n_outputs).mean(dim=0)
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
        # (n,) or (n, n_outputs) -> (n, n_outputs)
        output: Tensor = module(x.to(device, cast, copy=bare)).reshape(-1, n_outputs)
        return output

    with torch.no_grad():
        if isinstance(rows, Tensor) and rows.numel() <= CHUNK:
            prediction = send(rows)
        else:
            prediction = torch.empty(0, n_outputs)
            for piece in chunks(len(rows), width_of(rows)):
                output = send(rows[piece])
                if not len(prediction):
                    # At once: small pieces that stay would lie between large ones that go, and
                    # keep their places from being used again.
                    prediction = output.new_empty(len(rows), n_outputs)
                prediction[piece] = output
    _require_finite(prediction)
    return prediction


def predict_each(ensemble: Ensemble, rows: Rows, *, n_outputs: int) -> Tensor:
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
    Tensor of shape (n_members, n, n_outputs)
        float64.

    Raises
    ------
    ValueError
        If a prediction is not finite.
    """
    found = []
    for member in ensemble.members:
        dtype = next(member.get_submodule("network").parameters()).dtype
        output = predict_rows(member, rows, n_outputs=n_outputs, dtype=dtype)
        found.append(output.to(statistics_dtype(output.device)))
    # n_members of (n, n_outputs) -> (n_members, n, n_outputs)
    return torch.stack(found)


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
