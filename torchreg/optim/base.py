"""Base class of the flat optimizers, and how those of a stack of networks become one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Stateful:
    """Mixin that saves and restores the attributes in `state_names`.

    They do not exist, or are ``None``, before the first step.
    """

    state_names: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that persists between steps."""
        return {name: getattr(self, name) for name in self.state_names if hasattr(self, name)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from :meth:`state_dict`."""
        vars(self).update(state)


class FlatOptimizer(Stateful, ABC):
    """Optimizer of all parameters as one vector.

    For a stack of networks (:func:`stack_optimizers`) the parameters are a matrix with one row
    per network, and hyperparameters that differ have shape (n_networks, 1).
    """

    hyperparams: ClassVar[tuple[str, ...]]

    @abstractmethod
    def step(self, params: Tensor, grad: Tensor) -> None:
        """Update `params` in place; both have shape (n_parameters,)."""

    def set_hyperparam(self, name: str, values: Sequence[float], *, like: Tensor) -> None:
        """Set a hyperparameter for each network of a stack.

        Parameters
        ----------
        name : str
            One of `hyperparams`.
        values : sequence of float
            One per network.
        like : Tensor
            The parameters, whose dtype and device are used.
        """
        all_equal = values.count(values[0]) == len(values)
        # (n_networks,) -> (n_networks, 1)
        setattr(self, name, values[0] if all_equal else like.new_tensor(values).unsqueeze(1))

    def subset(self, indices: list[int]) -> FlatOptimizer:
        """Return the optimizer of the networks in these rows of the stack."""
        optimizer = copy.copy(self)
        for name, value in vars(self).items():
            rows = tree_map_only(Tensor, lambda t: t[indices] if t.ndim == 2 else t, value)
            setattr(optimizer, name, rows)
        return optimizer


Hyperparam = float | Tensor


def is_nonzero(value: Hyperparam) -> bool:
    """Whether a hyperparameter differs from 0; one per network is taken as nonzero."""
    return isinstance(value, Tensor) or value != 0


def add_scaled(a: Tensor, b: Tensor, factor: Hyperparam) -> Tensor:
    """Compute a + factor b."""
    if isinstance(factor, Tensor):
        return torch.addcmul(a, b, factor)
    return torch.add(a, b, alpha=factor)


def add_scaled_(a: Tensor, b: Tensor, factor: Hyperparam, *, sign: int = 1) -> None:
    """Add sign factor b to a, in place."""
    if isinstance(factor, Tensor):
        a.addcmul_(b, factor, value=sign)
    else:
        a.add_(b, alpha=sign * factor)


def optimizer_signature(optimizer: FlatOptimizer) -> Hashable:
    """Return a key that is equal for new optimizers that can be stacked."""
    fixed = {
        name: value
        for name, value in vars(optimizer).items()
        if name not in optimizer.hyperparams and name not in optimizer.state_names
    }
    return (type(optimizer), repr(fixed))


def stack_optimizers(optimizers: Sequence[FlatOptimizer], like: Tensor) -> FlatOptimizer:
    """Combine the optimizers of many networks into one.

    Parameters
    ----------
    optimizers : sequence of FlatOptimizer
        New, with the same :func:`optimizer_signature`.
    like : Tensor
        The parameters, whose dtype and device are used.

    Returns
    -------
    FlatOptimizer
        Updates parameters of shape (n_networks, n_parameters).

    Examples
    --------
    >>> from torchreg.optim.flat_optimizers import SGD
    >>> params = torch.zeros(2, 1)
    >>> stack_optimizers([SGD(lr=0.1), SGD(lr=0.2)], params).step(params, torch.ones(2, 1))
    >>> params
    tensor([[-0.1000],
            [-0.2000]])
    """
    stacked = copy.copy(optimizers[0])
    for name in stacked.hyperparams:
        values = [float(getattr(optimizer, name)) for optimizer in optimizers]
        stacked.set_hyperparam(name, values, like=like)
    return stacked


def check_option(is_valid: bool, expected: str, value: object) -> None:
    """Raise a ValueError that says what was expected and received, unless `is_valid`."""
    if not is_valid:
        raise ValueError(f"The optimizer expects {expected}, got {value!r}.")


def check_nonnegative(**options: float) -> None:
    """Raise a ValueError if an option is negative or NaN."""
    for name, value in options.items():
        check_option(value >= 0, f"{name} >= 0", value)


def check_pair(value: object, expected: str) -> None:
    """Raise a ValueError if an option does not have two elements."""
    check_option(isinstance(value, tuple | list) and len(value) == 2, expected, value)
