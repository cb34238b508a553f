"""The base class of losses, and how the ``loss`` parameter becomes one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchreg._utils import did_you_mean
from torchreg.losses.checks import check_gradient
from torchreg.losses.scores import r2
from torchreg.nn.links import Link

LossFunction = Callable[[Tensor, Tensor], Tensor]
Values = NDArray[np.float64]


class RawError(NamedTuple):
    """Conversion of a loss of standardized values to an error in the unit of y, and back.

    Both functions take an array of losses or errors, and the standard deviation of y.
    """

    #: Name of the error, such as ``"RMSE"``.
    name: str
    to_raw: Callable[[Values, float], Values]
    to_loss: Callable[[Values, float], Values]


class Loss:
    """A loss function together with its link, score and units.

    A subclass defines a loss once for the whole library: training, ``score``, loss curves,
    findings and scripts read its attributes. With the class keyword ``name`` it can be selected
    by that name, as in ``TorchRegressor(loss="log_cosh")``. The parameters of its constructor
    are then the nested parameters ``loss__*``.

    Parameters
    ----------
    function : callable
        Compares the network's output, of shape (n, n_outputs * per_output), with standardized
        targets of shape (n, n_outputs). It returns one value per element, one per row, or a
        single number. Scripts copy its source.
    name : str or None, default=None
        Name in messages; ``None`` keeps that of the class.
    link : Link or None, default=None
        Layer that turns the network's output into predictions; ``None`` if they are the same.

    Attributes
    ----------
    per_row : bool or None
        Whether ``function`` returns one value per row or element. One that returns a single number
        is called once for each row if rows have weights. ``None``: to be found by ``probe_loss``.
    center_target : bool
        Whether y is centred before it is scaled; otherwise it is divided by its mean.
    output_is_prediction : bool
        Whether the network's output is the prediction, so that findings may compare it with y.
    is_robust : bool
        Whether large residuals have a bounded influence, so that findings may recommend the loss.
    score_name : str
        Name of :meth:`score` in findings: ``"R2"``, or ``"D2"`` for the share of another loss.
    raw_error : RawError or None
        Error in the unit of y that is equivalent to the loss of one output.
    torch_names : tuple of str
        Names of losses of torch for which ``output_is_prediction``, ``raw_error`` and
        :meth:`loss_of_mean` hold, too.

    Examples
    --------
    >>> from torch.nn import functional
    >>> def log_cosh(prediction, target):
    ...     residual = prediction - target
    ...     return residual + functional.softplus(-2 * residual) - np.log(2)
    >>> class LogCosh(Loss):
    ...     output_is_prediction = True
    ...     def __init__(self):
    ...         super().__init__(log_cosh)
    >>> LogCosh()(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    tensor([[0.]])
    """

    name: str = "loss"
    link: Link | None
    per_row: bool | None = None
    center_target: bool = True
    output_is_prediction: ClassVar[bool] = False
    is_robust: ClassVar[bool] = False
    score_name: ClassVar[str] = "R2"
    raw_error: ClassVar[RawError | None] = None
    torch_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        if name is not None:
            known = LOSSES.setdefault(name, cls)
            if known.__module__ != cls.__module__:
                raise ValueError(f"The loss name {name!r} belongs to {known.__qualname__}.")
            LOSSES[name] = cls

    def __init__(
        self, function: LossFunction, name: str | None = None, link: Link | None = None
    ) -> None:
        self.function = function
        self.link = link
        if name is not None:
            self.name = name

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each element; see ``function`` for the shapes."""
        return self.function(prediction, target)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in parameters)
        return f"{type(self).__name__}({shown})"

    @property
    def per_output(self) -> int:
        """How many columns the network has for each column of y."""
        return 1 if self.link is None else self.link.per_output

    def check_target(self, y: Tensor, *, name: str, training: bool = True) -> None:
        """Raise a ``ValueError`` if the loss is not defined for targets in raw units.

        They have the shape (n, n_outputs); ``name`` is ``"y"`` or ``"y_val"``.
        """

    def score(self, y: Any, prediction: Any, sample_weight: Any = None) -> float:
        """Score predictions in raw units, of shape (n,) or (n, n_outputs): 1 is perfect.

        The score is :math:`R^2`, unless a subclass has another.
        """
        return r2(y, prediction, sample_weight)

    @classmethod
    def loss_of_mean(cls, std: Sequence[float]) -> float | None:
        """Compute the loss of predicting the mean of y; ``None`` if that is not known.

        ``std`` are the standard deviations of the outputs: 1 if they are standardized.
        """
        return None

    def mean(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        r"""Average over the rows, :math:`\frac1n \sum_i w_i\, \ell_i`.

        The mean of the weights, of shape (n,), over the whole training set is 1.
        """
        if weight is None:
            values = self.function(prediction, target)
            return values if self.per_row is False else values.mean()
        # A captured step computes the quotient once if the weights are the same in every step.
        return self.of_each_row(prediction, target) @ (weight / len(weight))

    def of_each_row(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each row: shape (n, ...) to (n,)."""
        if self.per_row is False:
            pairs = zip(prediction.split(1), target.split(1), strict=True)
            return torch.stack([self.function(p, t) for p, t in pairs])
        values = self.function(prediction, target)
        # (n, n_outputs) -> (n,), or (n, 1) -> (n,)
        one_each = values.numel() == len(values)
        return values.reshape(-1) if one_each else values.reshape(len(values), -1).mean(dim=1)

    def to(self, like: Tensor) -> Self:
        """Move the tensors of a loss module to the dtype and device of a tensor."""
        if isinstance(self.function, nn.Module):
            self.function.to(like.device, like.dtype)
        return self

    def copied(self) -> Self:
        """Copy a loss module, whose buffers a call may change."""
        if not isinstance(self.function, nn.Module):
            return self
        other = copy.copy(self)
        other.function = copy.deepcopy(self.function)
        return other


#: Losses by name.
LOSSES: dict[str, type[Loss]] = {}


def find_loss(name: str) -> type[Loss]:
    """Find the class that describes a loss, given its name or that of a loss of torch.

    Examples
    --------
    >>> find_loss("MSELoss").raw_error.name
    'RMSE'
    >>> find_loss("unknown").raw_error is None
    True
    """
    for loss in LOSSES.values():
        if name == loss.name or name in loss.torch_names:
            return loss
    return Loss


def build_loss(loss: str | type | Callable[..., Any], options: Mapping[str, Any]) -> Loss:
    """Build a loss from a name, a class, an instance or a function.

    Parameters
    ----------
    loss : str, class or callable
        A name of :data:`LOSSES`, a subclass of :class:`Loss` or of ``torch.nn.Module`` or an
        instance of one, or a function of predictions and targets. A module may have the
        attributes ``link``, ``center_target`` and ``check_target`` of :class:`Loss`.
    options : mapping
        Keyword arguments (``loss__*``).

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
        built: Loss = named(**options)
        return built
    if isinstance(loss, type) and issubclass(loss, Loss | nn.Module):
        parameters = inspect.signature(loss).parameters
        _check_options(options, parameters, owner=f"loss {loss.__name__}")
        if issubclass(loss, Loss):
            return loss(**options)
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
            loss.reduction = "none"  # type: ignore[assignment]  # not a submodule
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
    """Set ``per_row`` of a loss, unless it is known, by evaluating it on generated rows.

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
    check_gradient(loss.function, values, prediction, target, name=loss.name)
    if values.ndim and values.shape[0] != shape[0]:
        raise ValueError(
            f"The loss {loss.name!r} must return one number, one per row or one per element; "
            f"for predictions of shape {shape} it returned shape {tuple(values.shape)}."
        )
    probed = copy.copy(loss)
    probed.per_row = values.ndim > 0
    return probed


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
