"""Devices, dtypes, random generators and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchreg._utils import (
    devices_present,
    generator_states,
    num_threads,
    resolve_device,
    resolve_dtype,
    set_generator_states,
    with_seed,
)

CPU = torch.device("cpu")


def in_new_thread(function: Callable[[], Any]) -> Any:
    """Return the result of a function in a new thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("before", [1, 3])
def test_num_threads_is_restored(before: int, count: int) -> None:
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        with num_threads(count, others=before):
            assert torch.get_num_threads() == count
        assert torch.get_num_threads() == before
        with pytest.raises(ZeroDivisionError), num_threads(count, others=before):
            raise ZeroDivisionError
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(kept)


def test_num_threads_does_not_change_the_default_of_new_threads() -> None:
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert in_new_thread(torch.get_num_threads) == 3
        with num_threads(1, others=3):
            assert in_new_thread(torch.get_num_threads) == 3
            with num_threads(3, others=3):
                assert (torch.get_num_threads(), in_new_thread(torch.get_num_threads)) == (3, 3)
            assert (torch.get_num_threads(), in_new_thread(torch.get_num_threads)) == (1, 3)
        assert in_new_thread(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(kept)


def test_with_seed_equals_manual_seed_and_restores_the_generator() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = torch.rand(3)
    torch.manual_seed(1)
    first = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(with_seed(7, CPU, lambda: torch.rand(3)), expected)
    assert torch.equal(torch.rand(2), first)


def test_restored_generator_states_repeat_the_numbers() -> None:
    states = generator_states(CPU)
    numbers = torch.rand(4)
    set_generator_states(CPU, states)
    assert torch.equal(torch.rand(4), numbers)
    set_generator_states(CPU, [])
    assert not torch.equal(torch.rand(4), numbers)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "auto", CPU])
def test_an_available_device_is_resolved(device: str | torch.device) -> None:
    assert str(resolve_device(device)) in {*devices_present(), "cpu:0"}


@pytest.mark.parametrize(
    ("dtype", "work", "exact", "expected"),
    [
        ("auto", 2**19, False, torch.float64),
        ("auto", 2**19 + 1, False, torch.float32),
        ("auto", 2**19 + 1, True, torch.float64),
        ("float64", 10**9, False, torch.float64),
        ("float32", 1, True, torch.float32),
        (torch.float32, 1, False, torch.float32),
    ],
)
def test_auto_dtype_is_float64_for_small_steps_on_a_cpu(
    dtype: str | torch.dtype, work: int, exact: bool, expected: torch.dtype
) -> None:
    assert resolve_dtype(dtype, work=work, device=CPU, exact=exact) == expected


def test_a_device_without_float64() -> None:
    mps = torch.device("mps")
    assert resolve_dtype("auto", work=1, device=mps, exact=True) == torch.float32
    with pytest.raises(ValueError, match=r"float64.*not available on device='mps'.*'float32'"):
        resolve_dtype("float64", work=1, device=mps)
