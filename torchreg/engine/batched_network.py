"""Networks for tables, computed together: one batched product in place of one for each network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from torchreg.engine.batched_program import BatchedProgram
from torchreg.nn import (
    Ensemble,
    Standardize,
    TabularMLP,
    Unstandardize,
)
from torchreg.nn.mlp import has_default_forward, sequential_layers
from torchreg.nn.tabular import TABULAR_PARTS

#: The parts of a network whose buffers are equal in all networks of a fit.
_SHARED_PARTS = ("scale", "line", "bins")


def batch_networks(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a faster function with the results of a fitted module.

    Call both without gradients.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.

    Returns
    -------
    callable or None
        ``None`` unless the module is a sequence whose child ``network`` is a :class:`TabularMLP`,
        or an :class:`Ensemble` of those of one fit, on the CPU and without hooks.

    Notes
    -----
    The prepared program is cached outside the module, by a weak reference, so that files and
    copies do not contain it. Each call checks whether layers, tensors, hooks or attributes were
    replaced, and reads the current values of the parameters.
    """
    network = module._modules.get("network")
    first = network.members._modules.get("0") if isinstance(network, Ensemble) else network
    if type(module) is not nn.Sequential or type(first) is not TabularMLP or _has_global_hook():
        return None
    prepared = _PREPARED.get(module)
    if prepared is None or not prepared.is_current():
        prepared = _PREPARED[module] = _Prepared(module)
    return None if prepared.network is None else prepared.network.program()


def _has_global_hook() -> bool:
    # torch 2.6 has the registries, but no function that looks at them.
    torch_module = nn.modules.module
    return bool(
        torch_module._global_forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_backward_pre_hooks
        or torch_module._global_backward_hooks
    )


class _Prepared:
    """A batched network, and the state of the module for which it was built."""

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        contents: list[Any] = [d for m in modules for d in (m._modules, m._parameters, m._buffers)]
        self.contents: list[dict[str, Any]] = [d for d in contents if d]
        self.hooks = [d for m in modules for d in (m._forward_hooks, m._forward_pre_hooks)]
        # An instance may get a `forward` of its own.
        self.attributes = [vars(m) for m in modules]
        # What layers with parameters compute depends on these, and on no settings.
        leaves = [vars(m) for m in modules if not m._modules and not m._parameters]
        self.settings = [(itemgetter(*(leaf.keys() - _INTERNAL)), leaf) for leaf in leaves]
        self.tensors = [t for d in self.contents for t in d.values() if isinstance(t, Tensor)]
        # A view of the same memory may be another matrix.
        self.matrices = [t for t in self.tensors if t.ndim > 1 and isinstance(t, nn.Parameter)]
        self.objects, self.values = self._state()
        network = module.get_submodule("network")
        layers = [*module.children()]
        before, after = layers[: layers.index(network)], layers[layers.index(network) + 1 :]
        members = [*network.members] if isinstance(network, Ensemble) else [network]
        networks = [part for part in members if type(part) is TabularMLP]
        scalings = [part for part in before if type(part) is Standardize]
        self.network: _BatchedNetwork | None = None
        if (
            len(scalings) == len(before)
            and len(networks) == len(members)
            and all(map(has_default_forward, modules))
            and can_batch(networks)
            and all(part.dtype == networks[0].line.weight.dtype for part in scalings)
        ):
            self.network = _BatchedNetwork(scalings, networks, after)

    def is_current(self) -> bool:
        """Whether all objects are the same, and tensors have the same memory and layout."""
        objects, values = self._state()
        return (
            values == self.values
            and len(objects) == len(self.objects)
            and all(map(is_, objects, self.objects))
        )

    def _state(self) -> tuple[list[Any], list[Any]]:
        values = [
            any(self.hooks),
            sum(map(len, self.attributes)),
            *(get(leaf) for get, leaf in self.settings),
            *map(Tensor.data_ptr, self.tensors),
            *map(Tensor.size, self.matrices),
            *map(Tensor.stride, self.matrices),
        ]
        return [*chain.from_iterable(map(dict.values, self.contents))], values


