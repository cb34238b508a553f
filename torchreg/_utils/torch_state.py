"""State that torch keeps for each thread: number of threads, gradient mode, dispatch modes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

#: ``torch.inference_mode`` without its Python wrapper, which is slower, and in which Ctrl-C can
#: prevent the mode from being left.
inference = torch._C._InferenceMode

# Whether this process was forked. The threads of OpenMP do not survive a fork, so that an
# operation on several threads would wait for them indefinitely.
_is_forked = False


def _set_forked() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_set_forked)


_State = tuple[int, bool, int, int]
_n_dispatch_modes = torch._C._len_torch_dispatch_stack
_n_function_modes = torch._C._len_torch_function_stack


def _get_state() -> _State:
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        _n_dispatch_modes(),
        _n_function_modes(),
    )


def _restore(state: _State) -> None:
    n_threads, grad_enabled, n_dispatch_modes, n_function_modes = state
    while _n_dispatch_modes() > n_dispatch_modes:
        torch._C._pop_torch_dispatch_stack(None)
    while _n_function_modes() > n_function_modes:
        torch._C._pop_torch_function_stack()
    torch.set_grad_enabled(grad_enabled)
    torch.set_num_threads(n_threads)


def restore_torch_state(method: Callable[P, R]) -> Callable[P, R]:
    """Restore torch's thread-local state when a method ends, even if it is interrupted.

    Ctrl-C may arrive while a context manager is left, which then does not restore the state. In
    a forked process the method uses one thread.

    Examples
    --------
    >>> @restore_torch_state
    ... def disable_grad() -> None:
    ...     torch.set_grad_enabled(False)
    >>> disable_grad()
    >>> torch.is_grad_enabled()
    True
    """

    @wraps(method)
    def restoring(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _get_state()
        try:
            if _is_forked and before[0] > 1:
                torch.set_num_threads(1)
            return method(*args, **kwargs)
        finally:
            # Try again if Ctrl-C arrives here.
            try:
                if _get_state() != before:
                    _restore(before)
            except BaseException:
                _restore(before)
                raise

    return restoring


@contextmanager
def num_threads(count: int, *, others: int) -> Iterator[None]:
    """Set the number of threads of the calling thread's operations only.

    A small step is slower on two threads than on one, and many times slower if the second core
    is busy. torch keeps one number for each thread and a default for new threads.

    Parameters
    ----------
    count : int
        Number of threads inside the block.
    others : int
        Default for new threads.
    """
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    _set_own_num_threads(count, others=others)
    try:
        yield
    finally:
        _set_own_num_threads(before, others=others)


def _set_own_num_threads(count: int, *, others: int) -> None:
    torch.set_num_threads(count)
    if count != others:
        # torch.set_num_threads also sets the default of new threads; a helper thread resets it.
        helper = threading.Thread(target=torch.set_num_threads, args=(others,))
        helper.start()
        helper.join()
