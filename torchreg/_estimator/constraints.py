"""The limits of the estimator's parameters, as one table."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.base import BaseEstimator

from torchreg._estimator.sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)
from torchreg._serialization import Unserialized

#: The limits of the parameters, in scikit-learn's notation.
LIMITS: dict[str, list[Any]] = {
    "module": [None, callable],
    "loss": [str, callable],
    "optimizer": [str, type],
    "lr": [None, Interval(Real, 0, None, closed="neither")],
    "schedule": [str, callable],
    "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "batch_size": [None, StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "standardize": ["boolean", StrOptions({"X", "y"})],
    "early_stopping": ["boolean"],
    "n_folds": [None, StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "tol": [None, Interval(Real, 0, None, closed="left")],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "callbacks": [None, list, tuple, HasMethods(["on_epoch_end"])],
    "device": [str, torch.device],
    "dtype": [StrOptions({"auto", "float32", "float64"}), torch.dtype],
    "warm_start": ["boolean"],
    "verbose": ["verbose"],
    "random_state": ["random_state"],
}

#: The same, ready to be asked; scikit-learn would make them anew for every fit.
_READY = {name: [make_constraint(limit) for limit in limits] for name, limits in LIMITS.items()}

#: Values of these types are what they are, and equal ones are within the same limits.
_PLAIN = {bool, int, float, str, type(None)}


def check_parameters(estimator: BaseEstimator) -> None:
    """Hold every parameter against its limits.

    Raises
    ------
    ValueError
        scikit-learn's ``InvalidParameterError``, with the limits and what came; or, where a
        parameter could not be loaded, what is missing.
    """
    for name, value in estimator.get_params(deep=False).items():
        if isinstance(value, Unserialized):
            raise ValueError(
                f"{name} was not in the file that this {type(estimator).__name__} was loaded from, "
                f"which cannot hold {value.text}. Set it to fit again: set_params({name}=...)."
            )
    for name in _READY:
        value = getattr(estimator, name)
        look = _is_within_again if type(value) in _PLAIN else _is_within
        if not look(name, value):
            check_limits(estimator, {name: LIMITS[name]})
    dtype = estimator.dtype
    if isinstance(dtype, torch.dtype) and dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype expects 'auto', 'float32' or 'float64', got {dtype}.")


def _is_within(name: str, value: Any) -> bool:
    """Tell whether a parameter is within its limits."""
    return any(limit.is_satisfied_by(value) for limit in _READY[name])


#: The fits of a search have most of their parameters in common.
_is_within_again = lru_cache(maxsize=256, typed=True)(_is_within)


def check_limits(estimator: BaseEstimator, limits: dict[str, list[Any]]) -> None:
    """Hold the parameters of a table against it.

    Raises
    ------
    ValueError
        scikit-learn's ``InvalidParameterError``, with the limits and what came.
    """
    validate_parameter_constraints(
        limits,
        {name: getattr(estimator, name) for name in limits},
        caller_name=type(estimator).__name__,
    )
