r"""Gradients of many networks in fewer passes over their rows, by algebra.

A layer of ReLU units before a single output is, for each network and row,

.. math:: z = A x, \quad h = \max(z, 0), \quad o = u^\top h,

and with the gradient :math:`r` of the loss by :math:`o` autograd computes

.. math:: G = u r, \quad D = G \odot [h > 0], \quad
          \frac{\partial L}{\partial A} = \sum D x^\top, \quad
          \frac{\partial L}{\partial u} = \sum h r,

where the sums are over rows. Each of these is a pass over all numbers of the layer. But :math:`u`
is the same in all rows, and they can be multiplied by it when they have been summed; and where a
unit is above 0, it is :math:`A x`. So with

.. math:: M = \sum \left(r \odot [h > 0]\right) x^\top, \qquad
          \frac{\partial L}{\partial A} = u \odot M, \quad
          \frac{\partial L}{\partial u} = (A \odot M)\, 1

two passes do, and the rest is as small as the weights. Where a number is not finite, others of the
gradient may be finite than would be; but then the loss is not finite either, which ends the fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchreg.engine.capture.ops import RESHAPES, transpose_of
from torchreg.engine.capture.recorder import Call, memory_of

_ATEN = torch.ops.aten
_MUL = _ATEN.mul.Tensor


@torch.no_grad()
def rewritten(calls: Sequence[Call], results: Sequence[Tensor]) -> list[Call]:
    """Compute the gradients of a layer of ReLU units before one output in fewer passes.

    Parameters
    ----------
    calls : sequence of Call
        What was noted of many networks.
    results : sequence of Tensor
        What is wanted of it: loss and gradients.

    Returns
    -------
    list of Call
        Among them are those that nobody needs any more.

    Examples
    --------
    >>> from torchreg.engine.capture.recorder import Recorder
    >>> A, u, x = torch.ones(2, 3, 4), torch.ones(2, 1, 3), torch.ones(2, 4, 9)
    >>> weights = [A.requires_grad_(), u.requires_grad_()]
    >>> with Recorder() as recorder:
    ...     loss = torch.bmm(u, torch.bmm(A, x).relu()).square().sum()
    ...     gradients = torch.autograd.grad(loss, weights)
    >>> before = [call.name for call in recorder.calls]
    >>> after = [call.name for call in rewritten(recorder.calls, [loss, *gradients])]
    >>> before[-2:], after[-2:]
    (['transpose', 'bmm'], ['bmm', 'mul'])
    """
    if any(call.acts for call in calls):
        return list(calls)
    notes = _Notes(calls, results)
    instead: dict[int, list[Call]] = {}
    for call in calls:
        if call.name == "threshold_backward":
            instead |= notes.shorter(call)
    return _in_order([new for call in calls for new in instead.get(id(call), [call])])


def _in_order(calls: Sequence[Call]) -> list[Call]:
    """Put calls behind those that make what they read, and else leave them where they are."""
    made = {id(tensor): call for call in calls for tensor in call.results}
    ordered: dict[int, Call] = {}

    def put(call: Call) -> None:
        for tensor in call.given:
            if (maker := made.get(id(tensor), call)) is not call and id(maker) not in ordered:
                put(maker)
        ordered.setdefault(id(call), call)

    for call in calls:
        put(call)
    return [*ordered.values()]


class _Notes:
    """Which call makes a value, and which read it, whatever view of it they are given."""

    def __init__(self, calls: Sequence[Call], results: Sequence[Tensor]) -> None:
        self.made: dict[Hashable, Call] = {}
        self.readers: defaultdict[int, list[Call]] = defaultdict(list)
        self.wanted = {memory_of(tensor) for tensor in results}
        for call in calls:
            if call.is_view or call.name in RESHAPES:
                continue
            for memory in {memory_of(tensor) for tensor in call.given}:
                self.readers[memory].append(call)
            for tensor in call.results:
                self.made[_place(tensor)] = call

    def shorter(self, masking: Call) -> dict[int, list[Call]]:
        """Give what stands for calls, by identity, if D is made of G here and summed with x."""
        gradient, h, threshold = masking.args
        if gradient.ndim != 3:
            return {}
        # (n_networks, n_units, n), or the transpose of such
        is_turned = self._product(gradient) is None
        outer = self._product(gradient.mT if is_turned else gradient)
        sums = self._sums_of(masking.result.mT if is_turned else masking.result)
        if outer is None or not sums or not self._is_outer(outer):
            return {}
        u, r = outer.args
        # (n_networks, 1, n) -> (n_networks, n_units, n)
        masked = [_call(_ATEN.expand.default, r, [*outer.result.shape])]
        masked += [transpose_of(masked[-1].result)] if is_turned else []
        masked += [_call(masking.func, masked[-1].result, h, threshold)]
        masked += [transpose_of(masked[-1].result)] if is_turned else []
        instead = {id(masking): masked}
        layer = self._before_relu(h, is_turned=is_turned)
        for call in sums:
            summed = _call(call.func, masked[-1].result, call.args[1])
            instead[id(call)] = [summed, Call(_MUL, (summed.result, u), {}, call.result)]
            if layer is None or _place(layer.args[1].mT) != _place(call.args[1]):
                continue
            for other in self._products_of(r, h if is_turned else h.mT):
                instead[id(other)] = []
                instead[id(call)] += _sum_of_products(layer.args[0], summed, other.result)
        return instead

    def _product(self, tensor: Tensor) -> Call | None:
        call = self.made.get(_place(tensor))
        return call if call is not None and call.name == "bmm" else None

    def _is_outer(self, product: Call) -> bool:
        """Whether it is G, and nobody needs it but who makes D of it."""
        memory = memory_of(product.result)
        alone = memory not in self.wanted and len(self.readers[memory]) == 1
        return product.args[0].shape[2] == 1 and product.args[1].shape[1] == 1 and alone

    def _sums_of(self, tensor: Tensor) -> list[Call]:
        """List the products of D with others from the right, if it is needed for nothing else."""
        memory, place = memory_of(tensor), _place(tensor)
        readers = self.readers[memory]
        are_sums = all(
            call.name == "bmm"
            and _place(call.args[0]) == place
            and memory_of(call.args[1]) != memory
            for call in readers
        )
        return readers if are_sums and memory not in self.wanted else []

    def _before_relu(self, h: Tensor, *, is_turned: bool) -> Call | None:
        """Give the product z of which h is the positive part."""
        relu = self.made.get(_place(h))
        # With fewer digits, sums of A x may have lost those that z has.
        if relu is None or relu.name != "relu" or h.dtype != torch.float64:
            return None
        product = self._product(relu.args[0].mT if is_turned else relu.args[0])
        # With many inputs it is A and M that are large.
        return product if product is not None and _is_flat(product.args[1]) else None

    def _products_of(self, a: Tensor, b: Tensor) -> list[Call]:
        """List the products of two that are wanted, and of which nothing else is made."""
        places = [_place(a), _place(b)]
        return [
            call
            for call in self.readers[memory_of(b)]
            if call.name == "bmm"
            and [_place(factor) for factor in call.args] == places
            and not self.readers[memory_of(call.result)]
        ]


def _is_flat(x: Tensor) -> bool:
    """Whether matrices have fewer rows than columns."""
    return x.shape[1] < x.shape[2]


def _sum_of_products(a: Tensor, m: Call, result: Tensor) -> list[Call]:
    """Compute the sums of a m over columns, as a row: (n_networks, 1, n_units)."""
    # (n_networks, n_units, n_inputs) -> (n_networks, n_inputs, n_units)
    turned = [transpose_of(a), transpose_of(m.result)]
    product = _call(_MUL, *(call.result for call in turned))
    return [*turned, product, Call(_ATEN.sum.dim_IntList, (product.result, [1], True), {}, result)]


def _call(func: Any, *args: Any) -> Call:
    return Call(func, args, {}, func(*args))


def _place(tensor: Tensor) -> Hashable:
    """Identify numbers by where they lie, in the order in which the tensor gives them."""
    strides = [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return memory_of(tensor), tensor.storage_offset(), tensor.shape, *strides
