"""Private parts of scikit-learn, and parts that not all supported versions have.

Only this file may import private parts of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)

__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "callback_management_context",
    "get_namespace_and_device",
    "make_constraint",
    "validate_parameter_constraints",
    "with_callbacks",
]

P = ParamSpec("P")
R = TypeVar("R")

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
    from sklearn.callback._callback_support import callback_management_context
except ImportError:  # scikit-learn below 1.9 has no callbacks of its own.

    class CallbackSupportMixin:  # type: ignore[no-redef]  # in place of the import
        """Placeholder."""

    def callback_management_context(estimator: Any) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def _with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        # Adds one frame, as scikit-learn's decorator does, for the stacklevel of warnings.
        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return called


def with_callbacks(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``fit`` with scikit-learn's callbacks, and keep its type."""
    return cast("Callable[P, R]", _with_callbacks(method))
