"""A gradient, noted once as a flat list of tensor operations and then repeated.

A step of a small network spends most of its time in Python and autograd, not in arithmetic.
:func:`write_down` turns the notes of one ordinary forward and backward pass into a function
that repeats them without modules, graph or tape. No compiler is needed, and any module will
do whose operations are the same in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreg.engine.cosines import faster_cosine
from torchreg.engine.operations import (
    BY_SHAPE,
    DIRECT,
    IN_PLACE,
    INTO,
    PLACES,
    RESHAPES,
    SAME,
    SAME_IN_SHAPE,
    Memory,
    Transpose,
    are_alike,
    by_position,
    can_write,
    dims_swapped,
    has_place,
    is_reshape,
    is_thin,
    needs_layout,
    take_again,
    transpose_of,
)
from torchreg.engine.products import as_larger_products, is_small_product
from torchreg.engine.recorder import Call, NotCapturableError, memory_of
from torchreg.engine.rewriting import rewritten

Program = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: How NumPy's products are called where they are written down.
_PRODUCT = "product"


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
        - {memory_of(c.args[0]) for c in calls if needs_layout(c)},
        stays=stays,
    )
    for tensor in stable:
        notes.bind(tensor)
    for tensor in constants:
        notes.bind(tensor, constant=True)
    for call in rewritten(calls, [loss, *gradients]) if stays else calls:
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
        self.transposed: dict[str, Transpose] = {}
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
        if torch.Tag.dynamic_output_shape in call.func.tags and not by_position(call):
            raise NotCapturableError(f"the shape of what {call.name} returns depends on values")
        given = [self.name_of(tensor) for tensor in call.given]
        dims = dims_swapped(call)
        before = self.transposed.get(given[0]) if dims else None
        if call.name in SAME or (
            call.name in SAME_IN_SHAPE and are_alike(call.args[0], call.result)
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
            source = Transpose(given[0], call.args[0], dims)
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
            return given[0] in self.transposed and is_thin(call.result)
        if self.stays and is_small_product(call):
            return False
        return call.args[0].shape[2] > 1 and is_thin(call.result)

    def _append_turned(self, call: Call) -> None:
        """Compute A B as (B' A')'."""
        turned = [transpose_of(factor) for factor in reversed(call.args)]
        for transpose in turned:
            self.take(transpose)
        product = call.result.mT.contiguous()
        self.turned += [*(transpose.result for transpose in turned), product]
        factors = tuple(transpose.result for transpose in turned)
        self._append(Call(call.func, factors, {}, product))
        self._append(replace(transpose_of(product), result=call.result))

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
        return made_here or call.name in BY_SHAPE or self._all_constant(given)

    def _all_constant(self, names: list[str]) -> bool:
        return bool(names) and all(name in self.constant for name in names)

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
        exec(_compiled("\n    ".join(source)), namespace)
        # Out of the namespace that it looks names up in: in a circle, the tensors would outlive
        # the fit until Python looks for circles.
        program: Program = namespace.pop("program")
        # Who reads the loss says what is wrong with it; NumPy would say it of each product.
        return np.errstate(all="ignore")(program) if _PRODUCT in namespace else program

    def _destinations(
        self, targets: list[str], out: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Find the gradients that can be computed where they are wanted; list the others."""
        producers = {names[0]: call for call, names in self.lines if len(names) == 1}
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
        memory = Memory(lines, last, kept | direct.keys())
        for index, (call, names) in enumerate(lines):
            if (
                (call.is_view or call.name in RESHAPES)
                and len(call.given) == 1
                and self._settle(names, call.given, partial(take_again, call))
            ):
                continue
            if self.stays and is_small_product(call):
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
            elif self.stays and names[0:1] and names[0] not in kept and has_place(call):
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
        product = self._object(np.matmul, name=_PRODUCT)
        if names[1] in self.constant and names[0] in self.bound:
            tensors = as_larger_products(self.bound[names[0]], self.bound[names[1]], place)
            first, second, into = (self._object(tensor.numpy()) for tensor in tensors)
        else:
            first, second = map(self._array, call.args)
            into = self._object(place.numpy())
        return f"{product}({first}, {second}, out={into})"

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
        if (cosine := faster_cosine(call)) is not None:
            return self._object(cosine, name=f"numpy_{call.name}")
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

    def _array(self, tensor: Tensor) -> str:
        """Write down the array that shares the memory of a tensor."""
        name = self.name_of(tensor)
        if name not in self.bound:
            return f"{name}.numpy()"
        return self._object(self.bound[name].numpy(), name=f"{name}_array")

    def _object(self, value: Any, *, name: str | None = None) -> str:
        """Give the function an object that cannot be written down."""
        name = name or f"k{len(self.bound)}"
        self.bound[name] = value
        return name


@lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    """Compile a program; fits of the same network write down the same one."""
    return compile(source, "<captured gradient>", "exec")
