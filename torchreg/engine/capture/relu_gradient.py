r"""Gradients of a layer of ReLU units before a single output, in fewer passes over the rows.

For each network of a stack and each row, such a network computes

.. math:: z = A x, \quad h = \max(z, 0), \quad o = u^\top h,

and autograd computes, with the gradient :math:`r` of the loss with respect to :math:`o`,

.. math:: G = u r, \quad D = G \odot [h > 0], \quad
          \frac{\partial L}{\partial A} = \sum D x^\top, \quad
          \frac{\partial L}{\partial u} = \sum h r,

where the sums are over rows. Each is a pass over all values of the layer. But :math:`u` is the same
in all rows, so that the sums can be multiplied by it, and active units are equal to :math:`A x`:

.. math:: M = \sum \left(r \odot [h > 0]\right) x^\top, \qquad
          \frac{\partial L}{\partial A} = u \odot M, \quad
          \frac{\partial L}{\partial u} = (A \odot M)\, 1.

These are two passes instead of four.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchreg.engine.capture.ops import RESHAPES
from torchreg.engine.capture.recorder import Call, storage_id

_ATEN = torch.ops.aten


@torch.no_grad()
def rewrite_relu_gradients(calls: Sequence[Call], results: Sequence[Tensor]) -> list[Call]:
    """Replace the calls that compute such gradients; calls that are not needed may remain.

    Parameters
    ----------
    calls : sequence of Call
        A recorded step of a stack of networks.
    results : sequence of Tensor
        Loss and gradients.

    Examples
    --------
    >>> from torchreg.engine.capture import Recorder
    >>> A, u, x = torch.ones(2, 3, 4), torch.ones(2, 1, 3), torch.ones(2, 4, 9)
    >>> weights = [A.requires_grad_(), u.requires_grad_()]
    >>> with Recorder() as recorder:
    ...     loss = torch.bmm(u, torch.bmm(A, x).relu()).square().sum()
    ...     gradients = torch.autograd.grad(loss, weights)
    >>> [call.name for call in rewrite_relu_gradients(recorder.calls, [loss, *gradients])][-2:]
    ['bmm', 'mul']
    """
    masks = [call for call in calls if call.name == "threshold_backward"]
    if not masks or any(call.has_side_effects for call in calls):
        return list(calls)
    trace = _Trace(calls, results)
    replacements: dict[int, list[Call]] = {}
    for call in masks:
        replacements |= trace.replace(call)
    return _sort([new for call in calls for new in replacements.get(id(call), [call])])


def _sort(calls: Sequence[Call]) -> list[Call]:
    """Move calls behind those whose results they use; otherwise keep the order."""
    producer = {id(tensor): call for call in calls for tensor in call.outputs}
    ordered: dict[int, Call] = {}

    def add(call: Call) -> None:
        for tensor in call.inputs:
            source = producer.get(id(tensor), call)
            if source is not call and id(source) not in ordered:
                add(source)
        ordered.setdefault(id(call), call)

    for call in calls:
        add(call)
    return [*ordered.values()]


class _Trace:
    """The call that computes each value, and those that use it, through any view of it."""

    def __init__(self, calls: Sequence[Call], results: Sequence[Tensor]) -> None:
        self.producer: dict[Hashable, Call] = {}
        self.users: defaultdict[int, list[Call]] = defaultdict(list)
        self.results = {storage_id(tensor) for tensor in results}
        for call in calls:
            if call.is_view or call.name in RESHAPES:
                continue
            for storage in {storage_id(tensor) for tensor in call.inputs}:
                self.users[storage].append(call)
            for tensor in call.outputs:
                self.producer[_view_key(tensor)] = call

    def replace(self, mask: Call) -> dict[int, list[Call]]:
        """Return replacements of calls, by identity, if the mask makes D of G."""
        gradient, h, threshold = mask.args
        if gradient.ndim != 3:
            return {}
        # (n_networks, n_units, n), or its transpose
        is_transposed = self._product(gradient) is None
        outer = self._product(gradient.mT if is_transposed else gradient)
        sums = self._sums_of(mask.result.mT if is_transposed else mask.result)
        if outer is None or not sums or not self._is_used_once_as_outer_product(outer):
            return {}
        u, r = outer.args
        # (n_networks, 1, n) -> (n_networks, n_units, n)
        masked = [_call(_ATEN.expand.default, r, [*outer.result.shape])]
        masked += [_transpose(masked[-1].result)] if is_transposed else []
        masked += [_call(mask.func, masked[-1].result, h, threshold)]
        masked += [_transpose(masked[-1].result)] if is_transposed else []
        replacements: dict[int, list[Call]] = {id(mask): masked}
        layer = self._layer_before_relu(h, is_transposed=is_transposed)
        for call in sums:
            m = _call(call.func, masked[-1].result, call.args[1])
            replacements[id(call)] = [m, Call(_ATEN.mul.Tensor, (m.result, u), {}, call.result)]
            if layer is None or _view_key(layer.args[1].mT) != _view_key(call.args[1]):
                continue
            for other in self._result_products(r, h if is_transposed else h.mT):
                replacements[id(other)] = []
                replacements[id(call)] += _row_sums(layer.args[0], m, other.result)
        return replacements

    def _product(self, tensor: Tensor) -> Call | None:
        call = self.producer.get(_view_key(tensor))
        return call if call is not None and call.name == "bmm" else None

    def _is_used_once_as_outer_product(self, product: Call) -> bool:
        """Whether it is G."""
        storage = storage_id(product.result)
        is_used_once = storage not in self.results and len(self.users[storage]) == 1
        return product.args[0].shape[2] == 1 and product.args[1].shape[1] == 1 and is_used_once

    def _sums_of(self, tensor: Tensor) -> list[Call]:
        """List the products of D with other values from the right, if D has no other use."""
        storage, key = storage_id(tensor), _view_key(tensor)
        users = self.users[storage]
        are_sums = all(
            call.name == "bmm"
            and _view_key(call.args[0]) == key
            and storage_id(call.args[1]) != storage
            for call in users
        )
        return users if are_sums and storage not in self.results else []

    def _layer_before_relu(self, h: Tensor, *, is_transposed: bool) -> Call | None:
        """Return the product z whose positive part is h."""
        relu = self.producer.get(_view_key(h))
        # In float32, sums of A x may have lost digits that z has.
        if relu is None or relu.name != "relu" or h.dtype != torch.float64:
            return None
        product = self._product(relu.args[0].mT if is_transposed else relu.args[0])
        # With more inputs than rows, A and M are the large ones.
        has_few_inputs = product is not None and product.args[1].shape[1] < product.args[1].shape[2]
        return product if has_few_inputs else None

    def _result_products(self, a: Tensor, b: Tensor) -> list[Call]:
        """List the products of two values that are results and have no other use."""
        keys = [_view_key(a), _view_key(b)]
        return [
            call
            for call in self.users[storage_id(b)]
            if call.name == "bmm"
            and [_view_key(factor) for factor in call.args] == keys
            and not self.users[storage_id(call.result)]
        ]


def _row_sums(a: Tensor, m: Call, result: Tensor) -> list[Call]:
    """Sum a * m over its columns, as a row: (n_networks, 1, n_units)."""
    # (n_networks, n_units, n_inputs) -> (n_networks, n_inputs, n_units)
    transposes = [_transpose(a), _transpose(m.result)]
    product = _call(_ATEN.mul.Tensor, *(call.result for call in transposes))
    total = Call(_ATEN.sum.dim_IntList, (product.result, [1], True), {}, result)
    return [*transposes, product, total]


def _call(func: Any, *args: Any) -> Call:
    return Call(func, args, {}, func(*args))


def _transpose(matrices: Tensor) -> Call:
    return _call(_ATEN.transpose.int, matrices, 1, 2)


def _view_key(tensor: Tensor) -> Hashable:
    """Identify values by their memory and the order in which the tensor has them."""
    strides = [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return storage_id(tensor), tensor.storage_offset(), tensor.shape, *strides
