"""Optimizers: how a name, a class and their options become an update rule.

Every ``torch.optim`` class that works on dense parameters can be named. Those that are
also written in :mod:`torchreg.optim.flat_optimizers` run without torch's optimizer object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from torchreg._utils import did_you_mean
from torchreg.optim.base import FlatOptimizer
from torchreg.optim.flat_optimizers import VECTOR_RULES
from torchreg.optim.lbfgs import LBFGS

#: Learning rates that suit standardized data, where torch's own do not; for names only,
#: a class keeps torch's own.
DEFAULT_LR: dict[str, float] = {
    "adam": 2e-3,
    "adamw": 2e-3,
    "adamax": 2e-3,
    "nadam": 2e-3,
    "radam": 2e-3,
    "rmsprop": 1e-3,
    "sgd": 1e-2,
}

#: Options that torch's own class does not have: only the rule on one vector reads them.
OWN_OPTIONS: dict[str, frozenset[str]] = {"lbfgs": frozenset({"stop_at_kinks"})}

#: Options that suit standardized data: a line search, and tolerances far below order 1; and that
#: suit networks of ReLU units, whose loss has kinks.
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
REFUSED: dict[str, str] = {
    "muon": "it takes matrices only and refuses the biases that every layer has",
    "sparseadam": "it takes sparse gradients only, and a dense network has dense ones",
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
    """An optimizer, chosen and checked but not yet holding parameters.

    Parameters
    ----------
    name : str
        Lower-case name, for messages.
    cls : type
        The ``torch.optim`` class.
    options : dict
        Its keyword arguments, learning rate included.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    options: dict[str, Any]

    @property
    def uses_line_search(self) -> bool:
        """Whether it evaluates the loss more than once a step, so that rounding is amplified."""
        return issubclass(self.cls, torch.optim.LBFGS)

    @property
    def wants_full_batch(self) -> bool:
        """Whether it compares gradients between steps, which needs the same rows in each."""
        return issubclass(self.cls, torch.optim.LBFGS | torch.optim.Rprop)

    @property
    def adapts_step_size(self) -> bool:
        """Whether it finds the sizes of its steps itself, and ``lr`` is at most their start."""
        return issubclass(self.cls, torch.optim.LBFGS | torch.optim.Rprop)

    @property
    def group(self) -> dict[str, Any]:
        """What a parameter group of torch's optimizer holds, beside parameters."""
        is_torchs = self.cls is _torch_optimizers().get(self.name)
        known = _parameters_of(self.name) if is_torchs else inspect.signature(self.cls).parameters
        defaults = {key: p.default for key, p in known.items() if p.default is not p.empty}
        return {**defaults, **self.torch_options}

    @property
    def torch_options(self) -> dict[str, Any]:
        """The options that torch's own class has."""
        own = OWN_OPTIONS.get(self.name, frozenset())
        return {key: value for key, value in self.options.items() if key not in own}

    def flat_optimizer(self, device: torch.device) -> FlatOptimizer | LBFGS | None:
        """Build the rule on one vector, or ``None`` where only torch's class will do."""
        rule: Any = LBFGS if self.uses_line_search else VECTOR_RULES.get(self.name)
        if rule is None or self.cls is not _torch_optimizers().get(self.name):
            return None
        understood = _options_of(rule)
        if not self.options.keys() <= understood or not all(
            _is_plain(value) for value in self.options.values()
        ):
            return None
        if self.uses_line_search and (
            device.type != "cpu" or self.options.get("line_search_fn") != "strong_wolfe"
        ):
            return None
        try:
            built: FlatOptimizer | LBFGS = rule(**self.options)
        except (TypeError, ValueError) as error:
            raise self._refused(error) from error
        return built

    def torch_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build torch's optimizer over these parameters."""
        try:
            return self.cls(parameters, **self.torch_options)
        # What torch says to betas that are one number of numpy's is an IndexError.
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ValueError:
        return ValueError(f"optimizer {self.name!r} refused its options {self.options}: {error}")


def build_optimizer(
    optimizer: str | type[torch.optim.Optimizer], lr: float | None, options: Mapping[str, Any]
) -> OptimizerSpec:
    """Read the ``optimizer`` parameter: a name or a class, with its options.

    Parameters
    ----------
    optimizer : str or type
        Lower-case name of a ``torch.optim`` class, or any ``torch.optim.Optimizer`` class.
    lr : float or None
        Learning rate; ``None`` takes one that suits standardized data for a name, and
        torch's own default for a class.
    options : mapping
        Further keyword arguments (``optimizer__*``).

    Returns
    -------
    OptimizerSpec

    Raises
    ------
    ValueError
        If the name or an option is unknown, the learning rate is given twice, or the class
        needs other parameters than a dense network has.
    TypeError
        If it is neither a name nor an optimizer class.

    Examples
    --------
    >>> build_optimizer("rprop", 0.02, {}).options
    {'lr': 0.02}
    """
    known = _torch_optimizers()
    if isinstance(optimizer, str):
        name = optimizer.lower()
        if name not in known:
            usable = set(known) - set(REFUSED)
            raise ValueError(f"Unknown optimizer {optimizer!r}.{did_you_mean(name, usable)}")
        cls = known[name]
    elif isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        name, cls = optimizer.__name__.lower(), optimizer
    else:
        raise TypeError(
            "optimizer expects a name such as 'adam', or a torch.optim.Optimizer class, "
            f"got {optimizer!r}."
        )
    if name in REFUSED and cls is known.get(name):
        raise ValueError(
            f"optimizer {name!r} cannot train this network: {REFUSED[name]}. "
            "Take 'adamw', for example."
        )
    is_torchs = cls is known.get(name)
    parameters = _parameters_of(name) if is_torchs else inspect.signature(cls).parameters
    own = OWN_OPTIONS.get(name, frozenset()) if isinstance(optimizer, str) else frozenset()
    unknown = [option for option in options if option not in parameters and option not in own]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(
            f"optimizer {name!r} takes no {unknown[0]!r} (optimizer__{unknown[0]})."
            f"{did_you_mean(unknown[0], (set(parameters) | own) - {'params', 'lr'})}"
        )
    settings = dict(options)
    if isinstance(optimizer, str):
        settings = {"lr": DEFAULT_LR.get(name), **DEFAULT_OPTIONS.get(name, {}), **settings}
    if lr is not None:
        if "lr" in options:
            raise ValueError(
                f"lr={lr!r} and optimizer__lr={options['lr']!r} are the same parameter under two "
                "names: give one of them."
            )
        settings["lr"] = lr
    if settings.get("lr") is None:
        # torch's own default, written down, so that what trains is what is shown.
        default = parameters["lr"].default if "lr" in parameters else inspect.Parameter.empty
        settings.pop("lr", None)
        if default is not inspect.Parameter.empty:
            settings["lr"] = default
    return OptimizerSpec(name, cls, settings)


@cache
def _parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """Read the signature of one of torch's classes once; a user's would be kept alive by this."""
    return inspect.signature(_torch_optimizers()[name]).parameters


@cache
def _options_of(rule: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(rule).parameters)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
