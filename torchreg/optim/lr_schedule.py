"""Learning rates of a fit, computed by the schedulers of ``torch.optim.lr_scheduler``.

A scheduler changes the hyperparameters of a dummy optimizer, and these are copied to whatever takes
the steps: a flat optimizer of :mod:`torchreg.optim.flat_optimizers` or a torch optimizer. A flat
optimizer needs no torch optimizer, whose first use costs a process more than a second of imports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from torchreg.optim.schedules import ScheduleSpec
from torchreg.optim.spec import OptimizerSpec

#: Classes that torch documents to move after every batch; the others move after every epoch.
_BY_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


class LRSchedule:
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
    every : {"never", "step", "epoch", "loss"}
        When they move: after each step, after each epoch, or by the loss of each epoch.

    Raises
    ------
    ValueError
        If the scheduler refuses its options, or the optimizer has no learning rate.
    TypeError
        If the user's callable returns no scheduler.

    Examples
    --------
    >>> from torchreg.optim.spec import build_optimizer
    >>> from torchreg.optim.schedules import build_schedule
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
        self.standin = _DummyOptimizer(optimizer.group)
        self.scheduler, self.numbers = self._begin(optimizer, n_steps)
        self.every = _when_moves(spec, type(self.scheduler))

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
        arguments, steps = spec.arguments(numbers), spec.steps
        if steps is not None:
            arguments[steps] = n_steps
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
                f"schedule {spec.name!r} must make a scheduler of torch.optim.lr_scheduler, it "
                f"returned {type(scheduler).__name__}."
            )
        return scheduler, first

    def after_step(self) -> None:
        """Hear that the weights were moved."""
        if self.every == "step":
            self._move()

    def after_epoch(self, loss: float) -> None:
        """Hear that an epoch has ended, and the loss that is watched."""
        if self.every == "loss":
            self._move(loss)
        elif self.every == "epoch":
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


class _DummyOptimizer(torch.optim.Optimizer):
    """The numbers of an optimizer, for a scheduler to move; it has no parameters and no state."""

    # Torch's own __init__ would import torch._dynamo, and ask for parameters.
    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.defaults = dict(numbers)
        self.param_groups = [{"params": [], **numbers}]
        self.state = defaultdict(dict)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take no step; torch's schedulers ask whether one was taken."""


def when_it_moves(spec: ScheduleSpec, optimizer: OptimizerSpec) -> str:
    """Tell when a schedule moves the learning rate; see :class:`LRSchedule`.

    Examples
    --------
    >>> from torchreg.optim.spec import build_optimizer
    >>> from torchreg.optim.schedules import build_schedule
    >>> adam = build_optimizer("adam", None, {})
    >>> names = ("constant", "cosine", "reduce_on_plateau")
    >>> [when_it_moves(build_schedule(name, {}, adam), adam) for name in names]
    ['never', 'step', 'loss']
    """
    if spec.entry is not None:
        return _when_moves(spec, spec.entry.cls)
    return LRSchedule(spec, optimizer, n_steps=1).every


def sharing_key(spec: ScheduleSpec, optimizer: OptimizerSpec, n_steps: int) -> Hashable:
    """Describe a course so that those of one description are the same; ``None`` is like no other.

    What depends on losses or on the user's code is every network's own.
    """
    if spec.entry is None or when_it_moves(spec, optimizer) == "loss":
        return None
    return (spec.name, repr(spec.options), repr(optimizer.group), n_steps)


def _when_moves(spec: ScheduleSpec, scheduler: type) -> str:
    if not spec.moves:
        return "never"
    if issubclass(scheduler, lr_scheduler.ReduceLROnPlateau):
        return "loss"
    return "step" if spec.entry is not None or issubclass(scheduler, _BY_STEP) else "epoch"
