"""Schedules: how the learning rate moves during a fit, by torch's own schedulers.

A scheduler of ``torch.optim.lr_scheduler`` moves the numbers of a *stand-in* for the optimizer,
and those are handed to whatever takes the steps: the rules of :mod:`torchreg.rules`, or a torch
optimizer. So the learning rates are torch's, and its optimizer, whose first use costs a fresh
process more than a second of imports, is not needed.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from torchreg._errors import did_you_mean
from torchreg.optimizers import OptimizerSpec


@dataclass(frozen=True)
class Entry:
    """A schedule that has a name.

    Parameters
    ----------
    cls : type
        Torch's scheduler.
    settings : callable
        Gives the arguments that are ours, given the optimizer's numbers and the number of steps.
    set_by_us : frozenset of str
        Arguments of torch's class that are no options, since the fit knows them.
    """

    cls: type[LRScheduler]
    settings: Callable[[Mapping[str, Any], int], dict[str, Any]]
    set_by_us: frozenset[str] = frozenset()


def _one_cycle(numbers: Mapping[str, Any], n_steps: int) -> dict[str, Any]:
    # Torch would give momentum to an optimizer that was asked to go without.
    cycles = "betas" in numbers or bool(numbers.get("momentum"))
    return {"max_lr": numbers["lr"], "total_steps": n_steps, "cycle_momentum": cycles}


#: Schedules by name. Adding one is one entry here.
SCHEDULES: dict[str, Entry] = {
    "cosine": Entry(
        lr_scheduler.CosineAnnealingLR, lambda _, n_steps: {"T_max": n_steps}, frozenset({"T_max"})
    ),
    "one_cycle": Entry(
        lr_scheduler.OneCycleLR,
        _one_cycle,
        frozenset({"max_lr", "total_steps", "epochs", "steps_per_epoch"}),
    ),
    "reduce_on_plateau": Entry(
        lr_scheduler.ReduceLROnPlateau, lambda _, n_steps: {}, frozenset({"mode"})
    ),
}

CONSTANT_NAME = "constant"

#: Classes that torch documents to move after every batch; the others move after every epoch.
_BY_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)

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

    def arguments(self, numbers: Mapping[str, Any], n_steps: int) -> dict[str, Any]:
        """Give the keyword arguments of torch's scheduler, for a fit of so many steps."""
        own = {} if self.entry is None else self.entry.settings(numbers, n_steps)
        return {**own, **self.options}

    def key(self, optimizer: OptimizerSpec, n_steps: int) -> Hashable:
        """Describe a course so that those of one description are the same; ``None`` is unique.

        What depends on losses or on the user's code is every network's own.
        """
        if self.entry is None or self.entry.cls is lr_scheduler.ReduceLROnPlateau:
            return None
        return (self.name, repr(self.options), repr(optimizer.group), n_steps)


class Course:
    """The learning rates of one fit, one after another.

    Parameters
    ----------
    spec : ScheduleSpec
    optimizer : OptimizerSpec
        Whose learning rate it is.
    n_steps : int
        How many steps the fit takes, at most.

    Attributes
    ----------
    numbers : dict of str to float
        Those of the next step: ``lr``, and ``beta1`` or ``momentum`` where the optimizer has it.

    Raises
    ------
    ValueError
        If the scheduler refuses its options, or the optimizer has no learning rate.
    TypeError
        If the user's callable returns no scheduler.

    Examples
    --------
    >>> from torchreg.optimizers import build_optimizer
    >>> sgd = build_optimizer("sgd", 0.1, {})
    >>> course = Course(build_schedule("cosine", {}, sgd), sgd, n_steps=2)
    >>> rates = [course.numbers["lr"]]
    >>> for _ in range(2):
    ...     course.after_step()
    ...     rates.append(course.numbers["lr"])
    >>> [round(rate, 12) for rate in rates]
    [0.1, 0.05, 0.0]
    """

    def __init__(self, spec: ScheduleSpec, optimizer: OptimizerSpec, n_steps: int) -> None:
        self.spec = spec
        self.standin = _StandIn(optimizer.group)
        self.scheduler, self.numbers = self._begin(optimizer, n_steps)
        plateau = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
        by_name = spec.entry is not None
        self.by_loss = plateau
        self.by_step = not plateau and (by_name or isinstance(self.scheduler, _BY_STEP))
        self.by_epoch = self.scheduler is not None and not self.by_step

    def _begin(
        self, optimizer: OptimizerSpec, n_steps: int
    ) -> tuple[LRScheduler | None, dict[str, float]]:
        spec = self.spec
        if spec.build is None:
            return None, self._read()
        numbers = optimizer.group
        if "lr" not in numbers:
            raise ValueError(
                f"schedule {spec.name!r} expects an optimizer with a learning rate, but "
                f"{optimizer.name!r} has no lr. Set schedule='constant'."
            )
        arguments = spec.arguments(numbers, n_steps)
        try:
            scheduler = spec.build(self.standin, **arguments)
            first = self._read()
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise ValueError(
                f"schedule {spec.name!r} refused its options {arguments} for {n_steps} steps: "
                f"{error}"
            ) from error
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"schedule {spec.name!r} must return a torch.optim.lr_scheduler.LRScheduler, it "
                f"returned {type(scheduler).__name__}."
            )
        return scheduler, first

    def after_step(self) -> None:
        """Hear that the weights were moved."""
        if self.by_step:
            self._move()

    def after_epoch(self, loss: float) -> None:
        """Hear that an epoch has ended, and the loss that is watched."""
        if self.by_loss:
            self._move(loss)
        elif self.by_epoch:
            self._move()

    def _move(self, *loss: float) -> None:
        # Torch warns of a scheduler that moves before its optimizer has.
        self.standin.step()
        scheduler: Any = self.scheduler
        try:
            scheduler.step(*loss)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            moves = getattr(scheduler, "last_epoch", "some")
            raise ValueError(
                f"schedule {self.spec.name!r} failed after {moves} moves: {error}"
            ) from error
        self.numbers = self._read()

    def _read(self) -> dict[str, float]:
        group = self.standin.param_groups[0]
        plain = (name for name in ("lr", "momentum") if name in group)
        numbers: dict[str, float] = {name: float(group[name]) for name in plain}
        if "betas" in group:
            numbers["beta1"] = float(group["betas"][0])
        return numbers


class _StandIn(torch.optim.Optimizer):
    """The numbers of an optimizer, for a scheduler to move; it has no parameters and no state."""

    # Torch's own __init__ would import torch._dynamo, and ask for parameters.
    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.defaults = dict(numbers)
        self.param_groups = [{"params": [], **numbers}]
        self.state = defaultdict(dict)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take no step; torch's schedulers ask whether one was taken."""


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
    >>> from torchreg.optimizers import build_optimizer
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
    if build is not None and optimizer.sizes_own_steps:
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
