"""Losses that cannot train a regressor: without gradient, or of classes and raw counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

#: Losses of torch, classes and functions, that compare the prediction itself with y.
_OF_PREDICTIONS = {
    *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}
#: Losses of torch that have a counterpart here.
_INSTEAD = {
    "PoissonNLLLoss": "poisson",
    "poisson_nll_loss": "poisson",
    "GaussianNLLLoss": "gaussian_nll",
    "gaussian_nll_loss": "gaussian_nll",
}


def check_loss_of_standardized(loss: Any) -> None:
    """Refuse losses of torch that are not defined for standardized targets.

    Parameters
    ----------
    loss : class, instance or function

    Raises
    ------
    ValueError
        If it is a loss of torch for counts, classes or pairs of predictions.

    Examples
    --------
    >>> check_loss_of_standardized(torch.nn.HuberLoss)
    >>> check_loss_of_standardized(torch.nn.BCEWithLogitsLoss)
    Traceback (most recent call last):
    ValueError: torch's BCEWithLogitsLoss expects y as classes or probabilities, but ...
    """
    if isinstance(loss, partial):
        loss = loss.func
    if not isinstance(loss, type) and not hasattr(loss, "__name__"):
        loss = type(loss)
    name: str = getattr(loss, "__name__", "")
    if loss.__module__ not in ("torch.nn.modules.loss", "torch.nn.functional"):
        return
    if name in _OF_PREDICTIONS:
        return
    instead = _INSTEAD.get(name)
    expected, advice = "classes or probabilities", "'squared_error', which predicts the mean of y"
    if instead is not None:
        expected = "counts" if instead == "poisson" else "values with known variances"
        advice = f"{instead!r}, which predicts the mean of y in its unit"
    raise ValueError(
        f"torch's {name} expects y as {expected}, but fit standardizes y, and predict returns "
        f"the output of the network in the unit of y. Use loss={advice}; or train on y as it is "
        "with standardize='X', where predict returns the output of the network."
    )


def check_gradient(
    function: Callable[[Tensor, Tensor], Tensor],
    values: Tensor,
    prediction: Tensor,
    target: Tensor,
    *,
    name: str,
) -> None:
    """Check that the gradient of a loss reaches the predictions.

    Parameters
    ----------
    function : callable
        Of predictions and targets.
    values, prediction, target : Tensor
        What it returned for these predictions, which require a gradient, and targets.
    name : str
        In the message.

    Raises
    ------
    ValueError
        If no gradient reaches the predictions, or it is 0 near the targets and far from them.
    """
    # Losses that ignore small residuals have a gradient at large ones.
    far = (1e3 * prediction).detach().requires_grad_()
    for at in (prediction, far):
        values = values if at is prediction else function(far, target)
        gradient: Tensor | None = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), at, allow_unused=True)
        if gradient is None:
            break
        if bool(gradient.any()):
            return
    raise ValueError(
        f"The loss {name!r} does not depend on the predictions in a way that torch can "
        "differentiate, so that no gradient reaches the parameters. Compute it from the "
        "prediction with torch operations whose derivative is not 0 everywhere."
    )
