"""From the `schedule` parameter to a learning-rate scheduler of torch.

:mod:`torchreg.optim.lr_schedule` runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from torchreg._utils import did_you_mean
from torchreg.optim.spec import OptimizerSpec


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


def _derive_one_cycle(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {"max_lr": hyperparams["lr"]}
    if "betas" in hyperparams or hyperparams.get("momentum"):
        return arguments
    # By default, torch would add momentum to an optimizer without momentum.
    return {**arguments, "cycle_momentum": False}


#: Schedules by name. To add one, add it here.
SCHEDULES: dict[str, NamedSchedule] = {
    "cosine": NamedSchedule(lr_scheduler.CosineAnnealingLR, "T_max", frozenset({"T_max"})),
    "one_cycle": NamedSchedule(
        lr_scheduler.OneCycleLR,
        "total_steps",
        frozenset({"max_lr", "total_steps", "epochs", "steps_per_epoch"}),
        _derive_one_cycle,
    ),
    "reduce_on_plateau": NamedSchedule(lr_scheduler.ReduceLROnPlateau, None, frozenset({"mode"})),
}

CONSTANT_NAME = "constant"

#: Arguments of all schedulers that are not options.
_NOT_OPTIONS = frozenset({"optimizer", "last_epoch", "verbose"})


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

    name: str = CONSTANT_NAME
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


def build_schedule(
    schedule: str | type[LRScheduler] | Callable[..., Any],
    options: Mapping[str, Any],
    optimizer: OptimizerSpec,
) -> ScheduleSpec:
    """Validate the `schedule` parameter and its options.

    Parameters
    ----------
    schedule : str, type or callable
        ``"constant"``, ``"cosine"``, ``"one_cycle"``, ``"reduce_on_plateau"``, a class of
        ``torch.optim.lr_scheduler``, or a callable that maps an optimizer to a scheduler.
    options : mapping
        Further keyword arguments (``schedule__*``).
    optimizer : OptimizerSpec
        The optimizer whose learning rate is scheduled.

    Returns
    -------
    ScheduleSpec

    Raises
    ------
    ValueError
        If the name or an option is unknown, or the optimizer computes its own step sizes.
    TypeError
        If it is neither a name, a class nor a callable.

    Examples
    --------
    >>> from torchreg.optim import build_optimizer
    >>> adam = build_optimizer("adam", None, {})
    >>> build_schedule("cosine", {"eta_min": 1e-5}, adam).options
    {'eta_min': 1e-05}
    """
    named: NamedSchedule | None = None
    build: Callable[..., Any] | None = None
    if isinstance(schedule, str):
        name = schedule
        if name != CONSTANT_NAME:
            if name not in SCHEDULES:
                names = [CONSTANT_NAME, *SCHEDULES]
                raise ValueError(f"Unknown schedule {schedule!r}.{did_you_mean(name, names)}")
            named = SCHEDULES[name]
            build = named.cls
    elif callable(schedule):
        name, build = getattr(schedule, "__name__", type(schedule).__name__), schedule
    else:
        raise TypeError(
            "schedule must be a name such as 'cosine', a torch.optim.lr_scheduler class, or a "
            f"callable that maps an optimizer to a scheduler, got {schedule!r}."
        )
    _check_options(name, build, named, options)
    if build is not None and optimizer.adapts_step_size:
        raise ValueError(
            f"schedule {name!r} cannot be combined with optimizer {optimizer.name!r}, which "
            "computes its own step sizes. Set schedule='constant' or use another optimizer, such "
            "as 'adam'."
        )
    return ScheduleSpec(name, build, dict(options), named)


def _check_options(
    name: str,
    build: Callable[..., Any] | None,
    named: NamedSchedule | None,
    options: Mapping[str, Any],
) -> None:
    """Raise a ValueError if the scheduler does not take an option."""
    known = frozenset() if build is None else _keyword_arguments(build)
    if known is None:
        return
    reserved = frozenset() if named is None else named.reserved
    known -= reserved
    for option in options:
        if option in reserved:
            raise ValueError(
                f"schedule {name!r} sets {option!r} itself, from lr, max_epochs and the number of "
                f"batches. Remove schedule__{option}."
            )
        if option not in known:
            raise ValueError(
                f"schedule {name!r} takes no {option!r} (schedule__{option})."
                f"{did_you_mean(option, known)}"
            )


def _keyword_arguments(build: Callable[..., Any]) -> frozenset[str] | None:
    """Return the keyword arguments of a class or callable; ``None`` if it takes any."""
    if isinstance(build, type) and build.__module__ == lr_scheduler.__name__:
        return _torch_keyword_arguments(build)
    try:
        parameters = [*inspect.signature(build).parameters.values()]
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    # The first one is the optimizer.
    return frozenset(p.name for p in parameters[1:]) - _NOT_OPTIONS


@cache
def _torch_keyword_arguments(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters) - _NOT_OPTIONS
