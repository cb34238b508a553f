"""Losses: one entry per name, and one reading of whatever else the user hands over.

A loss compares predictions and targets in *standardized* units, where order 1 is what
every optimizer expects. Adding a loss is one entry in :data:`LOSSES`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchreg._errors import did_you_mean

LossFunction = Callable[[Tensor, Tensor], Tensor]


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Squared error of each value, :math:`(p - t)^2`; estimates the conditional mean.

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    Examples
    --------
    >>> squared_error(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[4.]])
    """
    return functional.mse_loss(prediction, target, reduction="none")


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Absolute error of each value, :math:`|p - t|`; estimates the conditional median.

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    Examples
    --------
    >>> absolute_error(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[2.]])
    """
    return (prediction - target).abs()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    r"""Huber's loss of each value: quadratic up to ``delta``, linear beyond.

    .. math:: \tfrac12 r^2 \text{ if } |r| \le \delta, \quad
              \delta\,(|r| - \tfrac12 \delta) \text{ otherwise}, \qquad r = p - t

    Parameters
    ----------
    prediction, target : Tensor of shape (n, n_outputs)
        Standardized, dimensionless.
    delta : float, default=1.0
        Where the loss turns linear, in standard deviations of y.

    Returns
    -------
    Tensor of shape (n, n_outputs)

    References
    ----------
    P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
    Statistics 35 (1964), 73-101.

    Examples
    --------
    >>> huber(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([[1.5000]])
    """
    if not delta > 0:
        raise ValueError(f"huber expects a delta above 0, got {delta!r}.")
    return functional.huber_loss(prediction, target, reduction="none", delta=delta)


LOSSES: dict[str, LossFunction] = {
    "absolute_error": absolute_error,
    "huber": huber,
    "squared_error": squared_error,
}


@dataclass(frozen=True)
class Loss:
    """A loss, reduced to one number over weighted rows.

    Parameters
    ----------
    function : callable
        Takes predictions and targets of shape (n, n_outputs).
    name : str
        For messages.
    per_row : bool
        Whether ``function`` keeps the rows apart. One that returns a single number is
        called once for each row where weights are needed.
    """

    function: LossFunction
    name: str
    per_row: bool = True

    def mean(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        r"""Average over the rows, :math:`\frac1n \sum_i w_i\, \ell_i`.

        Parameters
        ----------
        prediction, target : Tensor of shape (n, n_outputs)
            Standardized.
        weight : Tensor of shape (n,) or None
            Weights whose average over the whole training set is 1. ``None``: all are 1.

        Returns
        -------
        Tensor of shape ()
        """
        if weight is None:
            values = self.function(prediction, target)
            return values.mean() if self.per_row else values
        # Where the weights are the same in every step, so is their share.
        return self.of_each_row(prediction, target) @ (weight / len(weight))

    def to(self, like: Tensor) -> Loss:
        """Move what a loss module holds to the dtype and device of a tensor."""
        if isinstance(self.function, nn.Module):
            self.function.to(like.device, like.dtype)
        return self

    def copied(self) -> Loss:
        """Copy what a loss module holds, so that a trial leaves it as it is."""
        if not isinstance(self.function, nn.Module):
            return self
        return replace(self, function=copy.deepcopy(self.function))

    def of_each_row(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each row: shape (n, n_outputs) to (n,)."""
        if not self.per_row:
            return torch.stack(
                [
                    self.function(p, t)
                    for p, t in zip(prediction.split(1), target.split(1), strict=True)
                ]
            )
        values = self.function(prediction, target)
        # (n, n_outputs) -> (n,), or (n, 1) -> (n,)
        one_each = values.numel() == len(values)
        return values.reshape(-1) if one_each else values.reshape(len(values), -1).mean(dim=1)


def build_loss(loss: str | type | Callable[..., Any], options: Mapping[str, Any]) -> Loss:
    """Read the ``loss`` parameter: a name, a torch loss class or instance, or a callable.

    Parameters
    ----------
    loss : str, class or callable
        A name of :data:`LOSSES`, a class like ``torch.nn.SmoothL1Loss``, an instance of
        one, or a function of predictions and targets. It may return one value per row, one
        per element, or their mean.
    options : mapping
        Further keyword arguments (``loss__*``).

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        If the name or an option is unknown.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> build_loss("huber", {"delta": 0.5}).name
    'huber'
    >>> build_loss(nn.SmoothL1Loss, {}).per_row
    True
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                f"Unknown loss {loss!r}.{did_you_mean(loss, LOSSES)} "
                "A torch loss class or any callable works too."
            )
        function = LOSSES[loss]
        if options:
            known = list(inspect.signature(function).parameters)[2:]
            _check_options(options, known, owner=f"loss {loss!r}")
        return Loss(partial(function, **options) if options else function, loss)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        parameters = inspect.signature(loss).parameters
        _check_options(options, parameters, owner=f"loss {loss.__name__}")
        settings = dict(options)
        if "reduction" in parameters:
            settings["reduction"] = "none"
        return Loss(loss(**settings), loss.__name__)
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            f"loss expects a name ({', '.join(map(repr, LOSSES))}), a torch loss class or a "
            f"callable of predictions and targets, got {loss!r}."
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, nn.Module):
        _check_options(options, (), owner=f"loss instance {name}; give the class instead:")
        loss = copy.deepcopy(loss)
        if hasattr(loss, "reduction"):
            loss.reduction = "none"  # type: ignore[assignment]
    elif options:
        loss = partial(loss, **options)
    return Loss(loss, name)


def probe_loss(loss: Loss, n_outputs: int) -> Loss:
    """Try a loss on made-up rows: find out whether it keeps the rows apart.

    Parameters
    ----------
    loss : Loss
        As built.
    n_outputs : int
        Number of columns of y.

    Returns
    -------
    Loss
        The same, with ``per_row`` as it is.

    Raises
    ------
    ValueError
        If it cannot be evaluated, or its result has the wrong shape.
    """
    # More rows than outputs, so that a mean over the rows is not taken for one over outputs.
    shape = (n_outputs + 2, n_outputs)
    target = torch.linspace(-1, 1, shape[0] * shape[1]).reshape(shape)
    prediction = (0.5 * target).requires_grad_()
    try:
        values = loss.function(prediction, target)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"The loss {loss.name!r} could not compare predictions of shape {shape} with "
            f"targets of that shape: {error}"
        ) from error
    if not isinstance(values, Tensor):
        raise ValueError(
            f"The loss {loss.name!r} must return a torch tensor, got {type(values).__name__}."
        )
    if not values.requires_grad:
        raise ValueError(
            f"The loss {loss.name!r} does not depend on the predictions in a way that torch can "
            "differentiate. Compute it from the prediction with torch operations."
        )
    if values.ndim == 0:
        return replace(loss, per_row=False)
    if values.shape[0] != shape[0]:
        raise ValueError(
            f"The loss {loss.name!r} must return one number, one per row or one per element; "
            f"for predictions of shape {shape} it returned shape {tuple(values.shape)}."
        )
    return loss


def _check_options(options: Mapping[str, Any], known: Any, *, owner: str) -> None:
    for option in options:
        if option not in known:
            raise ValueError(
                f"{owner} takes no {option!r} (loss__{option}).{did_you_mean(option, known)}"
            )
