"""Names and values of parameters, before anything is fitted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Integral
from types import MethodType
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator

from torchreg._utils import did_you_mean

#: Parameters that hand what follows two underscores on.
NESTED = ("module", "optimizer", "loss", "schedule", "callbacks")


def is_nested(name: str) -> bool:
    """Tell whether a parameter is a nested one, like ``module__hidden_sizes``."""
    prefix, separator, rest = name.partition("__")
    return prefix in NESTED and bool(separator) and bool(rest)


def unknown_parameter(owner: object, name: str, known: list[str]) -> str:
    """Write the message for a parameter that does not exist."""
    plain = name.partition("__")[0] or name
    return f"{type(owner).__name__} has no parameter {name!r}.{did_you_mean(plain, known)}"


def check_nested(owner: object, nested: dict[str, Any], *, known: list[str]) -> dict[str, Any]:
    """Let nested parameters through; a plain name that does not exist is an error at once."""
    for name in nested:
        if not is_nested(name):
            raise TypeError(unknown_parameter(owner, name, known))
    return nested


def nested_parameters(nested: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Pick what follows ``prefix__``."""
    start = f"{prefix}__"
    return {name[len(start) :]: v for name, v in nested.items() if name.startswith(start)}


def as_callbacks(callbacks: Any, *, n_networks: int = 1) -> list[Any]:
    """Read the ``callbacks`` parameter as a list; one callback may stand alone.

    Raises
    ------
    TypeError
        If something in it does not listen.
    ValueError
        If it writes files which several networks would write over each other.
    """
    if callbacks is None:
        return []
    listed = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    for item in listed:
        callback = item[1] if isinstance(item, tuple | list) and len(item) == 2 else item
        if callback is not None and not hasattr(callback, "on_epoch_end"):
            raise TypeError(
                f"callbacks expects skorch callbacks or (name, callback) pairs, got {item!r}."
            )
        if n_networks > 1 and hasattr(callback, "dirname"):
            raise ValueError(
                f"{type(callback).__name__} writes the weights of one network to files, but here "
                f"{n_networks} networks would write theirs over each other's. Leave it out and "
                "save the fitted regressor, or train one network."
            )
    return listed


def seed_from(random_state: Any) -> int:
    """Turn ``random_state`` into a seed; ``None`` is fresh, and no global state is touched."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(random_state.randint(2**31 - 1))


class NestedParametersMixin(BaseEstimator):
    """Adds to an estimator's parameters those that it hands on, like ``module__hidden_sizes``.

    The estimator keeps them in one private attribute, ``_nested``.
    """

    _nested: dict[str, Any]
    #: The ``__init__`` whose signature was read, and its names.
    _read_names: ClassVar[tuple[Any, list[str]]] = (None, [])

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Name the parameters, in order; a signature is read once, not with every fit."""
        init, names = cls._read_names
        if init is not cls.__init__:
            init, names = cls.__init__, super()._get_param_names()
            cls._read_names = (init, names)
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
            By name.

        Returns
        -------
        self : TorchRegressor

        Raises
        ------
        ValueError
            If a plain name does not exist; the near names are in the message.

        Examples
        --------
        >>> from torchreg import TorchRegressor
        >>> TorchRegressor().set_params(lr=0.1, module__hidden_sizes=[5])
        TorchRegressor(lr=0.1, module__hidden_sizes=[5], n_folds='auto')
        """
        known = self._get_param_names()
        for name in params:
            if name not in known and not is_nested(name):
                raise ValueError(unknown_parameter(self, name, known))
        for name, value in params.items():
            if name in known:
                setattr(self, name, value)
        self._nested = {**self._nested, **{k: v for k, v in params.items() if k not in known}}
        return self


_Init = TypeVar("_Init", bound=Callable[..., None])


def instance_signature(init: _Init) -> _Init:
    """Let an ``__init__``, asked of an estimator, know what of it must not go unsaid.

    scikit-learn prints an estimator, alone or in a pipeline, with the parameters that differ from
    the defaults of its ``__init__``. Parameters that ``_always_printed`` names have no default in
    the signature, so that they are always printed; they are keyword-only.

    Examples
    --------
    >>> class Held(BaseEstimator):
    ...     @telling
    ...     def __init__(self, *, n_folds=8, lr=0.1):
    ...         self.n_folds, self.lr = n_folds, lr
    ...
    ...     def _always_printed(self):
    ...         return {"n_folds"} if self.n_folds else set()
    >>> Held(), Held(n_folds=0)
    (Held(n_folds=8), Held(n_folds=0))
    """
    return cast("_Init", _Telling(init))


class _Telling:
    """What stands in the class for its ``__init__``."""

    def __init__(self, init: Callable[..., None]) -> None:
        self.init = init

    def __get__(self, estimator: Any, owner: type) -> Callable[..., None]:
        if estimator is None:
            return self.init
        # Later versions of inspect bind it to the class whose signature they are asked for.
        bind = MethodType if isinstance(estimator, type) else _Bound
        return bind(self.init, estimator)


class _Bound:
    """The ``__init__`` of one estimator."""

    def __init__(self, init: Callable[..., None], estimator: Any) -> None:
        self.init, self.estimator = init, estimator

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.init(self.estimator, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        unspoken = self.estimator._always_printed()
        _, *parameters = inspect.signature(self.init).parameters.values()
        return inspect.Signature(
            [p.replace(default=p.empty) if p.name in unspoken else p for p in parameters]
        )


def signature_without_nested(cls: type) -> inspect.Signature:
    """Leave ``**nested`` out: it is no parameter, but the place for any number of them."""
    parameters = inspect.signature(cls).parameters.values()
    return inspect.Signature([p for p in parameters if p.kind is not p.VAR_KEYWORD])
