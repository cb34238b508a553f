"""What update rules on one vector have in common, and how those of many networks become one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Stateful:
    """Gives and takes the attributes that change from step to step.

    They do not exist, or are ``None``, before the first step.
    """

    remembered: ClassVar[tuple[str, ...]]

    def memory(self) -> dict[str, Any]:
        """Give what it remembers from one step to the next."""
        return {name: getattr(self, name) for name in self.remembered if hasattr(self, name)}

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave, in this or another process."""
        vars(self).update(memory)


class FlatOptimizer(Stateful, ABC):
    """An update of all parameters as one vector.

    The rule of a stack (:func:`stack_rules`) moves a matrix with a row for each network, and
    those of its ``numbers`` in which they differ have shape (n_networks, 1).
    """

    numbers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def update(self, params: Tensor, gradient: Tensor) -> None:
        """Move ``params`` in place; both have shape (n_parameters,)."""

    def set_numbers(self, name: str, values: Sequence[float], *, like: Tensor) -> None:
        """Give each network of a stack its own value of a number.

        Parameters
        ----------
        name : str
            One of ``numbers``.
        values : sequence of float
            One for each network.
        like : Tensor
            Of the dtype and on the device of the parameters.
        """
        # (n_networks,) -> (n_networks, 1)
        alike = values.count(values[0]) == len(values)
        setattr(self, name, values[0] if alike else like.new_tensor(values).unsqueeze(1))

    def of(self, places: list[int]) -> FlatOptimizer:
        """Give the rule of some networks of a stack, those in these rows."""
        rule = copy.copy(self)
        for name, value in vars(self).items():
            kept = tree_map_only(Tensor, lambda t: t[places] if t.ndim == 2 else t, value)
            setattr(rule, name, kept)
        return rule


Number = float | Tensor


def some(number: Number) -> bool:
    """Whether a number is not 0, of any network."""
    return isinstance(number, Tensor) or number != 0


def plus(a: Tensor, b: Tensor, factor: Number) -> Tensor:
    """Compute a + factor b."""
    if isinstance(factor, Tensor):
        return torch.addcmul(a, b, factor)
    return torch.add(a, b, alpha=factor)


def add_(a: Tensor, b: Tensor, factor: Number, *, sign: int = 1) -> None:
    """Put a + sign factor b in the place of a."""
    if isinstance(factor, Tensor):
        a.addcmul_(b, factor, value=sign)
    else:
        a.add_(b, alpha=sign * factor)


def subtract_(a: Tensor, b: Tensor, factor: Number) -> None:
    """Put a - factor b in the place of a."""
    add_(a, b, factor, sign=-1)


def rule_signature(rule: FlatOptimizer) -> Hashable:
    """Describe a new rule so that those of one description can be stacked."""
    fixed = {
        name: value
        for name, value in vars(rule).items()
        if name not in rule.numbers and name not in rule.remembered
    }
    return (type(rule), repr(fixed))


def stack_rules(rules: Sequence[FlatOptimizer], like: Tensor) -> FlatOptimizer:
    """Make one rule of those of many networks.

    Parameters
    ----------
    rules : sequence of rules
        New, and of one kind (:func:`rule_signature`).
    like : Tensor
        Of the dtype and on the device of the parameters.

    Returns
    -------
    FlatOptimizer
        Moves a matrix of shape (n_networks, n_parameters).

    Examples
    --------
    >>> from torchreg.optim.flat_optimizers import SGD
    >>> theta = torch.zeros(2, 1)
    >>> stack_rules([SGD(lr=0.1), SGD(lr=0.2)], theta).update(theta, torch.ones(2, 1))
    >>> theta
    tensor([[-0.1000],
            [-0.2000]])
    """
    stacked: Any = copy.copy(rules[0])
    for name in stacked.numbers:
        stacked.set_numbers(name, [float(getattr(rule, name)) for rule in rules], like=like)
    rule: FlatOptimizer = stacked
    return rule


def require(holds: bool, expected: str, came: object) -> None:
    """Refuse an option in words."""
    if not holds:
        raise ValueError(f"The optimizer expects {expected}, got {came!r}.")
