"""From the ``loss`` parameter to a :class:`Loss`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.losses.loss import LOSSES, Loss, LossFunction


def build_loss(loss: str | type | Callable[..., Any], options: Mapping[str, Any]) -> Loss:
    """Build a loss from a name, a class, an instance or a function.

    Parameters
    ----------
    loss : str, class or callable
        A name of :data:`LOSSES`, a subclass of :class:`Loss` or an instance, a class like
        ``torch.nn.SmoothL1Loss`` or an instance, or a function of predictions and targets. It may
        return one value per row, one per element, or their mean. A module may have the
        attributes ``link``, ``center_target`` and ``check_target`` of :class:`Loss`.
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
        If ``loss`` is none of these.

    Examples
    --------
    >>> build_loss("huber", {"delta": 0.5})
    HuberLoss(delta=0.5)
    >>> build_loss(nn.SmoothL1Loss, {}).name
    'SmoothL1Loss'
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                f"Unknown loss {loss!r}.{did_you_mean(loss, LOSSES)} "
                "A torch loss class or any callable works too."
            )
        named: Any = LOSSES[loss]
        _check_options(options, _parameters_of(named), owner=f"loss {loss!r}")
        return _construct(named, options)
    if isinstance(loss, type) and issubclass(loss, Loss | nn.Module):
        parameters = inspect.signature(loss).parameters
        _check_options(options, parameters, owner=f"loss {loss.__name__}")
        if issubclass(loss, Loss):
            return _construct(loss, options)
        settings = dict(options)
        if "reduction" in parameters:
            settings["reduction"] = "none"
        return _wrap(loss(**settings), loss.__name__)
    if not callable(loss) or isinstance(loss, type):
        names = ", ".join(map(repr, sorted(LOSSES)))
        raise TypeError(
            f"loss expects a name ({names}), a torch loss class or a callable of predictions and "
            f"targets, got {loss!r}."
        )
    name = loss_name(loss)
    if isinstance(loss, Loss | nn.Module):
        _check_options(options, (), owner=f"loss instance {name}; give the class instead:")
        loss = copy.deepcopy(loss)
        if isinstance(loss, Loss):
            return loss
        if hasattr(loss, "reduction"):
            loss.reduction = "none"  # type: ignore[assignment]
    elif options:
        loss = partial(loss, **options)
    return _wrap(loss, name)


def loss_name(loss: Any) -> str:
    """Return the name of a ``loss`` parameter.

    Examples
    --------
    >>> loss_name("huber"), loss_name(nn.L1Loss), loss_name(nn.L1Loss())
    ('huber', 'L1Loss', 'L1Loss')
    """
    if isinstance(loss, Loss) or (isinstance(loss, type) and issubclass(loss, Loss)):
        return loss.name
    if isinstance(loss, str) or not callable(loss):
        return str(loss)
    return getattr(loss, "__name__", type(loss).__name__)


def probe_loss(loss: Loss, n_outputs: int) -> Loss:
    """Find out whether a loss returns a value for each row, unless that is known.

    Parameters
    ----------
    loss : Loss
    n_outputs : int
        Number of columns of y.

    Returns
    -------
    Loss
        With ``per_row`` set.

    Raises
    ------
    ValueError
        If the loss cannot be evaluated, or its result has the wrong type or shape.
    """
    if loss.per_row is not None:
        return loss
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
    if values.ndim and values.shape[0] != shape[0]:
        raise ValueError(
            f"The loss {loss.name!r} must return one number, one per row or one per element; "
            f"for predictions of shape {shape} it returned shape {tuple(values.shape)}."
        )
    probed = copy.copy(loss)
    probed.per_row = values.ndim > 0
    return probed


def _construct(loss: Any, options: Mapping[str, Any]) -> Loss:
    built: Loss = loss(**options)
    return built


def _wrap(function: LossFunction, name: str) -> Loss:
    loss = Loss(function, name)
    for attribute in ("link", "center_target", "check_target"):
        if hasattr(function, attribute):
            setattr(loss, attribute, getattr(function, attribute))
    return loss


@cache
def _parameters_of(loss: Any) -> list[str]:
    return list(inspect.signature(loss).parameters)


def _check_options(options: Mapping[str, Any], known: Any, *, owner: str) -> None:
    for option in options:
        if option not in known:
            raise ValueError(
                f"{owner} takes no {option!r} (loss__{option}).{did_you_mean(option, known)}"
            )
