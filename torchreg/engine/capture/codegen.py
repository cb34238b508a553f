"""A gradient, noted once as a flat list of tensor operations and then repeated.

A step of a small network spends most of its time in Python and autograd, not in arithmetic.
:func:`compile_trace` turns the notes of one ordinary forward and backward pass into a function
that repeats them without modules, graph or tape. No compiler is needed, and any module will
do whose operations are the same in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreg.engine.capture.numpy_kernels import as_larger_products, is_small_product
from torchreg.engine.capture.ops import (
    DIRECT,
    IN_PLACE,
    INTO,
    PLACES,
    RESHAPES,
    Memory,
    can_write,
    has_place,
    is_reshape,
    is_thin,
    needs_layout,
    take_again,
)
from torchreg.engine.capture.recorder import Call, storage_id
from torchreg.engine.capture.trace import TraceGraph

Program = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: How NumPy's products are called where they are written down.
_PRODUCT = "product"


def compile_trace(
    calls: Sequence[Call],
    *,
    inputs: Mapping[str, Tensor | None],
    constants: Sequence[Tensor],
    stable: Sequence[Tensor],
    loss: Tensor,
    gradients: Sequence[Tensor],
    out: Sequence[Tensor],
    preallocate: bool = False,
    by_torch: bool = False,
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
        Parameters and buffers: their values change, their memory preallocate.
    loss : Tensor of shape ()
        What the forward pass returned.
    gradients : sequence of Tensor
        What the backward pass returned, one for each parameter.
    out : sequence of Tensor
        Where the function shall write the gradients: of the same shapes.
    preallocate : bool, default=False
        Whether results have memory that stays from step to step.
        It pays for many networks: they need so much memory that to get it from the system and to
        give it back can take longer than to compute, and threads that compute side by side wait
        for one another at each call.
    by_torch : bool, default=False
        Whether all is computed by torch, though NumPy would do some of it faster: so that a
        recorder sees it.

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
    notes = TraceGraph(
        inputs,
        mutated={storage_id(t) for c in calls for t in c.mutated},
        free={storage_id(gradient) for gradient in gradients}
        - {storage_id(c.args[0]) for c in calls if needs_layout(c)},
        preallocate=preallocate,
    )
    for tensor in stable:
        notes.bind(tensor)
    for tensor in constants:
        notes.bind(tensor, constant=True)
    for call in calls:
        notes.take(call)
    return CodeGenerator(notes, by_torch=by_torch).write(loss, gradients, out)


class CodeGenerator:
    """Writes the source of a program, and binds the names in it."""

    def __init__(self, notes: TraceGraph, *, by_torch: bool) -> None:
        self.notes, self.bound, self.name_of = notes, notes.bound, notes.name_of
        self.by_torch = by_torch
        self.preallocate = notes.preallocate
        #: Values that lie in the same place in every step.
        self.settled: dict[str, Tensor] = {}

    def write(self, loss: Tensor, gradients: Sequence[Tensor], out: Sequence[Tensor]) -> Program:
        """Write the function: what its results need, and each value freed when it is used up."""
        targets = [self.name_of(gradient) for gradient in gradients]
        direct, copied = self._destinations(targets, out)
        kept = {self.name_of(loss), *(targets[index] for index in copied)}
        source = ["def program(x, t, weight):"]
        source += self._statements(self._needed(kept | direct.keys()), kept, direct)
        if copied:
            places = ", ".join(self._object(out[index]) for index in copied)
            values = ", ".join(targets[index] for index in copied)
            copy = self._object(torch._foreach_copy_, name="copy_each")
            source.append(f"{copy}([{places}], [{values}])")
        result = self.name_of(loss)
        source.append(f"return {result}.clone()" if result in self.settled else f"return {result}")
        namespace = dict(self.bound)
        exec(_compile("\n    ".join(source)), namespace)
        # Out of the namespace that it looks names up in: in a circle, the tensors would outlive
        # the fit until Python looks for circles.
        program: Program = namespace.pop("program")
        # Who reads the loss says what is wrong with it; NumPy would say it of each product.
        return np.errstate(all="ignore")(program) if _PRODUCT in namespace else program

    def _destinations(
        self, targets: list[str], out: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Find the gradients that can be computed where they are wanted; list the others."""
        producers = {names[0]: call for call, names in self.notes.lines if len(names) == 1}
        direct: dict[str, Tensor] = {}
        copied = []
        for index, name in enumerate(targets):
            while name in producers and is_reshape(producers[name]):
                name = self.name_of(producers[name].args[0])
            call = producers.get(name)
            if name not in direct and call is not None and can_write(call, out[index]):
                direct[name] = out[index].view(call.result.shape)
            else:
                copied.append(index)
        return direct, copied

    def _needed(self, results: set[str]) -> list[tuple[Call, list[str]]]:
        """Leave out the lines that no result needs."""
        needed, lines = set(results), []
        for call, names in reversed(self.notes.lines):
            if call.has_side_effects or not needed.isdisjoint(names):
                needed.update(self.name_of(tensor) for tensor in call.inputs)
                lines.append((call, names))
        return lines[::-1]

    def _statements(
        self, lines: list[tuple[Call, list[str]]], kept: set[str], direct: Mapping[str, Tensor]
    ) -> Iterator[str]:
        uses = [[self.name_of(tensor) for tensor in call.inputs] for call, _ in lines]
        last = {name: index for index, used in enumerate(uses) for name in used}
        memory = Memory(lines, last, kept | direct.keys())
        for index, (call, names) in enumerate(lines):
            if (
                (call.is_view or call.name in RESHAPES)
                and len(call.inputs) == 1
                and self._settle(names, call.inputs, partial(take_again, call))
            ):
                continue
            if self.preallocate and is_small_product(call):
                if names[0] not in direct:
                    self._settle(names, [], partial(torch.empty_like, call.result))
                places = direct if names[0] in direct else self.settled
                yield self._product(call, places[names[0]])
                continue
            arguments = [self._literal(argument) for argument in call.args]
            arguments += [f"{key}={self._literal(value)}" for key, value in call.kwargs.items()]
            function = self._function(call)
            if names and names[0] in direct:
                arguments.append(f"out={self._object(direct[names[0]])}")
            elif (first := memory.replaced_by(call, index)) is not None:
                memory.join(first, call.result)
                if call.name in INTO:
                    arguments.append(f"grad_input={self.name_of(first)}")
                form = INTO.get(call.name) or IN_PLACE[call.name]
                function = self._object(form, name=f"in_place_{call.name}")
                self._settle(names, [first], lambda place: place)
            elif self.preallocate and names[0:1] and names[0] not in kept and has_place(call):
                self._settle(names, [], partial(torch.empty_like, call.result))
                if call.name == "clone":
                    function, arguments = f"{names[0]}.copy_", arguments[:1]
                else:
                    arguments.append(f"{PLACES.get(call.name, 'out')}={names[0]}")
                if call.name in PLACES:
                    function = self._object(INTO[call.name], name=f"into_{call.name}")
            settled = bool(names) and names[0] in self.settled
            left = f"{', '.join(names)} = " if names and not settled else ""
            yield f"{left}{function}({', '.join(arguments)})"
            mentioned = [name for name in dict.fromkeys(uses[index] + names) if name[0] == "v"]
            mentioned = [name for name in mentioned if name not in self.settled]
            done = [n for n in mentioned if n not in kept and last.get(n, index) <= index]
            if done:
                yield f"del {', '.join(done)}"

    def _product(self, call: Call, place: Tensor) -> str:
        """Write a small product down, in which networks with the same rows are one."""
        names = [self.name_of(factor) for factor in call.args]
        first, second = map(self.bound.get, names)
        if first is not None and second is not None and names[1] in self.notes.constant:
            first, second, place = as_larger_products(first, second, place)
        if self.by_torch and first is not None and second is not None and is_thin(place):
            # (A B)' = B' A', and then into its place
            turned = torch.empty_like(place.mT, memory_format=torch.contiguous_format)
            factors = self._object(second.mT), self._object(first.mT)
            product = self._object(torch.bmm, name="torch_bmm")
            return (
                f"{self._object(place)}.copy_({product}({', '.join(factors)}, "
                f"out={self._object(turned)}).mT)"
            )
        function: Callable[..., Any] = torch.bmm if self.by_torch else np.matmul
        product = self._object(function, name="torch_bmm" if self.by_torch else _PRODUCT)
        factors = self._matrices(names[0], first), self._matrices(names[1], second)
        return f"{product}({', '.join(factors)}, out={self._matrices('', place)})"

    def _matrices(self, name: str, value: Tensor | None) -> str:
        """Write matrices down for whoever multiplies them: a value, if it is there beforehand."""
        if value is None:
            return name if self.by_torch else f"{name}.numpy()"
        return self._object(value if self.by_torch else value.numpy())

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
        if call.name in DIRECT:
            return self._object(DIRECT[call.name], name=f"torch_{call.name}")
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
def _compile(source: str) -> CodeType:
    """Compile a program; fits of the same network write down the same one."""
    return compile(source, "<captured gradient>", "exec")