#: Attributes of all modules but this one are not settings.
_INTERNAL = vars(nn.Module()).keys() - {"training"}
#: Weak, so that it does not keep modules alive.
_PREPARED: WeakKeyDictionary[nn.Module, _Prepared] = WeakKeyDictionary()


def can_batch(networks: Sequence[TabularMLP]) -> bool:
    """Whether networks have known parts, one architecture and one dtype, and are on the CPU."""
    if not all(map(_has_known_parts, networks)):
        return False
    first, *others = map(_architecture, networks)
    tensors = [t for n in networks for t in chain(n.parameters(), n.buffers())]
    dtypes = {p.dtype for n in networks for p in n.parameters()}
    return (
        all(has_default_forward(part) for network in networks for part in network.modules())
        and all(other == first for other in others)
        and all(t.is_contiguous() and t.device.type == "cpu" for t in tensors)
        and (dtypes == {torch.float32} or dtypes == {torch.float64})
    )


def _has_known_parts(network: TabularMLP) -> bool:
    if {name: type(part) for name, part in network._modules.items()} != TABULAR_PARTS:
        return False
    layers = sequential_layers(network.mlp) or [nn.Identity()]
    return (
        len(layers) > 1
        and isinstance(layers[0], nn.Linear)
        and isinstance(layers[-1], nn.Linear)
        and network.waves.columns == network.bins.columns
        and not any(part.training for part in network.modules())
    )


def _architecture(network: TabularMLP) -> list[Any]:
    parts = [repr(network.get_submodule(name)) for name in ("waves", "bins", "mlp")]
    return [*parts, *((name, t.shape) for name, t in network.state_dict().items())]


class _BatchedNetwork:
    """The mean of several :class:`TabularMLP` of one architecture.

    Parameters
    ----------
    before : sequence of Standardize
    networks : sequence of TabularMLP
    after : sequence of nn.Module
        What follows the networks.
    """

    def __init__(
        self,
        before: Sequence[Standardize],
        networks: Sequence[TabularMLP],
        after: Sequence[nn.Module],
    ) -> None:
        self.before, self.after = before, after
        self.first, self.n_networks = networks[0], len(networks)
        layers = [sequential_layers(network.mlp) or [] for network in networks]
        #: For each layer, those of all networks.
        self.layers = [
            same for same in zip(*layers, strict=True) if type(same[0]) is not nn.Dropout
        ]
        # The large weights are used where they are, and others are copied to one tensor.
        hidden = {id(part.weight) for part, *_ in self.layers[:-1] if isinstance(part, nn.Linear)}
        parameters = zip(*(network.parameters() for network in networks), strict=True)
        self.copied = [same for same in parameters if id(same[0]) not in hidden]
        self.memory = [p.detach().view(-1) for same in self.copied for p in same]
        self.n_values = [sum(p.numel() for p in same) for same in self.copied]
        #: For each dtype, the buffers that all share, one network after another.
        self.shared: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
        for network in networks:
            for name in _SHARED_PARTS:
                for buffer in network.get_submodule(name).buffers():
                    self.shared[buffer.dtype].append(buffer.detach().view(-1))
        scaling = [*before, *(layer for layer in after if type(layer) is Unstandardize)]
        self.scaling = [t.detach().numpy() for layer in scaling for t in layer.buffers()]
        self.latest: tuple[list[bytes], BatchedProgram] | None = None

    def program(self) -> BatchedProgram | None:
        """Read the tensors; ``None`` if the networks differ in what they should share."""
        arrays = [torch.cat(memory).numpy() for memory in (self.memory, *self.shared.values())]
        content = [array.tobytes() for array in (*arrays, *self.scaling)]
        latest = self.latest
        if latest is not None and latest[0] == content:
            return latest[1]
        # Several of (n_networks * n_values,) -> (n_networks, n_values)
        shared = [values.reshape(self.n_networks, -1) for values in arrays[1:]]
        if not all((values == values[0]).all() for values in shared):
            return None
        blocks = np.split(arrays[0], np.cumsum(self.n_values)[:-1])
        values = {
            id(same[0]): block.reshape(self.n_networks, *same[0].shape)
            for same, block in zip(self.copied, blocks, strict=True)
        }
        program = BatchedProgram(self.before, self.first, self.layers, values, self.after)
        self.latest = content, program
        return program
