"""A loss, reduced to one number over rows, and one reading of whatever the user hands over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.losses.table import LOSSES, LossFunction
from torchreg.nn.links import Link


@dataclass(frozen=True)
class Loss:
    """A loss, reduced to one number over weighted rows.

    Parameters
    ----------
    function : callable
        Takes what the network gives, of shape (n, n_outputs * per_output), and targets of shape
        (n, n_outputs).
    name : str
        For messages.
    per_row : bool
        Whether ``function`` keeps the rows apart. One that returns a single number is
        called once for each row where weights are needed.
    """

    function: LossFunction
    name: str
    per_row: bool = True

    @property
    def link(self) -> Link | None:
        """What makes predictions of the network's numbers; ``None`` if they are the same."""
        link = getattr(self.function, "link", None)
        return link if isinstance(link, Link) else None

    @property
    def per_output(self) -> int:
        """How many numbers the network gives for each column of y."""
        return 1 if self.link is None else self.link.per_output

    @property
    def center_target(self) -> bool:
        """Whether y is centred before it is scaled; else it is divided by its mean."""
        return bool(getattr(self.function, "center_target", True))

    def check_target(self, y: Tensor, *, name: str, training: bool = True) -> None:
        """Require targets for which the loss is defined.

        Parameters
        ----------
        y : Tensor of shape (n, n_outputs)
            Raw units.
        name : str
            What the user calls it.
        training : bool, default=True
            Whether it is trained on.

        Raises
        ------
        ValueError
            With what was expected and what came.
        """
        check = getattr(self.function, "check_target", None)
        if check is not None:
            check(y, name=name, training=training)

    def mean(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        r"""Average over the rows, :math:`\frac1n \sum_i w_i\, \ell_i`.

        Parameters
        ----------
        prediction : Tensor of shape (n, n_outputs * per_output)
            What the network gives.
        target : Tensor of shape (n, n_outputs)
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
        """Compute the loss of each row: shape (n, ...) to (n,)."""
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
        known = _parameters_of(loss)
        if isinstance(function, type):
            _check_options(options, known, owner=f"loss {loss!r}")
            return Loss(function(**options), loss)
        _check_options(options, known[2:], owner=f"loss {loss!r}")
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


@cache
def _parameters_of(name: str) -> list[str]:
    return list(inspect.signature(LOSSES[name]).parameters)


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
    prediction = (0.5 * target).repeat_interleave(loss.per_output, dim=1).requires_grad_()
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
