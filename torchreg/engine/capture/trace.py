"""The graph of a recorded step: its operations, without those that are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchreg.engine.capture.ops import (
    SHAPE_ONLY,
    Node,
    is_alias,
    is_integer_index,
    is_thin,
    swapped_dims,
)
from torchreg.engine.capture.recorder import Call, NotCapturableError, storage_id

_TRANSPOSE = torch.ops.aten.t.default


class TraceGraph:
    """Operations in the order of execution, with a name for each tensor.

    Parameters
    ----------
    inputs : mapping
        Tensors that differ from step to step, by name.
    mutated : set of int
        Storages that some call writes to.
    gradients : set of int
        Storages of the gradients, whose memory layout is free.

    Attributes
    ----------
    bound : dict
        Tensors that exist before the first step, by name.
    constant : set of str
        Names of those whose values never change.
    nodes : list of Node
        The operations that have to run in each step.
    """

    def __init__(
        self, inputs: Mapping[str, Tensor | None], *, mutated: set[int], gradients: set[int]
    ) -> None:
        self.mutated, self.gradients = mutated, gradients
        #: Name of each tensor, by identity; the calls keep all tensors alive.
        self.names = {id(tensor): name for name, tensor in inputs.items() if tensor is not None}
        self.bound: dict[str, Any] = {}
        self.constant: set[str] = set()
        self.nodes: list[Node] = []
        #: Tensors that no recorded call keeps alive; names are by identity.
        self.own_tensors: list[Tensor] = []
        #: For each transposed value: name of the original, and the swapped dimensions.
        self.transposed: dict[str, tuple[str, tuple[int, ...]]] = {}

    def bind(self, tensor: Tensor, *, constant: bool = False) -> str:
        """Name a tensor that exists before the first step."""
        name = self.names[id(tensor)] = f"c{len(self.bound)}"
        self.bound[name] = tensor.detach()
        if constant:
            self.constant.add(name)
        return name

    def name_of(self, tensor: Tensor) -> str:
        """Return the name of a tensor; one that no call made belongs to the module or the loss."""
        return self.names.get(id(tensor)) or self.bind(tensor)

    def add(self, call: Call) -> None:
        """Add one call, unless its result is known beforehand.

        Raises
        ------
        NotCapturableError
            If the call depends on values or draws from a generator of its own.
        """
        if any(isinstance(value, torch.Generator) for value in call.kwargs.values()):
            raise NotCapturableError("it draws from a random generator of its own")
        if torch.Tag.data_dependent_output in call.func.tags:
            raise NotCapturableError("the module or the loss looks at values while it runs")
        if torch.Tag.dynamic_output_shape in call.func.tags and not is_integer_index(call):
            raise NotCapturableError(f"the shape of what {call.name} returns depends on values")
        names = [self.name_of(tensor) for tensor in call.inputs]
        dims = swapped_dims(call)
        original, original_dims = self.transposed.get(names[0], ("", ())) if dims else ("", ())
        if is_alias(call):
            self.names[id(call.result)] = names[0]
        elif dims and dims == original_dims:
            self.names[id(call.result)] = original
        elif self._is_known(call, names):
            constant = not call.is_view or all(name in self.constant for name in names)
            for result in call.outputs:
                self.bind(result, constant=constant)
        elif self._is_faster_transposed(call, names):
            self._append_transposed(call)
        else:
            self._append(call)
        if dims:
            self.transposed.setdefault(self.names[id(call.result)], (names[0], dims))

    def _append(self, call: Call) -> None:
        label = f"v{len(self.nodes)}"
        several = isinstance(call.result, list | tuple)
        results = list(call.result) if several else [call.result] * bool(call.outputs)
        names = []
        for index, result in enumerate(results):
            name = label if len(results) == 1 else f"{label}_{index}"
            # An in-place operation returns its argument, which already has a name.
            known = self.names.setdefault(id(result), name) if result is not None else None
            names.append(name if known == name else "_")
        self.nodes.append(Node(call, names))

    def _is_faster_transposed(self, call: Call, names: list[str]) -> bool:
        """Whether it is the gradient of a layer with few inputs."""
        is_product = call.name == "mm" and storage_id(call.result) in self.gradients
        return is_product and names[0] in self.transposed and is_thin(call.result)

    def _append_transposed(self, call: Call) -> None:
        """Compute A B as (B' A')'."""
        factors = tuple(factor.t() for factor in reversed(call.args))
        product = call.result.t().contiguous()
        for factor, transpose in zip(reversed(call.args), factors, strict=True):
            self.add(Call(_TRANSPOSE, (factor,), {}, transpose))
        self._append(Call(call.func, factors, {}, product))
        self._append(Call(_TRANSPOSE, (product,), {}, call.result))
        self.own_tensors += [*factors, product]

    def _is_known(self, call: Call, names: list[str]) -> bool:
        """Whether the result is a constant, or a view of memory that exists beforehand."""
        if call.has_side_effects:
            return False
        if call.is_view:
            return all(name in self.bound for name in names)
        if any(storage_id(result) in self.mutated for result in call.outputs):
            return False
        # Uninitialized memory is no constant.
        is_filled = not names and not call.name.startswith("empty")
        is_constant = bool(names) and all(name in self.constant for name in names)
        return is_filled or call.name in SHAPE_ONLY or is_constant
