"""From rows to predictions, a bounded number of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreg.engine.rows import Rows, SparseRows, chunks


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
    device = next(module.parameters()).device
    casts_itself = "standardize" in dict(module.named_children())
    width = rows.n_columns if isinstance(rows, SparseRows) else rows.shape[1]
    predictions = []
    module.eval()
    with torch.no_grad():
        for index in chunks(len(rows), width):
            x = rows[index]
            x = x if casts_itself else x.to(dtype)
            if device.type == "mps":
                x = x.to(torch.float32)
            # (n,) or (n, n_outputs) -> (n, n_outputs)
            predictions.append(module(x.to(device)).reshape(len(index), n_outputs))
    prediction = torch.cat(predictions)
    unsound = ~torch.isfinite(prediction).all(dim=1)
    if bool(unsound.any()):
        row = int(torch.nonzero(unsound)[0])
        raise ValueError(
            f"The prediction for row {row} is not finite ({int(unsound.sum())} of "
            f"{len(prediction)} rows): its features lie so far from the training rows that the "
            "network's arithmetic overflows. Check the units of X."
        )
    return prediction
