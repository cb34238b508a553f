"""State that torch keeps for each thread: number of threads, gradients, modes, default device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._device import DeviceContext

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


_State = tuple[int, bool, int, tuple[Any, ...]]
_n_dispatch_modes = torch._C._len_torch_dispatch_stack
_n_function_modes = torch._C._len_torch_function_stack


def _get_state() -> _State:
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        _n_dispatch_modes(),
        tuple(map(torch._C._get_function_stack_at, range(_n_function_modes()))),
    )


def _restore(state: _State) -> None:
    n_threads, grad_enabled, n_dispatch_modes, function_modes = state
    while _n_dispatch_modes() > n_dispatch_modes:
        torch._C._pop_torch_dispatch_stack(None)
    _set_function_modes(function_modes)
    torch.set_grad_enabled(grad_enabled)
    torch.set_num_threads(n_threads)


def _set_function_modes(modes: Iterable[Any]) -> None:
    while _n_function_modes():
        torch._C._pop_torch_function_stack()
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)


def restore_torch_state(method: Callable[P, R]) -> Callable[P, R]:
    """Call a method in torch's default state, and restore the caller's when it ends.

    The default device is the CPU, and inference mode is left: its tensors have no gradients. Ctrl-C
    may arrive while a context manager is left, which then does not restore the state. In a forked
    process the method uses one thread.

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
            if before[3]:
                # torch.set_default_device, and a device as a context manager, are modes.
                _set_function_modes(m for m in before[3] if not isinstance(m, DeviceContext))
            if torch.is_inference_mode_enabled():
                with inference(False):
                    return method(*args, **kwargs)
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
