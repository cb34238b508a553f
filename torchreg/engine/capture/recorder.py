"""The notes of an ordinary step: each operation that torch ran, as it was called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchreg._utils import generator_states

#: They hand values over to NumPy or Python.
_LOOKS = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}


class NotCapturableError(Exception):
    """The steps of this network cannot be written down; the message completes "because"."""


@dataclass(frozen=True)
class Call:
    """One operation as it was called, and what it returned."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @cached_property
    def name(self) -> str:
        """The operation's name without namespace and overload: ``addmm``."""
        return str(self.func._schema.name.partition("::")[2])

    @cached_property
    def given(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return list(tensors_in((self.args, list(self.kwargs.values()))))

    @cached_property
    def results(self) -> list[Tensor]:
        """The tensors that it returned."""
        return list(tensors_in(self.result))

    @cached_property
    def written(self) -> list[Tensor]:
        """The arguments that it changes in place."""
        if not self.func._schema.is_mutable:
            return []
        arguments = self.func._schema.arguments
        named = {a.name: v for a, v in zip(arguments, self.args, strict=False)} | self.kwargs
        marked = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return list(tensors_in([named.get(name) for name in marked]))

    @cached_property
    def acts(self) -> bool:
        """Whether it does more than return a value: writes in place, draws, or checks."""
        return bool(self.func._schema.is_mutable) or self.draws or not self.func._schema.returns

    @cached_property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.func.tags

    @cached_property
    def is_view(self) -> bool:
        """Whether what it returns shares the memory of what it was given."""
        return any(value.alias_info is not None for value in self.func._schema.returns)


class Recorder(TorchDispatchMode):
    """Notes each operation that torch runs inside the block, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        #: Whether a generator moved; attention is marked as drawing, and without dropout does not.
        self.drew = False
        self._lookout = _ValueReadDetector()

    @property
    def looked(self) -> bool:
        """Whether values left torch, for NumPy or Python, where no record follows them."""
        return self._lookout.looked

    def __enter__(self) -> Recorder:
        self._lookout.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._lookout.__exit__(*error)  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To ask torch._dynamo to look away would import it, which takes a second.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation, and note it."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            raise NotCapturableError(f"{func} is more than one operation")
        call = Call(func, args, kwargs, None)
        states = generator_states(_device_of(call)) if call.draws else []
        result = func(*args, **kwargs)
        self.calls.append(replace(call, result=result))
        if states:
            after = generator_states(_device_of(self.calls[-1]))
            self.drew |= not all(map(torch.equal, states, after))
        return result


class _ValueReadDetector(TorchFunctionMode):
    """Sees when a tensor is read without an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        self.looked = self.looked or func in _LOOKS
        return func(*args, **(kwargs or {}))


def written_outside(calls: Sequence[Call]) -> list[Tensor]:
    """List the tensors that the calls change in place although none of them made them."""
    if not any(call.written for call in calls):
        return []
    made: set[int] = set()
    outside: dict[int, Tensor] = {}
    for call in calls:
        outside |= {id(t): t for t in call.written if memory_of(t) not in made}
        made |= {memory_of(t) for t in call.results} - {memory_of(t) for t in call.given}
    return list(outside.values())


def _device_of(call: Call) -> torch.device:
    """Where a call computes."""
    named = call.kwargs.get("device")
    tensors = [*call.given, *call.results]
    return torch.device(named or (tensors[0].device if tensors else "cpu"))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Give the tensors among nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def memory_of(tensor: Tensor) -> int:
    """Identify the memory that a tensor and its views share."""
    if tensor.layout != torch.strided:
        raise NotCapturableError("a tensor is sparse")
    return int(tensor.untyped_storage()._cdata)
