"""What torchreg takes from scikit-learn that is private there, or not in every version.

The one file that may import private parts of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

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

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
    from sklearn.callback._callback_support import callback_management_context
except ImportError:  # scikit-learn below 1.9 has no callbacks of its own.

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def callback_management_context(estimator: Any) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Call the method through one frame more, as scikit-learn's own decorator does.

        A warning that counts frames up to the caller counts the same in every version.
        """

        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return called
