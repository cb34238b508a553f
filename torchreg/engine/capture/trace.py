"""Names for the tensors of a recorded step, and the calls whose results are not known before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchreg.engine.capture.numpy_kernels import is_small_product
from torchreg.engine.capture.ops import (
    BY_SHAPE,
    SAME,
    SAME_IN_SHAPE,
    Transpose,
    are_alike,
    dims_swapped,
    is_integer_index,
    is_thin,
    transpose_of,
)
from torchreg.engine.capture.recorder import Call, NotCapturableError, storage_id


class TraceGraph:
    """Calls with a name for each tensor; those whose result is known beforehand are gone.

    Parameters
    ----------
    inputs : mapping
        What differs from step to step, by name.
    mutated : set of int
        Memory that a call writes to, whatever for.
    free : set of int
        Memory of gradients, which may lie in any order; of other results the order is handed on.
    preallocate : bool
        Whether results have memory that preallocate from step to step.

    Attributes
    ----------
    bound : dict
        What is there before the first step, by name.
    constant : set of str
        Names of those of it whose values never change.
    lines : list of (Call, list of str)
        The others, with the names of their results.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor | None],
        *,
        mutated: set[int],
        free: set[int],
        preallocate: bool,
    ) -> None:
        self.mutated = mutated
        # What works in place by itself says by itself what lies where.
        self.preallocate = preallocate and not mutated
        self.free = free
        #: Name of each tensor, by identity; the calls keep them all alive.
        self.names = {id(tensor): name for name, tensor in inputs.items() if tensor is not None}
        self.bound: dict[str, Any] = {}
        self.constant: set[str] = set()
        #: What each transposed value is the transpose of, in which dimensions.
        self.transposed: dict[str, Transpose] = {}
        #: Tensors that only the notes hold, kept alive like those of the calls.
        self.turned: list[Tensor] = []
        self.lines: list[tuple[Call, list[str]]] = []

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
        if torch.Tag.dynamic_output_shape in call.func.tags and not is_integer_index(call):
            raise NotCapturableError(f"the shape of what {call.name} returns depends on values")
        given = [self.name_of(tensor) for tensor in call.inputs]
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
            for result in call.outputs:
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
        results = list(call.result) if several else [call.result] * bool(call.outputs)
        names = []
        for index, result in enumerate(results):
            name = label if len(results) == 1 else f"{label}_{index}"
            # What works in place returns what it was given, which has its name already.
            known = self.names.setdefault(id(result), name) if result is not None else None
            names.append(name if known == name else "_")
        self.lines.append((call, names))

    def _is_faster_turned(self, call: Call, given: list[str]) -> bool:
        """Whether it is the gradient of a layer with few inputs, of one network or of many."""
        if call.name not in ("mm", "bmm") or storage_id(call.result) not in self.free:
            return False
        if call.name == "mm":
            return given[0] in self.transposed and is_thin(call.result)
        if self.preallocate and is_small_product(call):
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
        """Tell whether the result is a constant, or a view of memory that preallocate."""
        if call.has_side_effects:
            return False
        if call.is_view:
            return all(name in self.bound for name in given)
        if any(storage_id(result) in self.mutated for result in call.outputs):
            return False
        # Memory that was not filled is no constant.
        made_here = not given and not call.name.startswith("empty")
        return made_here or call.name in BY_SHAPE or self._all_constant(given)

    def _all_constant(self, names: list[str]) -> bool:
        return bool(names) and all(name in self.constant for name in names)
