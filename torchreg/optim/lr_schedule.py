"""From the `schedule` parameter to the learning rates of a fit.

The schedulers of ``torch.optim.lr_scheduler`` compute them: they change the hyperparameters of a
dummy optimizer, which are copied to the optimizer that takes the steps: a flat optimizer, which
avoids the slow imports of torch's, or a torch optimizer.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from torchreg._utils import did_you_mean
from torchreg.optim.spec import NamedSchedule, OptimizerSpec, ScheduleSpec


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

#: Arguments of all schedulers that are not options.
_NOT_OPTIONS = frozenset({"optimizer", "last_epoch", "verbose"})


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
        if name != ScheduleSpec.name:
            if name not in SCHEDULES:
                names = [ScheduleSpec.name, *SCHEDULES]
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


#: Classes that torch documents to be stepped after every batch; all others after every epoch.
_STEPPED_PER_BATCH = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)

#: What the user's code may raise inside a scheduler.
_USER_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


class LRSchedule:
    """Sequence of learning rates of one fit.

    Parameters
    ----------
    spec : ScheduleSpec
    optimizer : OptimizerSpec
        The optimizer whose learning rate is scheduled.
    n_steps : int
        Maximum number of steps of the fit.

    Attributes
    ----------
    hyperparams : dict of str to float
        Those of the next step: ``lr``, and ``beta1`` or ``momentum`` if the optimizer has it.
    interval : {"never", "step", "epoch", "loss"}
        When they change: after each step, after each epoch, or depending on the loss of each
        epoch.

    Raises
    ------
    ValueError
        If the options of the scheduler are invalid, or the optimizer has no learning rate.
    TypeError
        If the user's callable does not return a scheduler.

    Examples
    --------
    >>> from torchreg.optim import build_optimizer, build_schedule
    >>> sgd = build_optimizer("sgd", 0.1, {})
    >>> schedule = LRSchedule(build_schedule("cosine", {}, sgd), sgd, n_steps=2)
    >>> rates = [schedule.hyperparams["lr"]]
    >>> for _ in range(2):
    ...     schedule.after_step()
    ...     rates.append(schedule.hyperparams["lr"])
    >>> [round(rate, 12) for rate in rates]
    [0.1, 0.05, 0.0]
    """

    def __init__(self, spec: ScheduleSpec, optimizer: OptimizerSpec, n_steps: int) -> None:
        self.spec = spec
        self.optimizer = _DummyOptimizer(optimizer.defaults)
        self.scheduler, self.hyperparams = self._build_scheduler(optimizer, n_steps)
        self.interval = _interval(spec, type(self.scheduler))

    def _build_scheduler(
        self, optimizer: OptimizerSpec, n_steps: int
    ) -> tuple[LRScheduler | None, dict[str, float]]:
        spec = self.spec
        if spec.build is None:
            return None, self._read_hyperparams()
        if "lr" not in optimizer.defaults:
            raise ValueError(
                f"schedule {spec.name!r} expects an optimizer with a learning rate, but "
                f"{optimizer.name!r} has no lr. Set schedule='constant'."
            )
        arguments = spec.arguments(optimizer.defaults)
        if spec.n_steps_name is not None:
            arguments[spec.n_steps_name] = n_steps
        try:
            scheduler = spec.build(self.optimizer, **arguments)
            hyperparams = self._read_hyperparams()
        except _USER_ERRORS as error:
            raise ValueError(
                f"Invalid options for schedule {spec.name!r}, {arguments}, with {n_steps} steps: "
                f"{error}"
            ) from error
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"schedule {spec.name!r} must return a scheduler of torch.optim.lr_scheduler, got "
                f"{type(scheduler).__name__}."
            )
        return scheduler, hyperparams

    def after_step(self) -> None:
        """Update the hyperparameters after a step of the optimizer."""
        if self.interval == "step":
            self._step_scheduler()

    def after_epoch(self, loss: float) -> None:
        """Update the hyperparameters after an epoch, given the monitored loss."""
        if self.interval == "loss":
            self._step_scheduler(loss)
        elif self.interval == "epoch":
            self._step_scheduler()

    def _step_scheduler(self, *loss: float) -> None:
        # Torch warns if a scheduler is stepped before its optimizer.
        self.optimizer.step()
        scheduler: Any = self.scheduler
        try:
            scheduler.step(*loss)
        except _USER_ERRORS as error:
            n_done = getattr(scheduler, "last_epoch", "some")
            raise ValueError(
                f"schedule {self.spec.name!r} failed after {n_done} updates: {error}"
            ) from error
        self.hyperparams = self._read_hyperparams()

    def _read_hyperparams(self) -> dict[str, float]:
        group = self.optimizer.param_groups[0]
        values = {name: float(group[name]) for name in ("lr", "momentum") if name in group}
        return values | ({"beta1": float(group["betas"][0])} if "betas" in group else {})


class _DummyOptimizer(torch.optim.Optimizer):
    """Hyperparameters for a scheduler to change, without parameters and state."""

    # Torch's own __init__ would import torch._dynamo and require parameters.
    def __init__(self, hyperparams: Mapping[str, Any]) -> None:
        self.defaults = dict(hyperparams)
        self.param_groups = [{"params": [], **hyperparams}]
        self.state = defaultdict(dict)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing; schedulers check that it was called."""


def lr_interval(spec: ScheduleSpec, optimizer: OptimizerSpec) -> str:
    """Return when a schedule changes the learning rate; see :class:`LRSchedule`.

    Examples
    --------
    >>> from torchreg.optim import build_optimizer, build_schedule
    >>> adam = build_optimizer("adam", None, {})
    >>> names = ("constant", "cosine", "reduce_on_plateau")
    >>> [lr_interval(build_schedule(name, {}, adam), adam) for name in names]
    ['never', 'step', 'loss']
    """
    if spec.named is not None:
        return _interval(spec, spec.named.cls)
    return LRSchedule(spec, optimizer, n_steps=1).interval


def sharing_key(spec: ScheduleSpec, optimizer: OptimizerSpec, n_steps: int) -> Hashable:
    """Return a key that is equal for equal schedules.

    It is ``None`` if the schedule depends on losses or on the user's code, and cannot be shared.
    """
    if spec.named is None or lr_interval(spec, optimizer) == "loss":
        return None
    return (spec.name, repr(spec.options), repr(optimizer.defaults), n_steps)


def _interval(spec: ScheduleSpec, scheduler: type) -> str:
    if not spec.changes_lr:
        return "never"
    if issubclass(scheduler, lr_scheduler.ReduceLROnPlateau):
        return "loss"
    per_step = spec.named is not None or issubclass(scheduler, _STEPPED_PER_BATCH)
    return "step" if per_step else "epoch"
