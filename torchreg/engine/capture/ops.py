"""What a recorded operation can do: work in place, write where its result is wanted, be turned."""

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
DIRECT: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in [
        "abs", "add", "addmm", "bmm", "cat", "clamp", "clamp_min", "clone", "cos", "div", "eq",
        "erf", "exp", "expm1", "ge", "gt", "le", "log", "log1p", "lt", "masked_fill", "maximum",
        "mean", "minimum", "mm", "mul", "ne", "neg", "pow", "reciprocal", "relu", "rsqrt",
        "sigmoid", "sign", "sin", "sqrt", "stack", "sub", "sum", "t", "tanh", "transpose",
        "unsqueeze", "where",
    ]
}
DIRECT |= {"mse_loss": torch._C._nn.mse_loss, "view": torch.Tensor.view}
DIRECT |= {"_unsafe_view": torch.Tensor.view, "expand": torch.Tensor.expand}
#: Those of them that can write their result where it is wanted.
WRITES_OUT = {
    "add", "addmm", "bmm", "cat", "clamp", "cos", "div", "exp", "mm", "mse_loss", "mul", "neg",
    "sin", "sqrt", "sub", "sum",
}
_ELEMENTWISE = {"add", "cos", "div", "exp", "mul", "neg", "sin", "sqrt", "sub"}
#: What writes to the memory of its first argument, where nobody needs it any more.
IN_PLACE: dict[str, Callable[..., Any]] = {
    name: getattr(torch.Tensor, f"{name}_")
    for name in [
        "add", "clamp", "div", "exp", "mul", "neg", "pow", "relu", "sigmoid", "sub", "tanh",
    ]
}
#: The same for operations whose other form wants the memory as a further argument.
INTO: dict[str, Callable[..., Any]] = {
    name: getattr(torch.ops.aten, name).grad_input
    for name in ["mse_loss_backward", "sigmoid_backward", "tanh_backward", "threshold_backward"]
}
#: Their result depends on the shape and dtype of what they are given, not on its values.
BY_SHAPE = {"full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}
#: They give what they are given, in another shape.
RESHAPES = {"view", "_unsafe_view"}
#: They give what they are given, under another name; the others if it has that shape already.
SAME = {"alias", "detach"}
SAME_IN_SHAPE = {*RESHAPES, "expand"}
#: They can do with one order of numbers in memory only.
BY_LAYOUT = {*RESHAPES, "as_strided"}
# fmt: on
#: Numbers of a product from which on it is written where it is wanted, part of a row or not.
_LARGE = 2**12
#: Those of ``INTO`` whose result is put in a place of its own as well.
PLACES = {"mse_loss_backward": "grad_input"}


class Memory:
    """Which values share memory, and how long each piece of it is needed.

    Parameters
    ----------
    lines : list of (Call, list of str)
        Calls with the names of their results.
    last : mapping
        The line in which each name is used last.
    results : set of str
        Names that are needed after the last line.
    """

    def __init__(
        self,
        lines: Sequence[tuple[Call, list[str]]],
        last: Mapping[str, int],
        results: Iterable[str],
    ) -> None:
        #: Up to which line each piece of memory is needed; only of those that a line makes.
        self.needed: dict[int, float] = {}
        results = set(results)
        for index, (call, names) in enumerate(lines):
            for name, tensor in zip(names, call.outputs, strict=False):
                piece = storage_id(tensor)
                if call.is_view and piece not in self.needed:
                    continue
                until = math.inf if name in results else last.get(name, index)
                self.needed[piece] = max(self.needed.get(piece, 0), until)

    def replaced_by(self, call: Call, index: int) -> Tensor | None:
        """Find the argument in whose place a call can put its result."""
        if call.has_side_effects or not (call.name in IN_PLACE or call.name in INTO):
            return None
        # What comes back from a layer can lie where that lay which it gave.
        candidates = call.args[:2] if call.name in INTO else call.args[:1]
        return next((t for t in candidates if self._gives_way(t, call, index)), None)

    def _gives_way(self, argument: Any, call: Call, index: int) -> bool:
        """Whether nobody but the call needs an argument, which it is given once."""
        if not isinstance(argument, Tensor) or not are_alike(argument, call.result):
            return False
        memory = storage_id(argument)
        once = sum(storage_id(tensor) == memory for tensor in call.inputs) == 1
        return once and self.needed.get(memory, math.inf) <= index

    def join(self, first: Tensor, result: Tensor) -> None:
        """Note that a result lies in the place of another value."""
        self.needed[storage_id(first)] = self.needed[storage_id(result)]


class Transpose(NamedTuple):
    """What a value is the transpose of: its name, itself, and the dimensions swapped."""

    name: str
    value: Tensor
    dims: tuple[int, ...]


def dims_swapped(call: Call) -> tuple[int, ...]:
    """Tell which dimensions a call swaps, if that is all it does."""
    if call.name == "t":
        return (0, 1)
    if call.name != "transpose":
        return ()
    n_dims = call.args[0].ndim
    return tuple(sorted(dim % n_dims for dim in call.args[1:]))


def are_alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and layout."""
    one, other = ((t.dtype, t.shape, t.stride()) for t in (first, second))
    return one == other


def take_again(call: Call, first: Tensor) -> Tensor:
    """Take the view of another tensor that a call took of its own."""
    view: Tensor = call.func(first, *call.args[1:], **call.kwargs)
    return view


def has_place(call: Call) -> bool:
    """Whether a call can write its result to memory that preallocate from step to step."""
    writes = call.name in WRITES_OUT or call.name in PLACES or call.name == "clone"
    # The sum of everything takes no place.
    return (
        writes
        and not call.has_side_effects
        and isinstance(call.result, Tensor)
        and call.result.ndim > 0
    )


def needs_layout(call: Call) -> bool:
    """Whether a call reads its first argument in the order in which it was recorded."""
    return call.name in BY_LAYOUT and not are_alike(call.args[0], call.result)


def transpose_of(factor: Tensor) -> Call:
    """Call for the transpose of a matrix, or of many."""
    if factor.ndim == 2:
        return Call(torch.ops.aten.t.default, (factor,), {}, factor.t())
    return Call(torch.ops.aten.transpose.int, (factor, 1, 2), {}, factor.transpose(1, 2))


def is_thin(product: Tensor) -> bool:
    """Whether a product with few columns is computed faster as its transpose, copies included.

    Measured with MKL, which takes twice as long for 100 × 8 as for 8 × 100.
    """
    n_rows, n_columns = product.shape[-2:]
    most = 8 if product.dtype == torch.float32 else n_columns
    return 1 < n_columns <= most and 4 * n_columns <= n_rows


def is_integer_index(call: Call) -> bool:
    """Whether a call selects by positions, whose number is known, and not by a mask."""
    masks = torch.bool, torch.uint8
    return call.name == "index" and all(t.dtype not in masks for t in iter_tensors(call.args[1]))


def is_reshape(call: Call) -> bool:
    """Whether a call gives the same numbers in the same order of memory, in another shape."""
    if call.has_side_effects or len(call.inputs) != 1 or not isinstance(call.result, Tensor):
        return False
    first, result = call.inputs[0], call.result
    # What is there is looked at: who turns a product around notes a transpose of his own.
    here = first.data_ptr() == result.data_ptr() and storage_id(first) == storage_id(result)
    same = first.numel() == result.numel() and first.dtype == result.dtype
    return bool(here and same and first.is_contiguous() and result.is_contiguous())


def can_write(call: Call, out: Tensor) -> bool:
    """Whether a call can write its result where ``out`` is, and gives the same numbers there.

    That may be a part of each row of a matrix, for gradients of many networks. What is computed
    number by number is the same wherever it lies; sums may come in another order, which shows
    where they are nothing but rounding, as before a normalization. So only large products go
    there, for which the way through other memory is long.
    """
    result = call.result
    if call.name not in WRITES_OUT or result.dtype != out.dtype or not result.is_contiguous():
        return False
    if out.is_contiguous():
        return True
    fits = result.shape[0] == len(out) and out[0].is_contiguous()
    large = call.name == "bmm" and out[0].numel() >= _LARGE
    return bool(fits and (large or call.name in _ELEMENTWISE))
