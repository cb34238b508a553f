"""From the `optimizer` parameter to an optimizer; the specification of a schedule.

Every ``torch.optim`` class for dense parameters can be named. Those that are also implemented in
:mod:`torchreg.optim.flat_optimizers` run without torch's optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from torchreg._utils import did_you_mean
from torchreg.optim.base import FlatOptimizer
from torchreg.optim.flat_optimizers import FLAT_OPTIMIZERS
from torchreg.optim.lbfgs import LBFGS

#: Default learning rates for standardized data, by name. A class keeps torch's own default.
DEFAULT_LR: dict[str, float] = {
    "adam": 2e-3,
    "adamw": 2e-3,
    "adamax": 2e-3,
    "nadam": 2e-3,
    "radam": 2e-3,
    "rmsprop": 1e-3,
    "sgd": 1e-2,
}

#: Options that only the flat optimizer has.
FLAT_ONLY_OPTIONS: dict[str, frozenset[str]] = {"lbfgs": frozenset({"stop_at_kinks"})}

#: Default options for standardized data, whose losses are of order 1 or less, and for ReLU
#: networks, whose losses have kinks.
DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    "lbfgs": {
        "line_search_fn": "strong_wolfe",
        "tolerance_grad": 1e-10,
        "tolerance_change": 1e-14,
        "history_size": 20,
        "stop_at_kinks": True,
    },
    "sgd": {"momentum": 0.9},
}

#: Why a class of torch.optim cannot train a dense network by itself.
UNUSABLE: dict[str, str] = {
    "muon": "it supports matrices only, and the biases of layers are vectors",
    "sparseadam": "it supports sparse gradients only, and those of a dense network are dense",
}


@cache
def _torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    classes = (value for value in vars(torch.optim).values() if isinstance(value, type))
    return {
        cls.__name__.lower(): cls
        for cls in classes
        if issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }


@dataclass(frozen=True)
class OptimizerSpec:
    """A validated optimizer with its options, without parameters.

    Parameters
    ----------
    name : str
        Lower-case name, for messages.
    cls : type
        The ``torch.optim`` class.
    options : dict
        Its keyword arguments, including the learning rate.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    options: dict[str, Any]

    @property
    def uses_line_search(self) -> bool:
        """Whether a step evaluates the loss several times, which amplifies rounding errors."""
        return issubclass(self.cls, torch.optim.LBFGS)

    @property
    def needs_full_batch(self) -> bool:
        """Whether it compares the gradients of steps, which must be those of the same rows."""
        return issubclass(self.cls, torch.optim.LBFGS | torch.optim.Rprop)

    @property
    def adapts_step_size(self) -> bool:
        """Whether it computes its own step sizes, so that `lr` is at most an initial value."""
        return issubclass(self.cls, torch.optim.LBFGS | torch.optim.Rprop)

    @property
    def defaults(self) -> dict[str, Any]:
        """The hyperparameters in a parameter group of torch's optimizer."""
        parameters = _init_parameters(self.name, self.cls)
        values = {key: p.default for key, p in parameters.items() if p.default is not p.empty}
        return {**values, **self.torch_options}

    @property
    def torch_options(self) -> dict[str, Any]:
        """The options that torch's class has."""
        flat_only = FLAT_ONLY_OPTIONS.get(self.name, frozenset())
        return {key: value for key, value in self.options.items() if key not in flat_only}

    def build_flat(self, device: torch.device) -> FlatOptimizer | LBFGS | None:
        """Build the flat optimizer; ``None`` if only torch's class supports these options."""
        cls: Any = LBFGS if self.uses_line_search else FLAT_OPTIMIZERS.get(self.name)
        if cls is None or self.cls is not _torch_optimizers().get(self.name):
            return None
        if not (
            self.options.keys() <= _flat_options(cls) and all(map(_is_plain, self.options.values()))
        ):
            return None
        if self.uses_line_search and (
            device.type != "cpu" or self.options.get("line_search_fn") != "strong_wolfe"
        ):
            return None
        try:
            optimizer: FlatOptimizer | LBFGS = cls(**self.options)
        except (TypeError, ValueError) as error:
            raise self._invalid_options(error) from error
        return optimizer

    def build_torch(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build torch's optimizer of these parameters."""
        try:
            return self.cls(parameters, **self.torch_options)
        # For betas that are a single NumPy number, torch raises an IndexError.
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise self._invalid_options(error) from error

    def _invalid_options(self, error: Exception) -> ValueError:
        return ValueError(f"Invalid options for optimizer {self.name!r}, {self.options}: {error}")


@dataclass(frozen=True)
class NamedSchedule:
    """A schedule that can be chosen by name.

    Parameters
    ----------
    cls : type
        Torch's scheduler.
    n_steps_name : str or None
        Its argument for the number of steps.
    reserved : frozenset of str
        Its arguments that the fit sets and the user cannot.
    derive : callable
        Maps the hyperparameters of the optimizer to further arguments.
    """

    cls: type[LRScheduler]
    n_steps_name: str | None
    reserved: frozenset[str]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}


