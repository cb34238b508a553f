"""What the code generator knows about operations: faster functions, aliases, reuse of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchreg.engine.capture.recorder import Call, storage_id
from torchreg.engine.capture.tensors import iter_tensors

# fmt: off
#: Functions that take an operator's arguments and are called about a microsecond faster.
FAST_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in [
        "abs", "add", "addmm", "bmm", "cat", "clamp", "clamp_min", "clone", "cos", "div", "eq",
        "erf", "exp", "expm1", "ge", "gt", "le", "log", "log1p", "lt", "masked_fill", "maximum",
        "mean", "minimum", "mm", "mul", "ne", "neg", "pow", "reciprocal", "relu", "rsqrt",
        "sigmoid", "sign", "sin", "sqrt", "stack", "sub", "sum", "t", "tanh", "transpose",
        "unsqueeze", "where",
    ]
}
FAST_FUNCTIONS |= {"mse_loss": torch._C._nn.mse_loss, "view": torch.Tensor.view}
FAST_FUNCTIONS |= {"_unsafe_view": torch.Tensor.view, "expand": torch.Tensor.expand}
#: Those of them that accept ``out``.
SUPPORTS_OUT = {
    "add", "addmm", "bmm", "cat", "clamp", "cos", "div", "exp", "mm", "mse_loss", "mul", "neg",
    "sin", "sqrt", "sub", "sum",
}
#: In-place forms, which overwrite the first argument.
IN_PLACE: dict[str, Callable[..., Any]] = {
    name: getattr(torch.Tensor, f"{name}_")
    for name in [
        "add", "clamp", "div", "exp", "mul", "neg", "pow", "relu", "sigmoid", "sub", "tanh",
    ]
}
#: Forms of backward operations that write to an argument ``grad_input``.
GRAD_INPUT: dict[str, Callable[..., Any]] = {
    name: getattr(torch.ops.aten, name).grad_input
    for name in ["mse_loss_backward", "sigmoid_backward", "tanh_backward", "threshold_backward"]
}
#: The result depends on the shape and dtype of the arguments, not on their values.
SHAPE_ONLY = {"full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}
#: The result has the values of the argument in another shape.
RESHAPES = {"view", "_unsafe_view"}
# fmt: on


class Node(NamedTuple):
    """One operation of a trace, with the names of its results."""

    call: Call
    names: list[str]


class StorageLifetimes:
    """How long each storage is needed.

    Parameters
    ----------
    nodes : sequence of Node
    last_use : mapping
        Index of the node that uses a name last.
    results : set of str
        Names that are needed after the last node.
    """

    def __init__(
        self, nodes: Sequence[Node], last_use: Mapping[str, int], results: Iterable[str]
    ) -> None:
        #: Index of the last node that needs a storage; only storages that a node creates.
        self.needed_until: dict[int, float] = {}
        results = set(results)
        for index, (call, names) in enumerate(nodes):
            for name, tensor in zip(names, call.outputs, strict=False):
                storage = storage_id(tensor)
                if call.is_view and storage not in self.needed_until:
                    continue
                until = math.inf if name in results else last_use.get(name, index)
                self.needed_until[storage] = max(self.needed_until.get(storage, 0), until)

    def find_reusable(self, call: Call, index: int) -> Tensor | None:
        """Find an argument whose memory the result of a call can overwrite."""
        if call.has_side_effects or not (call.name in IN_PLACE or call.name in GRAD_INPUT):
            return None
        candidates = call.args[:2] if call.name in GRAD_INPUT else call.args[:1]
        return next((t for t in candidates if self._is_reusable(t, call, index)), None)

    def _is_reusable(self, argument: Any, call: Call, index: int) -> bool:
        """Whether the call is the last to need an argument, and uses it once."""
        if not isinstance(argument, Tensor) or not have_same_layout(argument, call.result):
            return False
        storage = storage_id(argument)
        is_used_once = sum(storage_id(tensor) == storage for tensor in call.inputs) == 1
        return is_used_once and self.needed_until.get(storage, math.inf) <= index

    def reuse(self, argument: Tensor, result: Tensor) -> None:
        """Extend the lifetime of an argument whose memory a result overwrites."""
        self.needed_until[storage_id(argument)] = self.needed_until[storage_id(result)]


def is_alias(call: Call) -> bool:
    """Whether a call returns its argument unchanged."""
    if call.name in ("alias", "detach"):
        return True
    return call.name in {*RESHAPES, "expand"} and have_same_layout(call.args[0], call.result)


def swapped_dims(call: Call) -> tuple[int, ...]:
    """Return the two dimensions that a call swaps; none if it does anything else."""
    if call.name == "t":
        return (0, 1)
    if call.name != "transpose":
        return ()
    n_dims = call.args[0].ndim
    return tuple(sorted(dim % n_dims for dim in call.args[1:]))


def have_same_layout(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and strides."""
    one, other = ((t.dtype, t.shape, t.stride()) for t in (first, second))
    return one == other


def repeat_view(call: Call, argument: Tensor) -> Tensor:
    """Take the view that a call took of its argument of another tensor."""
    view: Tensor = call.func(argument, *call.args[1:], **call.kwargs)
    return view


def is_integer_index(call: Call) -> bool:
    """Whether a call selects by positions, whose number is known, and not by a mask."""
    masks = torch.bool, torch.uint8
    return call.name == "index" and all(t.dtype not in masks for t in iter_tensors(call.args[1]))


def is_thin(product: Tensor) -> bool:
    """Whether a matrix product with few columns is faster as its transpose, copies included.

    Measured with MKL, which takes twice as long for 100 x 8 as for 8 x 100.
    """
    n_rows, n_columns = product.shape
    largest = 8 if product.dtype == torch.float32 else n_columns
    return 1 < n_columns <= largest and 4 * n_columns <= n_rows


def is_contiguous_reshape(call: Call) -> bool:
    """Whether a call returns a contiguous tensor in another shape, without a copy."""
    if call.has_side_effects or len(call.inputs) != 1 or not isinstance(call.result, Tensor):
        return False
    first, result = call.inputs[0], call.result
    same_memory = first.data_ptr() == result.data_ptr() and storage_id(first) == storage_id(result)
    same_size = first.numel() == result.numel() and first.dtype == result.dtype
    return same_memory and same_size and first.is_contiguous() and result.is_contiguous()


def can_write_to(call: Call, out: Tensor) -> bool:
    """Whether a call can write its result directly to ``out``."""
    result = call.result
    is_supported = call.name in SUPPORTS_OUT and result.dtype == out.dtype
    return bool(is_supported and result.is_contiguous() and out.is_contiguous())


def can_preallocate(call: Call) -> bool:
    """Whether a call can write its result to a buffer that is allocated once."""
    is_supported = call.name in SUPPORTS_OUT or call.name in GRAD_INPUT or call.name == "clone"
    # A full reduction has no ``out``.
    is_array = isinstance(call.result, Tensor) and call.result.ndim > 0
    return is_supported and is_array and not call.has_side_effects
