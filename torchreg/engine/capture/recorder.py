"""Record the operations of an eager training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchreg._utils import generator_states
from torchreg.engine.capture.tensors import iter_tensors

#: Functions that hand values to NumPy or Python without dispatching an operation.
_READS_VALUES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}


class NotCapturableError(Exception):
    """The step cannot be captured; the message completes "because"."""


@dataclass(frozen=True)
class Call:
    """One call of an ATen operation, with its arguments and what it returned."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @cached_property
    def name(self) -> str:
        """The operation's name without namespace and overload: ``addmm``."""
        return str(self.func._schema.name.partition("::")[2])

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return list(iter_tensors((self.args, list(self.kwargs.values()))))

    @cached_property
    def outputs(self) -> list[Tensor]:
        """The tensors in the result."""
        return list(iter_tensors(self.result))

    @cached_property
    def mutated(self) -> list[Tensor]:
        """The arguments that the operation changes in place."""
        if not self.func._schema.is_mutable:
            return []
        arguments = self.func._schema.arguments
        named = {a.name: v for a, v in zip(arguments, self.args, strict=False)} | self.kwargs
        marked = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return list(iter_tensors([named.get(name) for name in marked]))

    @cached_property
    def uses_rng(self) -> bool:
        """Whether the operation draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.func.tags

    @cached_property
    def has_side_effects(self) -> bool:
        """Whether the operation writes in place, draws random numbers or only checks."""
        schema = self.func._schema
        return bool(schema.is_mutable) or self.uses_rng or not schema.returns

    @cached_property
    def is_view(self) -> bool:
        """Whether the result shares memory with an argument."""
        return any(value.alias_info is not None for value in self.func._schema.returns)


class Recorder(TorchDispatchMode):
    """Context manager that records every operation below autograd.

    Attributes
    ----------
    calls : list of Call
        In the order of execution.
    used_rng : bool
        Whether a generator advanced. Attention is tagged as random, but draws nothing without
        dropout.

    Examples
    --------
    >>> x = torch.ones(2)
    >>> with Recorder() as recorder:
    ...     y = torch.exp(x).sum()
    >>> [call.name for call in recorder.calls]
    ['exp', 'sum']
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's modes have no types
        self.calls: list[Call] = []
        self.used_rng = False
        self._value_reads = _ValueReadDetector()

    @property
    def read_values(self) -> bool:
        """Whether NumPy or Python read values, which no recorded operation shows."""
        return self._value_reads.read_values

    def __enter__(self) -> Recorder:
        self._value_reads.__enter__()  # type: ignore[no-untyped-call]  # as above
        super().__enter__()  # type: ignore[no-untyped-call]  # as above
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # as above
        self._value_reads.__exit__(*error)  # type: ignore[no-untyped-call]  # as above

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True would make torch import torch._dynamo, which takes a second.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            raise NotCapturableError(f"{func} is more than one operation")
        call = Call(func, args, kwargs, None)
        states = generator_states(_device_of(call)) if call.uses_rng else []
        result = func(*args, **kwargs)
        self.calls.append(replace(call, result=result))
        if states:
            after = generator_states(_device_of(self.calls[-1]))
            self.used_rng |= not all(map(torch.equal, states, after))
        return result


class _ValueReadDetector(TorchFunctionMode):
    """Detect reads of tensor values that dispatch no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.read_values = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.read_values = self.read_values or func in _READS_VALUES
        return func(*args, **(kwargs or {}))


def find_mutated_inputs(calls: Sequence[Call]) -> list[Tensor]:
    """List the tensors that calls change in place although none of the calls created them."""
    if not any(call.mutated for call in calls):
        return []
    created: set[int] = set()
    found: dict[int, Tensor] = {}
    for call in calls:
        found |= {id(t): t for t in call.mutated if storage_id(t) not in created}
        created |= {storage_id(t) for t in call.outputs} - {storage_id(t) for t in call.inputs}
    return list(found.values())


def _device_of(call: Call) -> torch.device:
    """Return the device on which a call computes."""
    named = call.kwargs.get("device")
    tensors = [*call.inputs, *call.outputs]
    return torch.device(named or (tensors[0].device if tensors else "cpu"))


def storage_id(tensor: Tensor) -> int:
    """Identify the memory that a tensor shares with its views."""
    if tensor.layout != torch.strided:
        raise NotCapturableError("a tensor is sparse")
    return int(tensor.untyped_storage()._cdata)