@dataclass(frozen=True)
class ScheduleSpec:
    """A validated schedule with its options, without an optimizer.

    Parameters
    ----------
    name : str
        For messages and records.
    build : callable or None
        Torch's class or the user's callable; ``None`` for a constant learning rate.
    options : dict
        Its keyword arguments, in addition to those that the fit sets.
    named : NamedSchedule or None
        The entry of :data:`SCHEDULES`, if the schedule was chosen by name.
    """

    name: str = "constant"
    build: Callable[..., Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    named: NamedSchedule | None = None

    @property
    def changes_lr(self) -> bool:
        """Whether the learning rate changes during a fit."""
        return self.build is not None

    def arguments(self, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of torch's scheduler, except the number of steps."""
        derived = {} if self.named is None else self.named.derive(hyperparams)
        return {**derived, **self.options}

    @property
    def n_steps_name(self) -> str | None:
        """The argument for the number of steps, if there is one."""
        return None if self.named is None else self.named.n_steps_name


def build_optimizer(
    optimizer: str | type[torch.optim.Optimizer], lr: float | None, options: Mapping[str, Any]
) -> OptimizerSpec:
    """Validate the `optimizer` parameter and its options.

    Parameters
    ----------
    optimizer : str or type
        Name of a ``torch.optim`` class, in any case, or a ``torch.optim.Optimizer`` class.
    lr : float or None
        Learning rate. ``None`` is a default for standardized data if `optimizer` is a name, and
        torch's default if it is a class.
    options : mapping
        Further keyword arguments (``optimizer__*``).

    Returns
    -------
    OptimizerSpec

    Raises
    ------
    ValueError
        If the name or an option is unknown, the learning rate is given twice, or the class
        cannot train a dense network.
    TypeError
        If it is neither a name nor an optimizer class.

    Examples
    --------
    >>> build_optimizer("rprop", 0.02, {}).options
    {'lr': 0.02}
    """
    name, cls = _find_class(optimizer)
    parameters = _init_parameters(name, cls)
    is_named = isinstance(optimizer, str)
    flat_only = FLAT_ONLY_OPTIONS.get(name, frozenset()) if is_named else frozenset()
    unknown = [key for key in options if key not in parameters and key not in flat_only]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(
            f"optimizer {name!r} takes no {unknown[0]!r} (optimizer__{unknown[0]})."
            f"{did_you_mean(unknown[0], (set(parameters) | flat_only) - {'params', 'lr'})}"
        )
    settings = dict(options)
    if is_named:
        settings = {"lr": DEFAULT_LR.get(name), **DEFAULT_OPTIONS.get(name, {}), **settings}
    if lr is not None:
        if "lr" in options:
            raise ValueError(
                f"lr={lr!r} and optimizer__lr={options['lr']!r} set the same parameter. "
                "Set only one of them."
            )
        settings["lr"] = lr
    if settings.get("lr") is None:
        # Store torch's default, so that the options show the rate that is used.
        default = parameters["lr"].default if "lr" in parameters else inspect.Parameter.empty
        settings.pop("lr", None)
        if default is not inspect.Parameter.empty:
            settings["lr"] = default
    return OptimizerSpec(name, cls, settings)


def _find_class(
    optimizer: str | type[torch.optim.Optimizer],
) -> tuple[str, type[torch.optim.Optimizer]]:
    """Return the lower-case name and the class."""
    known = _torch_optimizers()
    if isinstance(optimizer, str):
        name = optimizer.lower()
        if name not in known:
            usable = set(known) - set(UNUSABLE)
            raise ValueError(f"Unknown optimizer {optimizer!r}.{did_you_mean(name, usable)}")
        cls = known[name]
    elif isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        name, cls = optimizer.__name__.lower(), optimizer
    else:
        raise TypeError(
            "optimizer must be a name such as 'adam' or a torch.optim.Optimizer class, "
            f"got {optimizer!r}."
        )
    if name in UNUSABLE and cls is known.get(name):
        raise ValueError(
            f"optimizer {name!r} cannot train this network: {UNUSABLE[name]}. "
            "Use another optimizer, such as 'adamw'."
        )
    return name, cls


def _init_parameters(
    name: str, cls: type[torch.optim.Optimizer]
) -> Mapping[str, inspect.Parameter]:
    if cls is _torch_optimizers().get(name):
        return _torch_init_parameters(name)
    return inspect.signature(cls).parameters


@cache
def _torch_init_parameters(name: str) -> Mapping[str, inspect.Parameter]:
    # By name, because a cache by class would keep the user's classes alive.
    return inspect.signature(_torch_optimizers()[name]).parameters


@cache
def _flat_options(cls: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
