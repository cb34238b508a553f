"""Torch's devices and dtypes, and its state: threads, modes, random generators."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._device import DeviceContext

# One fit at a time may seed torch's global generators. Reentrant, because a callback may fit
# another regressor.
_SEED_LOCK = threading.RLock()

# Held during each draw. A fork waits for it: if a thread were drawing at that moment, torch's own
# lock of the generator would stay locked in the child.
_RNG_LOCK = threading.RLock()

P = ParamSpec("P")
R = TypeVar("R")


def rng_lock() -> AbstractContextManager[Any]:
    """Return the lock to hold while drawing from torch's global generators."""
    return _RNG_LOCK


def _renew_locks() -> None:
    """Replace the locks in a forked process, where the threads that hold them do not exist."""
    global _SEED_LOCK, _RNG_LOCK
    _SEED_LOCK, _RNG_LOCK = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=lambda: _RNG_LOCK.acquire(),
        after_in_parent=lambda: _RNG_LOCK.release(),
        after_in_child=_renew_locks,
    )

#: Up to this many rows of a batch times parameters, arithmetic is a small part of a step on a
#: CPU, so that float64 costs little more than float32.
_SMALL_STEP = 2**19


def devices_present() -> list[str]:
    """List the available devices: ``"cpu"``, then ``"cuda:0"``, ... and ``"mps"``.

    Examples
    --------
    >>> devices_present()[0]
    'cpu'
    """
    present = ["cpu"]
    if torch.cuda.is_available():
        present += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    return present


def resolve_device(device: str | torch.device) -> torch.device:
    """Convert the ``device`` parameter to an available device.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the first CUDA device, else MPS, else the CPU.

    Raises
    ------
    ValueError
        If torch does not know the device or it is not available.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    present = devices_present()
    if isinstance(device, str) and device == "auto":
        return torch.device(present[1] if len(present) > 1 else "cpu")
    hint = f"Available: {', '.join(map(repr, present))}; 'auto' selects the fastest."
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a device that torch knows. {hint}") from error
    types = {name.partition(":")[0] for name in present}
    known = resolved.type in types if resolved.index is None else str(resolved) in present
    if not known and not (resolved.type == "cpu" and resolved.index in (None, 0)):
        raise ValueError(f"device={str(resolved)!r} is not available. {hint}")
    return resolved


def statistics_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating dtype of a device, which means and scales use."""
    return torch.float32 if device.type == "mps" else torch.float64


def resolve_dtype(
    dtype: str | torch.dtype, *, work: int, device: torch.device, exact: bool = False
) -> torch.dtype:
    """Convert the ``dtype`` parameter to ``torch.float32`` or ``torch.float64``.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"} or torch.dtype
        ``"auto"`` is float64 on a CPU if ``exact`` or if ``work`` is at most 2**19, else float32.
    work : int
        Rows of a batch times parameters of the network.
    device : torch.device
        Where the network trains.
    exact : bool, default=False
        Whether the optimizer needs float64, as a line search does.

    Raises
    ------
    ValueError
        If the device has no float64.

    Examples
    --------
    >>> resolve_dtype("auto", work=333 * 16, device=torch.device("cpu"))
    torch.float64
    """
    if dtype == "auto":
        wide = device.type == "cpu" and (exact or work <= _SMALL_STEP)
        return torch.float64 if wide else torch.float32
    resolved = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    if resolved == torch.float64 and statistics_dtype(device) != torch.float64:
        raise ValueError(
            f"dtype='float64' is not available on device={str(device)!r}; "
            "use dtype='float32' or 'auto', or device='cpu'."
        )
    return resolved


def with_seed(seed: int | list[Tensor], device: torch.device, work: Callable[[], R]) -> R:
    """Call a function with torch's global generators seeded, and restore their states.

    Parameters
    ----------
    seed : int or list of Tensor
        Seed of every generator, or states of :func:`generator_states`.
    device : torch.device
        A CUDA device has a generator of its own.
    work : callable
        Called without arguments. A function rather than a ``with`` block, because Ctrl-C may
        arrive while a block is left.

    Returns
    -------
    object
        What ``work`` returned.

    Examples
    --------
    >>> cpu = torch.device("cpu")
    >>> torch.equal(*(with_seed(0, cpu, lambda: torch.rand(3)) for _ in range(2)))
    True
    """
    # torch.random.fork_rng alone is not thread-safe.
    with _SEED_LOCK:
        with _RNG_LOCK:
            states = generator_states(device)
        try:
            with _RNG_LOCK:
                if not isinstance(seed, int):
                    set_generator_states(device, seed)
                elif device.type == "cpu":
                    # torch.manual_seed would also record a stack trace for each accelerator.
                    torch.default_generator.manual_seed(seed)
                else:
                    torch.manual_seed(seed)
            return work()
        finally:
            # Try again if Ctrl-C arrives here.
            try:
                with _RNG_LOCK:
                    set_generator_states(device, states)
            except BaseException:
                set_generator_states(device, states)
                raise


def generator_states(device: torch.device) -> list[Tensor]:
    """Copy the states of torch's global generators: the CPU's, and that of a CUDA device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    """Restore states that :func:`generator_states` copied; an empty list changes nothing."""
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def spawn_seeds(seed: int, n_networks: int) -> list[int]:
    """Derive the seeds of several networks; the first is the seed itself.

    Examples
    --------
    >>> spawn_seeds(7, 1), spawn_seeds(7, 3)[:2] == spawn_seeds(7, 2)
    ([7], True)
    """
    if n_networks == 1:
        return [seed]
    further: list[int] = np.random.SeedSequence(seed).generate_state(n_networks - 1).tolist()
    return [seed, *further]


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
