"""A gradient, noted once as a flat list of tensor operations and then repeated.

A step of a small network spends most of its time in Python and autograd, not in arithmetic.
:func:`write_down` turns the notes of one ordinary forward and backward pass into a function
that repeats them without modules, graph or tape. No compiler is needed, and any module will
do whose operations are the same in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchreg.engine.recorder import Call, NotCapturableError, memory_of, tensors_in

Program = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# fmt: off
#: Functions that take an operator's arguments and are called about a microsecond faster.
_DIRECT: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in [
        "abs", "add", "addmm", "bmm", "cat", "clamp", "clamp_min", "cos", "div", "erf", "exp",
        "expm1", "log", "log1p", "maximum", "mean", "minimum", "mm", "mul", "neg", "pow",
        "reciprocal", "relu", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "stack", "sub", "sum",
        "t", "tanh", "transpose", "unsqueeze", "where",
    ]
}
_DIRECT |= {"mse_loss": torch._C._nn.mse_loss, "view": torch.Tensor.view}
#: Those of them that can write their result where it is wanted.
_WRITES_OUT = {"add", "addmm", "bmm", "div", "mm", "mse_loss", "mul", "neg", "sub", "sum"}
#: What writes to the memory of its first argument, where nobody needs it any more.
_IN_PLACE: dict[str, Callable[..., Any]] = {
    name: getattr(torch.Tensor, f"{name}_")
    for name in ["add", "div", "exp", "mul", "neg", "pow", "relu", "sigmoid", "sub", "tanh"]
}
#: The same for operations whose other form wants the memory as a further argument.
_INTO: dict[str, Callable[..., Any]] = {
    name: getattr(torch.ops.aten, name).grad_input
    for name in ["mse_loss_backward", "sigmoid_backward", "tanh_backward", "threshold_backward"]
}
#: Their result depends on the shape and dtype of what they are given, not on its values.
_BY_SHAPE = {"full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"}
#: They give what they are given, in another shape.
_RESHAPES = {"view", "_unsafe_view"}
#: They give what they are given, under another name; the others if it has that shape already.
_SAME = {"alias", "detach"}
_SAME_IN_SHAPE = {*_RESHAPES, "expand"}
#: They can do with one order of numbers in memory only.
_BY_LAYOUT = {*_RESHAPES, "as_strided"}
# fmt: on
#: Those of ``_INTO`` whose result is put in a place of its own as well.
_PLACES = {"mse_loss_backward": "grad_input"}


def write_down(
    calls: Sequence[Call],
    *,
    inputs: Mapping[str, Tensor | None],
    constants: Sequence[Tensor],
    stable: Sequence[Tensor],
    loss: Tensor,
    gradients: Sequence[Tensor],
    out: Sequence[Tensor],
    stays: bool = False,
) -> Program:
    """Turn the notes of one gradient into a function that computes the next one.

    Parameters
    ----------
    calls : sequence of Call
        What was noted.
    inputs : mapping
        ``x``, ``t`` and ``weight``, where they differ from step to step.
    constants : sequence of Tensor
        What has the same values in every step: the batch, if it is always the same one.
    stable : sequence of Tensor
        Parameters and buffers: their values change, their memory stays.
    loss : Tensor of shape ()
        What the forward pass returned.
    gradients : sequence of Tensor
        What the backward pass returned, one for each parameter.
    out : sequence of Tensor
        Where the function shall write the gradients: of the same shapes.
    stays : bool, default=False
        Whether results have memory that stays from step to step, and views of it are taken once.
        It pays for many networks: they need so much memory that to get it from the system and to
        give it back can take longer than to compute, and threads that compute side by side wait
        for one another at each call.

    Returns
    -------
    callable
        Takes ``x``, ``t`` and ``weight``, writes the gradients and returns the loss; to be
        called in inference mode.

    Raises
    ------
    NotCapturableError
        If the course of the computation depends on values.
    """
    notes = _Notes(
        inputs,
        mutated={memory_of(t) for c in calls for t in c.written},
        free={memory_of(gradient) for gradient in gradients}
        - {memory_of(c.args[0]) for c in calls if _needs_layout(c)},
        stays=stays,
    )
    for tensor in stable:
        notes.bind(tensor)
    for tensor in constants:
        notes.bind(tensor, constant=True)
    for call in calls:
        notes.take(call)
    return notes.write(loss, gradients, out)


class _Notes:
    """Calls with a name for each tensor; those whose result is known beforehand are gone."""

    def __init__(
        self,
        inputs: Mapping[str, Tensor | None],
        *,
        mutated: set[int],
        free: set[int],
        stays: bool,
    ) -> None:
        self.mutated = mutated
        # What works in place by itself says by itself what lies where.
        self.stays = stays and not mutated
        #: Gradients, which may lie in any order; of other results the order is handed on.
        self.free = free
        #: Name of each tensor, by identity; the calls keep them all alive.
        self.names = {id(tensor): name for name, tensor in inputs.items() if tensor is not None}
        #: What is there before the function is called.
        self.bound: dict[str, Any] = {}
        #: Names of those whose values never change.
        self.constant: set[str] = set()
        #: What each transposed value is the transpose of, in which dimensions.
        self.transposed: dict[str, _Transpose] = {}
        #: Tensors that only the notes hold, kept alive like those of the calls.
        self.turned: list[Tensor] = []
        self.lines: list[tuple[Call, list[str]]] = []
        #: Values that lie in the same place in every step.
        self.settled: dict[str, Tensor] = {}

    def bind(self, tensor: Tensor, *, constant: bool = False) -> str:
        """Name a tensor that is there beforehand."""
        name = self.names[id(tensor)] = f"c{len(self.bound)}"
        self.bound[name] = tensor.detach()
        if constant:
            self.constant.add(name)
        return name

    def name_of(self, tensor: Tensor) -> str:
        """Name a tensor; one that nothing here made belongs to the module or the loss."""
        return self.names.get(id(tensor)) or self.bind(tensor)

    def take(self, call: Call) -> None:
        """Note one call, unless its result is known beforehand."""
        if any(isinstance(value, torch.Generator) for value in call.kwargs.values()):
            raise NotCapturableError("it draws from a random generator of its own")
        if torch.Tag.data_dependent_output in call.func.tags:
            raise NotCapturableError("the module or the loss looks at values while it runs")
        if torch.Tag.dynamic_output_shape in call.func.tags and not _by_position(call):
            raise NotCapturableError(f"the shape of what {call.name} returns depends on values")
        given = [self.name_of(tensor) for tensor in call.given]
        dims = _dims_swapped(call)
        before = self.transposed.get(given[0]) if dims else None
        if call.name in _SAME or (
            call.name in _SAME_IN_SHAPE and _alike(call.args[0], call.result)
        ):
            self.names[id(call.result)] = given[0]
        elif before is not None and before.dims == dims:
            self.names[id(call.result)] = before.name
        elif self._is_known(call, given):
            constant = not call.is_view or all(name in self.constant for name in given)
            for result in call.results:
                self.bind(result, constant=constant)
        elif self._is_faster_turned(call, given):
            self._append_turned(call)
        else:
            self._append(call)
        if dims:
            source = _Transpose(given[0], call.args[0], dims)
            self.transposed.setdefault(self.names[id(call.result)], source)

    def _append(self, call: Call) -> None:
        label = f"v{len(self.lines)}"
        several = isinstance(call.result, list | tuple)
        results = list(call.result) if several else [call.result] * bool(call.results)
        names = []
        for index, result in enumerate(results):
            name = label if len(results) == 1 else f"{label}_{index}"
            # What works in place returns what it was given, which has its name already.
            known = self.names.setdefault(id(result), name) if result is not None else None
            names.append(name if known == name else "_")
        self.lines.append((call, names))

    def _is_faster_turned(self, call: Call, given: list[str]) -> bool:
        """Whether it is the gradient of a layer with few inputs, of one network or of many."""
        if call.name not in ("mm", "bmm") or memory_of(call.result) not in self.free:
            return False
        if call.name == "mm":
            return given[0] in self.transposed and _is_thin(call.result)
        return call.args[0].shape[2] > 1 and _is_thin(call.result)

    def _append_turned(self, call: Call) -> None:
        """Compute A B as (B' A')'."""
        turned = [_transposed(factor) for factor in reversed(call.args)]
        for transpose in turned:
            self.take(transpose)
        product = call.result.mT.contiguous()
        self.turned += [*(transpose.result for transpose in turned), product]
        factors = tuple(transpose.result for transpose in turned)
        self._append(Call(call.func, factors, {}, product))
        self._append(replace(_transposed(product), result=call.result))

    def _is_known(self, call: Call, given: list[str]) -> bool:
        """Tell whether the result is a constant, or a view of memory that stays."""
        if call.acts:
            return False
        if call.is_view:
            return all(name in self.bound for name in given)
        if any(memory_of(result) in self.mutated for result in call.results):
            return False
        # Memory that was not filled is no constant.
        made_here = not given and not call.name.startswith("empty")
        return made_here or call.name in _BY_SHAPE or self._all_constant(given)

    def _all_constant(self, names: list[str]) -> bool:
        return bool(names) and all(name in self.constant for name in names)

    def write(self, loss: Tensor, gradients: Sequence[Tensor], out: Sequence[Tensor]) -> Program:
        """Write the function: what its results need, and each value freed when it is used up."""
        targets = [self.name_of(gradient) for gradient in gradients]
        direct, copied = self._destinations(targets, out)
        kept = {self.name_of(loss), *(targets[index] for index in copied)}
        source = ["def program(x, t, weight):"]
        source += self._statements(self._needed(kept | direct.keys()), kept, direct)
        source += [f"{self._object(out[index])}.copy_({targets[index]})" for index in copied]
        result = self.name_of(loss)
        source.append(f"return {result}.clone()" if result in self.settled else f"return {result}")
        namespace = dict(self.bound)
        exec(_compiled("\n    ".join(source)), namespace)
        # Out of the namespace that it looks names up in: in a circle, the tensors would outlive
        # the fit until Python looks for circles.
        program: Program = namespace.pop("program")
        return program

    def _destinations(
        self, targets: list[str], out: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Find the gradients that can be computed where they are wanted; list the others."""
        producers = {names[0]: call for call, names in self.lines if len(names) == 1}
        direct: dict[str, Tensor] = {}
        copied = []
        for index, name in enumerate(targets):
            while name in producers and producers[name].name in _RESHAPES:
                name = self.name_of(producers[name].args[0])
            call = producers.get(name)
            if name not in direct and call is not None and _can_write(call, out[index]):
                direct[name] = out[index].view(call.result.shape)
            else:
                copied.append(index)
        return direct, copied

    def _needed(self, results: set[str]) -> list[tuple[Call, list[str]]]:
        """Leave out the lines that no result needs."""
        needed, lines = set(results), []
        for call, names in reversed(self.lines):
            if call.acts or not needed.isdisjoint(names):
                needed.update(self.name_of(tensor) for tensor in call.given)
                lines.append((call, names))
        return lines[::-1]

    def _statements(
        self, lines: list[tuple[Call, list[str]]], kept: set[str], direct: Mapping[str, Tensor]
    ) -> Iterator[str]:
        uses = [[self.name_of(tensor) for tensor in call.given] for call, _ in lines]
        last = {name: index for index, used in enumerate(uses) for name in used}
        memory = _Memory(lines, last, kept | direct.keys())
        for index, (call, names) in enumerate(lines):
            if (
                call.is_view
                and len(call.given) == 1
                and self._settle(names, call.given, partial(_again, call))
            ):
                continue
            arguments = [self._literal(argument) for argument in call.args]
            arguments += [f"{key}={self._literal(value)}" for key, value in call.kwargs.items()]
            function = self._function(call)
            if names and names[0] in direct:
                arguments.append(f"out={self._object(direct[names[0]])}")
            elif memory.can_be_replaced(call, index):
                memory.join(call)
                if call.name in _INTO:
                    arguments.append(f"grad_input={uses[index][0]}")
                form = _INTO.get(call.name) or _IN_PLACE[call.name]
                function = self._object(form, name=f"in_place_{call.name}")
                self._settle(names, call.given[:1], lambda first: first)
            elif self.stays and names[0:1] and names[0] not in kept and _has_place(call):
                self._settle(names, [], partial(torch.empty_like, call.result))
                arguments.append(f"{_PLACES.get(call.name, 'out')}={names[0]}")
                if call.name in _PLACES:
                    function = self._object(_INTO[call.name], name=f"into_{call.name}")
            settled = bool(names) and names[0] in self.settled
            left = f"{', '.join(names)} = " if names and not settled else ""
            yield f"{left}{function}({', '.join(arguments)})"
            mentioned = [name for name in dict.fromkeys(uses[index] + names) if name[0] == "v"]
            mentioned = [name for name in mentioned if name not in self.settled]
            done = [n for n in mentioned if n not in kept and last.get(n, index) <= index]
            if done:
                yield f"del {', '.join(done)}"

    def _settle(
        self, names: list[str], given: Sequence[Tensor], make: Callable[..., Tensor]
    ) -> bool:
        """Give a value its place for all steps, if what it lies in has one."""
        places = [self.settled.get(self.name_of(tensor)) for tensor in given]
        known = [place for place in places if place is not None]
        if len(names) != 1 or len(known) < len(places):
            return False
        self.bound[names[0]] = self.settled[names[0]] = make(*known)
        return True

    def _function(self, call: Call) -> str:
        if call.name == "bmm" and call.args[0].shape[2] == 1:
            # Columns times rows: nothing is summed.
            return self._object(torch.mul, name="torch_mul")
        if call.name in _DIRECT:
            return self._object(_DIRECT[call.name], name=f"torch_{call.name}")
        return self._object(call.func, name=str(call.func).replace(".", "_"))

    def _literal(self, value: Any) -> str:
        """Write an argument down."""
        if isinstance(value, Tensor):
            return self.name_of(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._literal(item) for item in value)}]"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, float) and math.isfinite(value):
            return repr(value)
        return self._object(value)

    def _object(self, value: Any, *, name: str | None = None) -> str:
        """Give the function an object that cannot be written down."""
        name = name or f"k{len(self.bound)}"
        self.bound[name] = value
        return name


@lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    """Compile a program; fits of the same network write down the same one."""
    return compile(source, "<captured gradient>", "exec")


class _Memory:
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
            for name, tensor in zip(names, call.results, strict=False):
                piece = memory_of(tensor)
                if call.is_view and piece not in self.needed:
                    continue
                until = math.inf if name in results else last.get(name, index)
                self.needed[piece] = max(self.needed.get(piece, 0), until)

    def can_be_replaced(self, call: Call, index: int) -> bool:
        """Whether a call can put its result in the place of its first argument."""
        known = call.name in _IN_PLACE or call.name in _INTO
        if not known or call.acts or not isinstance(call.args[0], Tensor):
            return False
        first = call.args[0]
        others = [t for t in call.given[1:] if memory_of(t) == memory_of(first)]
        dead = self.needed.get(memory_of(first), math.inf) <= index
        return dead and _alike(first, call.result) and not others

    def join(self, call: Call) -> None:
        """Note that a result lies in the place of the first argument."""
        first, result = memory_of(call.args[0]), memory_of(call.result)
        self.needed[first] = self.needed[result]


class _Transpose(NamedTuple):
    """What a value is the transpose of: its name, itself, and the dimensions swapped."""

    name: str
    value: Tensor
    dims: tuple[int, ...]


def _dims_swapped(call: Call) -> tuple[int, ...]:
    """Tell which dimensions a call swaps, if that is all it does."""
    if call.name == "t":
        return (0, 1)
    if call.name != "transpose":
        return ()
    n_dims = call.args[0].ndim
    return tuple(sorted(dim % n_dims for dim in call.args[1:]))


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and layout."""
    one, other = ((t.dtype, t.shape, t.stride()) for t in (first, second))
    return one == other


def _again(call: Call, first: Tensor) -> Tensor:
    """Take the view of another tensor that a call took of its own."""
    view: Tensor = call.func(first, *call.args[1:], **call.kwargs)
    return view


def _has_place(call: Call) -> bool:
    """Whether a call can write its result to memory that stays from step to step."""
    writes = call.name in _WRITES_OUT or call.name in _PLACES
    # The sum of everything takes no place.
    return writes and not call.acts and isinstance(call.result, Tensor) and call.result.ndim > 0


def _needs_layout(call: Call) -> bool:
    """Whether a call reads its first argument in the order in which it was recorded."""
    return call.name in _BY_LAYOUT and not _alike(call.args[0], call.result)


def _transposed(factor: Tensor) -> Call:
    """Call for the transpose of a matrix, or of many."""
    if factor.ndim == 2:
        return Call(torch.ops.aten.t.default, (factor,), {}, factor.t())
    return Call(torch.ops.aten.transpose.int, (factor, 1, 2), {}, factor.transpose(1, 2))


def _is_thin(product: Tensor) -> bool:
    """Whether a product with few columns is computed faster as its transpose, copies included.

    Measured with MKL, which takes twice as long for 100 × 8 as for 8 × 100.
    """
    n_rows, n_columns = product.shape[-2:]
    most = 8 if product.dtype == torch.float32 else n_columns
    return 1 < n_columns <= most and 4 * n_columns <= n_rows


def _by_position(call: Call) -> bool:
    """Whether a call selects by positions, whose number is known, and not by a mask."""
    masks = torch.bool, torch.uint8
    return call.name == "index" and all(t.dtype not in masks for t in tensors_in(call.args[1]))


def _can_write(call: Call, out: Tensor) -> bool:
    """Whether a call can write its result where ``out`` is."""
    result = call.result
    contiguous = result.is_contiguous() and out.is_contiguous()
    fits = call.name in _WRITES_OUT and contiguous and result.dtype == out.dtype
    return bool(fits)
