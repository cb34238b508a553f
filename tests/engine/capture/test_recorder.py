"""What the recorder records, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from torchreg.engine.capture import NotCapturableError, Recorder, storage_id


def test_a_call_has_its_inputs_and_its_result() -> None:
    x = torch.arange(3.0)
    with Recorder() as recorder:
        y = torch.add(x, 2)
    (call,) = recorder.calls
    assert (call.name, call.inputs[0] is x, call.result is y) == ("add", True, True)
    assert not recorder.read_values and not recorder.used_rng


@pytest.mark.parametrize(
    "read", [lambda x: x.numpy(), lambda x: x.tolist(), torch.Tensor.__array__]
)
def test_reads_of_values_are_detected(read: object) -> None:
    x = torch.arange(3.0)
    with Recorder() as recorder:
        assert callable(read) and len(read(x)) == 3
    assert recorder.read_values


def test_random_numbers_are_detected() -> None:
    with torch.random.fork_rng(), Recorder() as recorder:
        torch.rand(3)
    assert recorder.used_rng


def test_an_operation_without_overload_is_refused() -> None:
    several = torch.ops.aten.add
    with pytest.raises(NotCapturableError, match=r"aten\.add.* is more than one operation"):
        Recorder().__torch_dispatch__(several, (), (torch.ones(1), 1))


def test_a_sparse_tensor_is_refused() -> None:
    with pytest.raises(NotCapturableError, match="a tensor is sparse"):
        storage_id(torch.eye(2).to_sparse())
