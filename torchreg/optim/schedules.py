"""Schedules: how a name, a class or a callable and their options become one of torch's schedulers.

What they move, and when, is in :mod:`torchreg.optim.lr_schedule`.
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
class Entry:
    """A schedule that has a name.

    Parameters
    ----------
    cls : type
        Torch's scheduler.
    steps : str or None
        The argument that is the number of steps.
    settings : callable
        Gives further arguments that are ours, given the optimizer's numbers.
    set_by_us : frozenset of str
        Arguments of torch's class that are no options, since the fit knows them.
    """

    cls: type[LRScheduler]
    steps: str | None
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    set_by_us: frozenset[str]


def _none(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _one_cycle(numbers: Mapping[str, Any]) -> dict[str, Any]:
    own = {"max_lr": numbers["lr"]}
    if "betas" in numbers or numbers.get("momentum"):
        return own
    # Torch would give momentum to an optimizer that was asked to go without.
    return {**own, "cycle_momentum": False}


#: Schedules by name. Adding one is one entry here.
SCHEDULES: dict[str, Entry] = {
    "cosine": Entry(lr_scheduler.CosineAnnealingLR, "T_max", _none, frozenset({"T_max"})),
    "one_cycle": Entry(
        lr_scheduler.OneCycleLR,
        "total_steps",
        _one_cycle,
        frozenset({"max_lr", "total_steps", "epochs", "steps_per_epoch"}),
    ),
    "reduce_on_plateau": Entry(lr_scheduler.ReduceLROnPlateau, None, _none, frozenset({"mode"})),
}

CONSTANT_NAME = "constant"

#: Arguments of every scheduler that are no options.
_NO_OPTIONS = frozenset({"optimizer", "last_epoch", "verbose"})


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule, chosen and checked but not yet begun.

    Parameters
    ----------
    name : str
        For messages and records.
    build : callable or None
        Torch's class, or the user's callable; ``None`` leaves the learning rate as it is.
    options : dict
        Its keyword arguments, beside those of the fit.
    entry : Entry or None
        Of a schedule that was chosen by name.
    """

    name: str = CONSTANT_NAME
    build: Callable[..., Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    entry: Entry | None = None

    @property
    def moves(self) -> bool:
        """Whether the learning rate changes during a fit."""
        return self.build is not None

    def arguments(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Give the keyword arguments of torch's scheduler, but for the number of steps."""
        own = {} if self.entry is None else self.entry.settings(numbers)
        return {**own, **self.options}

    @property
    def steps(self) -> str | None:
        """Name the argument that is the number of steps, if there is one."""
        return None if self.entry is None else self.entry.steps


def build_schedule(
    schedule: str | type[LRScheduler] | Callable[..., Any],
    options: Mapping[str, Any],
    optimizer: OptimizerSpec,
) -> ScheduleSpec:
    """Read the ``schedule`` parameter: a name, a class or a callable, with its options.

    Parameters
    ----------
    schedule : str, type or callable
        ``"constant"``, ``"cosine"``, ``"one_cycle"``, ``"reduce_on_plateau"``, a class of
        ``torch.optim.lr_scheduler``, or a callable that makes a scheduler of an optimizer.
    options : mapping
        Further keyword arguments (``schedule__*``).
    optimizer : OptimizerSpec
        Whose learning rate is moved.

    Returns
    -------
    ScheduleSpec

    Raises
    ------
    ValueError
        If the name or an option is unknown, or the optimizer sizes its steps itself.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> from torchreg.optim.spec import build_optimizer
    >>> adam = build_optimizer("adam", None, {})
    >>> build_schedule("cosine", {"eta_min": 1e-5}, adam).options
    {'eta_min': 1e-05}
    """
    entry: Entry | None = None
    build: Callable[..., Any] | None = None
    if isinstance(schedule, str):
        name = schedule
        if name != CONSTANT_NAME:
            if name not in SCHEDULES:
                names = [CONSTANT_NAME, *SCHEDULES]
                raise ValueError(f"Unknown schedule {schedule!r}.{did_you_mean(name, names)}")
            entry = SCHEDULES[name]
            build = entry.cls
    elif callable(schedule):
        name, build = getattr(schedule, "__name__", type(schedule).__name__), schedule
    else:
        raise TypeError(
            "schedule expects a name such as 'cosine', a torch.optim.lr_scheduler class, or a "
            f"callable that makes a scheduler of an optimizer, got {schedule!r}."
        )
    _check_options(name, build, entry, options)
    if build is not None and optimizer.adapts_step_size:
        raise ValueError(
            f"schedule {name!r} moves the learning rate of each step, but optimizer "
            f"{optimizer.name!r} finds the sizes of its steps itself. Set schedule='constant', or "
            "take another optimizer, such as 'adam'."
        )
    return ScheduleSpec(name, build, dict(options), entry)


def _check_options(
    name: str,
    build: Callable[..., Any] | None,
    entry: Entry | None,
    options: Mapping[str, Any],
) -> None:
    """Refuse what the scheduler does not take."""
    known = frozenset() if build is None else _arguments_of(build)
    if known is None:
        return
    if entry is not None:
        known -= entry.set_by_us
    for option in options:
        if option in known:
            continue
        if entry is not None and option in entry.set_by_us:
            raise ValueError(
                f"schedule {name!r} sets {option!r} itself, from lr, max_epochs and the number of "
                f"batches: leave schedule__{option} out."
            )
        raise ValueError(
            f"schedule {name!r} takes no {option!r} (schedule__{option})."
            f"{did_you_mean(option, known)}"
        )


def _arguments_of(build: Callable[..., Any]) -> frozenset[str] | None:
    """Name the keyword arguments of a class or callable; ``None`` if it takes any."""
    if isinstance(build, type) and build.__module__ == lr_scheduler.__name__:
        return _arguments_of_torchs(build)
    try:
        parameters = [*inspect.signature(build).parameters.values()]
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    # The first one is the optimizer, whatever its name.
    return frozenset(p.name for p in parameters[1:]) - _NO_OPTIONS


@cache
def _arguments_of_torchs(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters) - _NO_OPTIONS
