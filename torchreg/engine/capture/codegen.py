"""Compile the trace of a step to a Python function without modules and autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreg.engine.capture.numpy_kernels import is_small_product, merge_products
from torchreg.engine.capture.ops import (
    FAST_FUNCTIONS,
    GRAD_INPUT,
    IN_PLACE,
    RESHAPES,
    Node,
    StorageLifetimes,
    can_preallocate,
    can_write_to,
    is_contiguous_reshape,
    repeat_view,
)
from torchreg.engine.capture.recorder import Call, storage_id
from torchreg.engine.capture.relu_gradient import rewrite_relu_gradients
from torchreg.engine.capture.trace import TraceGraph

Program = Callable[[Tensor, Tensor, Tensor | None], Tensor]

#: Name of NumPy's matrix product in the source of a program.
_MATMUL = "numpy_matmul"


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
) -> Program:
    """Compile a recorded forward and backward pass to a function.

    Parameters
    ----------
    calls : sequence of Call
        The recorded operations.
    inputs : mapping
        ``x``, ``t`` and ``weight``, if they differ from step to step.
    constants : sequence of Tensor
        Tensors with the same values in every step, such as a full batch.
    stable : sequence of Tensor
        Parameters and buffers: their values change, their memory does not.
    loss : Tensor
        The result of the forward pass.
    gradients : sequence of Tensor
        The results of the backward pass, one for each parameter.
    out : sequence of Tensor
        Where the function writes the gradients; same shapes.
    preallocate : bool, default=False
        Whether results are written to buffers that are allocated once. This pays for stacks of
        networks, whose activations are so large that allocating them in each step can take longer
        than computing them.

    Returns
    -------
    callable
        Takes ``x``, ``t`` and ``weight``, writes the gradients and returns the loss. Call it in
        inference mode.

    Raises
    ------
    NotCapturableError
        If the computation depends on values.

    Examples
    --------
    >>> from torchreg.engine.capture import Recorder
    >>> x, w = torch.tensor([1.0, 2.0]), torch.ones(2, requires_grad=True)
    >>> with Recorder() as recorder:
    ...     loss = (w * x).sum()
    ...     gradients = torch.autograd.grad(loss, [w])
    >>> out = [torch.empty(2)]
    >>> program = compile_trace(
    ...     recorder.calls, inputs={"x": x}, constants=[], stable=[w], loss=loss,
    ...     gradients=gradients, out=out)
    >>> with torch.inference_mode():
    ...     program(torch.tensor([3.0, 4.0]), x, None), out
    (tensor(7.), [tensor([3., 4.])])
    """
    graph = TraceGraph(
        inputs,
        mutated={storage_id(t) for call in calls for t in call.mutated},
        gradients={storage_id(gradient) for gradient in gradients},
    )
    for tensor in stable:
        graph.bind(tensor)
    for tensor in constants:
        graph.bind(tensor, constant=True)
    # Names are by identity: the list keeps the tensors of new calls alive.
    calls = rewrite_relu_gradients(calls, [loss, *gradients]) if preallocate else calls
    for call in calls:
        graph.add(call)
    # In-place operations decide themselves where their results are.
    return CodeGenerator(graph, preallocate=preallocate and not graph.mutated).compile(
        loss, gradients, out
    )


class CodeGenerator:
    """Write the source of a program, and bind the objects that it uses.

    Parameters
    ----------
    graph : TraceGraph
    preallocate : bool
        See :func:`compile_trace`.

    Attributes
    ----------
    static_buffers : dict of str to Tensor
        Values that have the same memory in every step, by name.
    """

    def __init__(self, graph: TraceGraph, *, preallocate: bool) -> None:
        self.graph, self.bound, self.name_of = graph, graph.bound, graph.name_of
        self.preallocate = preallocate
        self.static_buffers: dict[str, Tensor] = {}

    def compile(self, loss: Tensor, gradients: Sequence[Tensor], out: Sequence[Tensor]) -> Program:
        """Compile the function that writes gradients to ``out`` and returns the loss."""
        targets = [self.name_of(gradient) for gradient in gradients]
        direct, copied = self._find_destinations(targets, out)
        results = {self.name_of(loss), *(targets[index] for index in copied)}
        source = ["def program(x, t, weight):"]
        source += self._statements(self._live_nodes(results | direct.keys()), results, direct)
        if copied:
            destinations = ", ".join(self._bind(out[index]) for index in copied)
            values = ", ".join(targets[index] for index in copied)
            copy = self._bind(torch._foreach_copy_, name="foreach_copy")
            source.append(f"{copy}([{destinations}], [{values}])")
        result = self.name_of(loss)
        is_static = result in self.static_buffers
        source.append(f"return {result}.clone()" if is_static else f"return {result}")
        namespace = dict(self.bound)
        exec(_compile("\n    ".join(source)), namespace)
        # Without pop, function and namespace would be a reference cycle, and the tensors would
        # outlive the fit until the next garbage collection.
        program: Program = namespace.pop("program")
        # The training loop reports losses that are not finite; NumPy need not warn.
        return np.errstate(all="ignore")(program) if _MATMUL in namespace else program

    def _find_destinations(
        self, targets: list[str], out: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Find the values that can be computed in ``out``; list the gradients to be copied."""
        producers = {names[0]: call for call, names in self.graph.nodes if len(names) == 1}
        direct: dict[str, Tensor] = {}
        copied = []
        for index, name in enumerate(targets):
            while name in producers and is_contiguous_reshape(producers[name]):
                name = self.name_of(producers[name].args[0])
            call = producers.get(name)
            if name not in direct and call is not None and can_write_to(call, out[index]):
                direct[name] = out[index].view(call.result.shape)
            else:
                copied.append(index)
        return direct, copied

    def _live_nodes(self, results: set[str]) -> list[Node]:
        """List the nodes that results depend on, or that have side effects."""
        needed, nodes = set(results), []
        for node in reversed(self.graph.nodes):
            if node.call.has_side_effects or not needed.isdisjoint(node.names):
                needed.update(self.name_of(tensor) for tensor in node.call.inputs)
                nodes.append(node)
        return nodes[::-1]

    def _statements(
        self, nodes: list[Node], results: set[str], direct: Mapping[str, Tensor]
    ) -> Iterator[str]:
        uses = [[self.name_of(tensor) for tensor in node.call.inputs] for node in nodes]
        last_use = {name: index for index, used in enumerate(uses) for name in used}
        lifetimes = StorageLifetimes(nodes, last_use, results | direct.keys())
        for index, (call, names) in enumerate(nodes):
            is_view = call.is_view or call.name in RESHAPES
            if (
                is_view
                and len(call.inputs) == 1
                and self._make_static(names, call.inputs, partial(repeat_view, call))
            ):
                continue
            if self.preallocate and is_small_product(call):
                yield self._numpy_product(call, names, direct)
                continue
            function, arguments = self._function(call), self._arguments(call)
            if names and names[0] in direct:
                arguments.append(f"out={self._bind(direct[names[0]])}")
            elif (argument := lifetimes.find_reusable(call, index)) is not None:
                lifetimes.reuse(argument, call.result)
                if call.name in GRAD_INPUT:
                    arguments.append(f"grad_input={self.name_of(argument)}")
                form = GRAD_INPUT.get(call.name) or IN_PLACE[call.name]
                function = self._bind(form, name=f"in_place_{call.name}")
                self._make_static(names, [argument], lambda buffer: buffer)
            elif self.preallocate and names and names[0] not in results and can_preallocate(call):
                self._make_static(names, [], partial(torch.empty_like, call.result))
                if call.name == "clone":
                    function, arguments = f"{names[0]}.copy_", arguments[:1]
                elif call.name in GRAD_INPUT:
                    function = self._bind(GRAD_INPUT[call.name], name=f"in_place_{call.name}")
                    arguments.append(f"grad_input={names[0]}")
                else:
                    arguments.append(f"out={names[0]}")
            is_static = bool(names) and names[0] in self.static_buffers
            left = f"{', '.join(names)} = " if names and not is_static else ""
            yield f"{left}{function}({', '.join(arguments)})"
            local = [n for n in dict.fromkeys(uses[index] + names) if n[0] == "v"]
            unused = [n for n in local if n not in results and last_use.get(n, index) <= index]
            if unused := [n for n in unused if n not in self.static_buffers]:
                yield f"del {', '.join(unused)}"

    def _numpy_product(self, call: Call, names: list[str], direct: Mapping[str, Tensor]) -> str:
        """Write a batch of matrix products that NumPy computes."""
        if names[0] not in direct:
            self._make_static(names, [], partial(torch.empty_like, call.result))
        out = (direct if names[0] in direct else self.static_buffers)[names[0]]
        factor_names = [self.name_of(factor) for factor in call.args]
        first, second = (self.bound.get(name) for name in factor_names)
        if first is not None and second is not None and factor_names[1] in self.graph.constant:
            first, second, out = merge_products(first, second, out)
        factors = [
            f"{name}.numpy()" if value is None else self._bind(value.numpy())
            for name, value in zip(factor_names, (first, second), strict=True)
        ]
        matmul = self._bind(np.matmul, name=_MATMUL)
        return f"{matmul}({', '.join(factors)}, out={self._bind(out.numpy())})"

    def _make_static(
        self, names: list[str], inputs: Sequence[Tensor], make: Callable[..., Tensor]
    ) -> bool:
        """Give a value static memory, made of the static buffers of ``inputs`` if they have any."""
        buffers = [self.static_buffers.get(self.name_of(tensor)) for tensor in inputs]
        known = [buffer for buffer in buffers if buffer is not None]
        if len(names) != 1 or len(known) < len(buffers):
            return False
        self.bound[names[0]] = self.static_buffers[names[0]] = make(*known)
        return True

    def _function(self, call: Call) -> str:
        if call.name == "bmm" and call.args[0].shape[2] == 1:
            # An outer product sums nothing.
            return self._bind(torch.mul, name="torch_mul")
        if call.name in FAST_FUNCTIONS:
            return self._bind(FAST_FUNCTIONS[call.name], name=f"torch_{call.name}")
        return self._bind(call.func, name=str(call.func).replace(".", "_"))

    def _arguments(self, call: Call) -> list[str]:
        named = [f"{key}={self._literal(value)}" for key, value in call.kwargs.items()]
        return [*map(self._literal, call.args), *named]

    def _literal(self, value: Any) -> str:
        """Write an argument as source, or bind it."""
        if isinstance(value, Tensor):
            return self.name_of(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._literal(item) for item in value)}]"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, float) and math.isfinite(value):
            return repr(value)
        return self._bind(value)

    def _bind(self, value: Any, *, name: str | None = None) -> str:
        """Bind an object to a name in the program's namespace."""
        name = name or f"k{len(self.bound)}"
        self.bound[name] = value
        return name


@lru_cache(maxsize=64)
def _compile(source: str) -> CodeType:
    """Compile source; fits of the same architecture share it."""
    return compile(source, "<captured gradient>", "exec")
