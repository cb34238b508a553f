"""What a method of the estimator leaves behind in its thread: nothing, however it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

#: Whether this process is the fork of another. OpenMP's threads do not live on in a fork, and
#: an operation that waits for them waits for ever; one thread waits for nobody.
_in_fork = False


def _notice_fork() -> None:
    global _in_fork
    _in_fork = True


if hasattr(os, "register_at_fork"):  # Windows knows no fork.
    os.register_at_fork(after_in_child=_notice_fork)


_Settings = tuple[int, bool, int, int]
_n_dispatch_modes = torch._C._len_torch_dispatch_stack
_n_function_modes = torch._C._len_torch_function_stack


def _settings() -> _Settings:
    """Read what torch keeps for each thread: how many threads, gradients, modes."""
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        _n_dispatch_modes(),
        _n_function_modes(),
    )


def _put_back(settings: _Settings) -> None:
    n_threads, gradients, n_dispatch_modes, n_function_modes = settings
    while _n_dispatch_modes() > n_dispatch_modes:
        torch._C._pop_torch_dispatch_stack(None)
    while _n_function_modes() > n_function_modes:
        torch._C._pop_torch_function_stack()
    torch.set_grad_enabled(gradients)
    torch.set_num_threads(n_threads)


def restore_torch_state(method: Callable[P, R]) -> Callable[P, R]:
    """Give back what torch keeps for each thread, whatever ends the method.

    Ctrl-C can come between any two instructions, even while a context manager is being
    left; what it should have given back is given back here. In a forked process the method
    computes with one thread.

    Parameters
    ----------
    method : callable
        Whose settings are given back by itself, unless it is interrupted.

    Returns
    -------
    callable

    Examples
    --------
    >>> @restore_torch_state
    ... def careless() -> None:
    ...     torch.set_grad_enabled(False)
    >>> careless()
    >>> torch.is_grad_enabled()
    True
    """

    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _settings()
        try:
            if _in_fork and before[0] > 1:
                torch.set_num_threads(1)
            return method(*args, **kwargs)
        finally:
            # An interrupt may come here, too; hardly ever two of them.
            try:
                if _settings() != before:
                    _put_back(before)
            except BaseException:
                _put_back(before)
                raise

    return guarded
