"""What the recorder notes, and what it refuses to note."""

from __future__ import annotations

import pytest
import torch

from torchreg.engine.capture import NotCapturableError, Recorder, storage_id


def test_a_call_is_noted_with_what_it_was_given_and_what_it_returned() -> None:
    x = torch.arange(3.0)
    with Recorder() as recorder:
        y = torch.add(x, 2)
    (call,) = recorder.calls
    assert (call.name, call.inputs[0] is x, call.result is y) == ("add", True, True)
    assert not recorder.read_values and not recorder.used_rng


def test_what_is_more_than_one_operation_cannot_be_noted() -> None:
    several = torch.ops.aten.add
    with pytest.raises(NotCapturableError, match=r"aten\.add.* is more than one operation"):
        Recorder().__torch_dispatch__(several, (), (torch.ones(1), 1))


def test_a_sparse_tensor_has_no_memory_of_its_own_to_follow() -> None:
    with pytest.raises(NotCapturableError, match="a tensor is sparse"):
        storage_id(torch.eye(2).to_sparse())
