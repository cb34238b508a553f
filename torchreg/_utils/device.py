"""Devices, dtypes and seeding: the ground floor that everything else stands on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

#: torch's global generator can serve one fit at a time. Reentrant, because a callback
#: may fit another regressor.
_GENERATOR_LOCK = threading.RLock()

#: Held for each short while in which a fit draws. A fork waits for it: a thread that drew just
#: then would leave torch's own lock of the generator locked in the child, for ever.
_DRAWING = threading.RLock()

#: ``torch.inference_mode`` without its wrapper in Python, which takes longer and which Ctrl-C
#: can keep from turning the mode off.
inference = torch._C._InferenceMode

R = TypeVar("R")


def drawing() -> AbstractContextManager[Any]:
    """Give the lock to hold while torch's global generators are drawn from."""
    return _DRAWING


def _renew_locks() -> None:
    """Forget who held the locks when this process was forked: that thread is not here."""
    global _GENERATOR_LOCK, _DRAWING
    _GENERATOR_LOCK, _DRAWING = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):  # Windows knows no fork.
    os.register_at_fork(
        before=lambda: _DRAWING.acquire(),
        after_in_parent=lambda: _DRAWING.release(),
        after_in_child=_renew_locks,
    )

#: Rows of a batch times parameters, up to which most of a step on a CPU is not arithmetic,
#: so that float64 costs little more than float32.
_SMALL_STEP = 2**19


def devices_present() -> list[str]:
    """Name the devices that torch can compute on, here and now.

    Returns
    -------
    list of str
        ``"cpu"`` first, then ``"cuda:0"``, ... and ``"mps"`` where they exist.

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
    """Turn what the user wrote into a device that is present.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes the first CUDA device, else MPS, else the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If it is not a device, or none that this machine has.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    present = devices_present()
    if isinstance(device, str) and device == "auto":
        return torch.device(present[1] if len(present) > 1 else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a device that torch knows. "
            f"Present here: {', '.join(map(repr, present))}; 'auto' takes the fastest."
        ) from error
    kinds = {name.partition(":")[0] for name in present}
    known = resolved.type in kinds if resolved.index is None else str(resolved) in present
    if not known and not (resolved.type == "cpu" and resolved.index in (None, 0)):
        raise ValueError(
            f"device={str(resolved)!r} is absent. "
            f"Present here: {', '.join(map(repr, present))}; 'auto' takes the fastest."
        )
    return resolved


def statistics_dtype(device: torch.device) -> torch.dtype:
    """Give the widest floating dtype that a device computes with, for means and scales."""
    return torch.float32 if device.type == "mps" else torch.float64


def resolve_dtype(
    dtype: str | torch.dtype, *, work: int, device: torch.device, exact: bool = False
) -> torch.dtype:
    """Choose the dtype in which a network trains.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"} or torch.dtype
        ``"auto"`` is float64 where that costs little (a CPU, and rows of a batch times
        parameters at most half a million) or is needed, float32 beyond.
    work : int
        Rows of a batch times parameters of the network.
    device : torch.device
        Where it trains.
    exact : bool, default=False
        Whether the optimizer needs every digit, as a line search does.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.float64``.

    Raises
    ------
    ValueError
        If float64 is asked of a device that has none.

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
    """Let work draw from torch's global generators as if freshly seeded, then give them back.

    ``torch.random.fork_rng`` alone is not thread-safe; the lock makes fits in several
    threads draw what they draw alone.

    Parameters
    ----------
    seed : int or list of Tensor
        Seed of every generator while the work is done; or the states in which earlier work
        left them (:func:`generator_states`).
    device : torch.device
        An accelerator whose generator is lent too.
    work : callable
        Takes nothing; a function and no block, since Ctrl-C can come while a block is left.

    Returns
    -------
    object
        What the work returned.

    Examples
    --------
    >>> torch.equal(*(seeded(0, torch.device("cpu"), lambda: torch.rand(3)) for _ in range(2)))
    True
    """
    with _GENERATOR_LOCK:
        with _DRAWING:
            states = generator_states(device)
        try:
            with _DRAWING:
                if not isinstance(seed, int):
                    set_generator_states(device, seed)
                elif device.type == "cpu":
                    # torch.manual_seed would also write down a stack trace for each accelerator.
                    torch.default_generator.manual_seed(seed)
                else:
                    torch.manual_seed(seed)
            return work()
        finally:
            # Once more if Ctrl-C comes just here.
            try:
                with _DRAWING:
                    set_generator_states(device, states)
            except BaseException:
                set_generator_states(device, states)
                raise


def generator_states(device: torch.device) -> list[Tensor]:
    """Copy the state of torch's global generators: the CPU's, and the device's own."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    """Put states back that :func:`generator_states` copied; an empty list leaves them alone."""
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def threads(count: int, *, others: int) -> Iterator[None]:
    """Let the calling thread compute with so many threads; what other threads use stays as it is.

    A small step is slower on two threads than on one, and many times slower where the
    second core is busy. torch keeps one count for each thread and one for threads to come:
    only the first is changed for longer than a moment.

    Parameters
    ----------
    count : int
        Threads for the calling thread's operations inside the block.
    others : int
        What threads to come shall have.
    """
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    _set_own_threads(count, others=others)
    try:
        yield
    finally:
        _set_own_threads(before, others=others)


def _set_own_threads(count: int, *, others: int) -> None:
    torch.set_num_threads(count)
    if count != others:
        # Whoever calls it sets the count of threads to come, too.
        courier = threading.Thread(target=torch.set_num_threads, args=(others,))
        courier.start()
        courier.join()
