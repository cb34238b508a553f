"""Networks of several members: the mean of their losses, not the loss of their mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchreg.losses import Loss


def has_members(prediction: Tensor) -> bool:
    """Tell whether predictions have the shape (n, n_members, n_outputs)."""
    return prediction.ndim == 3


def mean_loss(loss: Loss, prediction: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
    r"""Average a loss over rows and members, :math:`\frac{1}{nM} \sum_{im} w_i\, \ell_{im}`.

    Parameters
    ----------
    loss : Loss
    prediction : Tensor of shape (n, n_outputs) or (n, n_members, n_outputs)
    t : Tensor of shape (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    Tensor of shape ()
    """
    if not has_members(prediction):
        return loss.mean(prediction, t, weight)
    if weight is None and not loss.per_row:
        return torch.stack([loss.function(p, t) for p in prediction.unbind(dim=1)]).mean()
    each = loss_of_each_row(loss, prediction, t)
    # Where the weights are the same in every step, so is their share.
    return each.mean() if weight is None else each @ (weight / len(weight))


def loss_of_each_row(loss: Loss, prediction: Tensor, t: Tensor) -> Tensor:
    """Compute the loss of each row, averaged over its members if it has any: shape (n,)."""
    if not has_members(prediction):
        return loss.of_each_row(prediction, t)
    n, m, _ = prediction.shape
    # (n, n_outputs) -> (n, m, n_outputs) -> (n * m, n_outputs)
    repeated = t.unsqueeze(1).expand(n, m, t.shape[1]).flatten(0, 1)
    each = loss.of_each_row(prediction.flatten(0, 1), repeated)
    # (n * m,) -> (n, m) -> (n,)
    return each.reshape(n, m).mean(dim=1)


def check_output(output: Any, *, n_rows: int, n_outputs: int, per_output: int = 1) -> Tensor:
    """Require one prediction per row and output, or one of each of several members.

    A loss may ask for several numbers in place of a prediction.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"The module must return a tensor, it returned {type(output).__name__}.")
    shape = tuple(output.shape)
    width = n_outputs * per_output
    if shape == (n_rows, width) or (width == 1 and shape == (n_rows,)):
        return output
    if len(shape) == 3 and shape[1] > 0 and (shape[0], shape[2]) == (n_rows, width):
        return output
    asked, advice = "", "as many outputs as y has columns"
    if per_output > 1:
        asked = f", for each of which the loss asks for {per_output} numbers"
        advice = f"{width} outputs, or have it built: a class is given out_features={width}"
    raise ValueError(
        f"The module returns shape {shape} for {n_rows} rows, but y has {n_outputs} "
        f"output{'s' if n_outputs > 1 else ''}{asked}: shape ({n_rows}, {width}) is expected. "
        f"Give the module's last layer {advice}."
    )
