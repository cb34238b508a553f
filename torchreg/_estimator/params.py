"""Constructor parameters: names, limits, nested parameters and how an estimator is printed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from numbers import Integral, Real
from types import MethodType
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags

from torchreg._estimator.sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)
from torchreg._serialization import Unserialized
from torchreg._utils import OTHER_PARAMETERS, did_you_mean
from torchreg.losses import LOSSES
from torchreg.nn import TabularMLP

#: Parameters that take nested ones: ``module__hidden_sizes`` is an option of ``module``.
NESTED = ("module", "optimizer", "loss", "schedule", "callbacks")

#: Methods that skorch calls, which its class ``Callback`` has.
CALLBACK_METHODS = ("on_epoch_end", "on_grad_computed", "set_params", "initialize")

#: The limits of the parameters of ``TorchRegressor``, in scikit-learn's notation.
CONSTRAINTS: dict[str, list[Any]] = {
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

# scikit-learn would build the constraint objects for every fit.
_CONSTRAINT_OBJECTS = {
    name: [make_constraint(limit) for limit in limits] for name, limits in CONSTRAINTS.items()
}

# Values of these types are hashable, and equal values satisfy the same constraints.
_CACHEABLE_TYPES = {bool, int, float, str, type(None)}


def check_parameters(estimator: BaseEstimator) -> None:
    """Check every parameter of a ``TorchRegressor`` against its limits.

    Raises
    ------
    ValueError
        If a value is outside its limits (scikit-learn's ``InvalidParameterError``), or a file
        could not store it.
    """
    for name, value in estimator.get_params(deep=False).items():
        if isinstance(value, Unserialized):
            raise ValueError(
                f"{name} was not in the file that this {type(estimator).__name__} was loaded from, "
                f"which cannot hold {value.text}. Set it to fit again: set_params({name}=...)."
            )
    for name, constraints in CONSTRAINTS.items():
        value = getattr(estimator, name)
        is_valid = _is_valid_cached if type(value) in _CACHEABLE_TYPES else _is_valid
        if not is_valid(name, value):
            check_constraints(estimator, {name: constraints})
    dtype = estimator.dtype
    if isinstance(dtype, torch.dtype) and dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype expects 'auto', 'float32' or 'float64', got {dtype}.")


def _is_valid(name: str, value: Any) -> bool:
    return any(limit.is_satisfied_by(value) for limit in _CONSTRAINT_OBJECTS[name])


# The fits of a search share most of their parameters.
_is_valid_cached = lru_cache(maxsize=256, typed=True)(_is_valid)


def check_constraints(estimator: BaseEstimator, constraints: Mapping[str, list[Any]]) -> None:
    """Check the parameters that a table of constraints names."""
    validate_parameter_constraints(
        constraints,
        {name: getattr(estimator, name) for name in constraints},
        caller_name=type(estimator).__name__,
    )


def is_nested(name: str) -> bool:
    """Return whether a name is that of a nested parameter, like ``module__hidden_sizes``."""
    prefix, separator, rest = name.partition("__")
    return prefix in NESTED and bool(separator) and bool(rest)


def nested_parameters(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Select the parameters that start with ``prefix__``, without the prefix."""
    start = f"{prefix}__"
    return {name[len(start) :]: v for name, v in params.items() if name.startswith(start)}


def check_nested(estimator: BaseEstimator, nested: dict[str, Any]) -> dict[str, Any]:
    """Raise ``TypeError`` if a name is not that of a nested parameter."""
    for name in nested:
        if not is_nested(name):
            raise TypeError(_unknown_parameter(estimator, name))
    return nested


def _unknown_parameter(estimator: BaseEstimator, name: str) -> str:
    prefix, _, option = name.partition("__")
    hint = did_you_mean(prefix or name, estimator._get_param_names())
    if instead := OTHER_PARAMETERS.get(prefix):
        # criterion__delta is loss__delta.
        hint = f" Use {instead}__{option}." if option and instead in NESTED else f" Use {instead}."
    return f"{type(estimator).__name__} has no parameter {name!r}.{hint}"


def as_callbacks(callbacks: Any, *, n_networks: int = 1) -> list[Any]:
    """Convert the ``callbacks`` parameter, which may be a single callback, to a list.

    Raises
    ------
    TypeError
        If an item is not a callback.
    ValueError
        If a callback writes files that several networks would overwrite.
    """
    if callbacks is None:
        return []
    items = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    for item in items:
        callback = item[1] if isinstance(item, tuple | list) and len(item) == 2 else item
        missing = [name for name in CALLBACK_METHODS if not hasattr(callback, name)]
        if callback is not None and missing:
            advice = "Derive its class from skorch.callbacks.Callback."
            if hasattr(callback, "on_fit_task_begin"):
                advice = "Pass a callback of scikit-learn to set_callbacks."
            raise TypeError(
                f"callbacks expects skorch callbacks or (name, callback) pairs, got {item!r}, "
                f"which has no method {missing[0]!r}. {advice}"
            )
        if n_networks > 1 and hasattr(callback, "dirname"):
            raise ValueError(
                f"{type(callback).__name__} writes the weights of one network to files, but "
                f"{n_networks} networks would overwrite each other's files. Remove it and save "
                "the fitted regressor, or train one network (n_init=1, n_folds=None)."
            )
    return items


def seed_from(random_state: Any) -> int:
    """Draw a seed from ``random_state``; ``None`` draws one from the operating system."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(random_state.randint(2**31 - 1))


class ParametersMixin(BaseEstimator):
    """Nested parameters, like ``module__hidden_sizes``, which ``_nested`` stores, and tags."""

    _nested: dict[str, Any]
    # The __init__ whose signature was read, and its names: inspect takes long in a search.
    _cached_names: ClassVar[tuple[Any, list[str]]] = (None, [])

    @classmethod
    def _get_param_names(cls) -> list[str]:
        init, names = cls._cached_names
        if init is not cls.__init__:
            init, names = cls.__init__, super()._get_param_names()
            cls._cached_names = (init, names)
        return list(names)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get all parameters, nested ones included.

        Parameters
        ----------
        deep : bool, default=True
            As in scikit-learn.

        Returns
        -------
        dict

        Examples
        --------
        >>> from torchreg import TorchRegressor
        >>> TorchRegressor(module__hidden_sizes=[5]).get_params()["module__hidden_sizes"]
        [5]
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        return params | self._nested

    def set_params(self, **params: Any) -> Self:
        """Set parameters, nested ones included.

        Parameters
        ----------
        **params : dict
            Values by name.

        Returns
        -------
        self : TorchRegressor

        Raises
        ------
        ValueError
            If a parameter does not exist. The message suggests similar names.

        Examples
        --------
        >>> from torchreg import TorchRegressor
        >>> TorchRegressor().set_params(lr=0.1, module__hidden_sizes=[5])
        TorchRegressor(lr=0.1, module__hidden_sizes=[5], n_folds='auto')
        """
        known = self._get_param_names()
        for name in params:
            if name not in known and not is_nested(name):
                raise ValueError(_unknown_parameter(self, name))
        for name, value in params.items():
            if name in known:
                setattr(self, name, value)
        self._nested = {**self._nested, **{k: v for k, v in params.items() if k not in known}}
        return self

    def _fitted_params(self) -> dict[str, Any]:
        """Return the parameters with the values that the last fit chose for "auto"."""
        params = self.get_params(deep=False) | getattr(self, "chosen_params_", {})
        if params["module"] is None:
            params["module"] = TabularMLP
        return params

    def _always_printed(self) -> set[str]:
        """Print ``n_folds="auto"`` of the built-in network, which holds out rows."""
        is_auto = isinstance(self.n_folds, str) and self.n_folds == "auto"
        has_folds = self.module is None and is_auto and not self.early_stopping
        return {"n_folds"} if has_folds else set()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        loss = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.positive_only = not getattr(loss, "center_target", True)
        tags.array_api_support = True
        return tags


_Init = TypeVar("_Init", bound=Callable[..., None])


def instance_signature(init: _Init) -> _Init:
    """Let ``repr`` print the parameters that an estimator's ``_always_printed`` names.

    scikit-learn prints the parameters that differ from the defaults of ``__init__``. The
    ``__init__`` of an instance has no defaults for the named parameters, which are keyword-only.

    Examples
    --------
    >>> class Example(BaseEstimator):
    ...     @instance_signature
    ...     def __init__(self, *, n_folds=8, lr=0.1):
    ...         self.n_folds, self.lr = n_folds, lr
    ...
    ...     def _always_printed(self):
    ...         return {"n_folds"} if self.n_folds else set()
    >>> Example(), Example(n_folds=0)
    (Example(n_folds=8), Example(n_folds=0))
    """
    return cast("_Init", _InitDescriptor(init))


class _InitDescriptor:
    """Descriptor that binds ``__init__`` to an instance with the instance's signature."""

    def __init__(self, init: Callable[..., None]) -> None:
        self.init = init

    def __get__(self, estimator: Any, owner: type) -> Callable[..., None]:
        if estimator is None:
            return self.init
        # Some versions of inspect bind __init__ to the class whose signature they read.
        bind = MethodType if isinstance(estimator, type) else _BoundInit
        return bind(self.init, estimator)


class _BoundInit:
    """The ``__init__`` of one estimator; its signature is computed on demand."""

    def __init__(self, init: Callable[..., None], estimator: Any) -> None:
        self.init, self.estimator = init, estimator

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.init(self.estimator, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        printed = self.estimator._always_printed()
        _, *parameters = inspect.signature(self.init).parameters.values()
        return inspect.Signature(
            [p.replace(default=p.empty) if p.name in printed else p for p in parameters]
        )


def signature_without_nested(cls: type) -> inspect.Signature:
    """Return the signature of a class without ``**nested``."""
    parameters = inspect.signature(cls).parameters.values()
    return inspect.Signature([p for p in parameters if p.kind is not p.VAR_KEYWORD])
