"""A time limit for tests that could wait forever."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest


def within(seconds: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Fail a test after a time limit, and print the traceback of each thread."""

    def limit(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def limited(*args: Any, **kwargs: Any) -> None:
            errors: list[BaseException] = []

            def body() -> None:
                try:
                    test(*args, **kwargs)
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=body, daemon=True)
            thread.start()
            thread.join(seconds)
            if thread.is_alive():
                faulthandler.dump_traceback(file=sys.__stderr__)
                pytest.fail(f"not ended after {seconds} s")
            for error in errors:
                raise error

        return limited

    return limit
