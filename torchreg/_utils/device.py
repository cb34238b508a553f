"""Devices, dtypes and torch's global random generators."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

# One fit at a time may seed torch's global generators. Reentrant, because a callback may fit
# another regressor.
_SEED_LOCK = threading.RLock()

# Held during each draw. A fork waits for it: if a thread were drawing at that moment, torch's own
# lock of the generator would stay locked in the child.
_RNG_LOCK = threading.RLock()

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
