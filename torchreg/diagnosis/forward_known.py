"""Forward passes through networks of known layers, for several networks at once."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.activation_slopes import (
    SLOPE_OF_OUTPUT,
    slope_and_output,
    slope_from_output,
)
from torchreg.diagnosis.forward_trace import ForwardTrace
from torchreg.diagnosis.hidden_units import count_units
from torchreg.diagnosis.record import Layer
from torchreg.nn import (
    Ensemble,
    FrozenLinear,
    TabularMLP,
)
from torchreg.nn.mlp import ACTIVATION_OF, has_default_forward, sequential_layers
from torchreg.nn.tabular import TABULAR_PARTS

#: Parts of :class:`TabularMLP` whose parameters belong to one column each.
_COLUMN_PARTS = ("scale", "waves", "bins")


class Member(NamedTuple):
    """A network as a list of layers.

    Parameters
    ----------
    table : TabularMLP or None
        Prepares the rows for the layers, and adds a linear model to their output.
    layers : list of nn.Module
        From :func:`torchreg.nn.mlp.sequential_layers`.
    """

    table: TabularMLP | None
    layers: list[nn.Module]


class _BatchTrace(NamedTuple):
    """Forward pass of several members; see :class:`ForwardTrace`.

    Parameters
    ----------
    first_input, last_output : Tensor of shape (n, width) or (n_members, n, width), or None
    output : Tensor of that shape
    calls : list of list of Layer
        For each call of an activation, the unit counts of each member.
    """

    first_input: Tensor | None
    last_output: Tensor | None
    output: Tensor
    calls: list[list[Layer]]


def known_members(network: nn.Module) -> list[Member] | None:
    """List the members of an ensemble, or the network itself, if all layers are known.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of Member or None
        ``None`` if a network is neither a sequence of known layers nor a
        :class:`torchreg.nn.TabularMLP`, or if members differ in their layers.

    Examples
    --------
    >>> from torchreg.nn import MLP
    >>> len(known_members(Ensemble([MLP(3), MLP(3)]))), len(known_members(MLP(3)))
    (2, 1)
    >>> known_members(Ensemble([MLP(3), MLP(3, hidden_sizes=[5])])) is None
    True
    """
    networks: Iterable[nn.Module] = [network]
    if type(network) is Ensemble and has_default_forward(network):
        networks = network.members
    members: list[Member] = []
    for each in networks:
        table = each if type(each) is TabularMLP else None
        if table is not None and not _has_known_parts(table):
            return None
        layers = sequential_layers(each if table is None else table.mlp)
        if layers is None:
            return None
        members.append(Member(table, layers))
    if len(members) > 1 and len(set(map(network_signature, members))) > 1:
        return None
    return members


def _has_known_parts(table: TabularMLP) -> bool:
    """Whether only the perceptron of a table network calls activations."""
    parts = vars(table)["_modules"]
    return has_default_forward(table) and all(
        type(parts[n]) is kind and has_default_forward(parts[n])
        for n, kind in TABULAR_PARTS.items()
    )


def network_signature(member: Member) -> Hashable:
    """Describe layers and shapes; members with equal signatures are evaluated at once.

    Examples
    --------
    >>> from torchreg.nn import MLP
    >>> networks = MLP(3), MLP(3, dropout=0.1), MLP(3, hidden_sizes=[5])
    >>> one, other, third = (network_signature(known_members(network)[0]) for network in networks)
    >>> one == other, one == third
    (False, False)
    """
    table = member.table
    shapes: list[Hashable] = []
    if table is not None:
        for name in ("line", *_COLUMN_PARTS):
            own = vars(table)["_modules"][name]
            tensors = {**vars(own)["_parameters"], **vars(own)["_buffers"]}
            shapes += map(_shape_and_dtype, tensors.values())
    return (*shapes, *((type(layer), _layer_options(layer)) for layer in member.layers))


def _layer_options(layer: nn.Module) -> Hashable:
    if type(layer) is nn.Linear:
        own = vars(layer)["_parameters"]
        return _shape_and_dtype(own["weight"]), own["bias"] is None
    # The rate of dropout does not matter in evaluation mode.
    return None if type(layer) is nn.Dropout else layer.extra_repr()


def _shape_and_dtype(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (tensor.shape, tensor.dtype)


def forward_known(members: list[Member], x: Tensor) -> ForwardTrace:
    """Evaluate known layers one after another, for all members at once.

    This takes a fraction of the time of :func:`torchreg.diagnosis.forward_trace.trace_forward`.

    Parameters
    ----------
    members : list of Member
        From :func:`known_members`, in evaluation mode.
    x : Tensor of shape (n, n_features)
        In the networks' units and dtype, on their device.
    """
    if len(members) == 1:
        first, last, output, calls = _forward_all(members, x)
        return ForwardTrace(output, first, last, [layer for (layer,) in calls])
    n_calls = sum(type(layer) in ACTIVATION_OF for layer in members[0].layers)
    # The layers of one member come before those of the next.
    first, _, output, calls = _forward_all(members, x, n_before=n_calls)
    in_order = [layer for own in zip(*calls, strict=True) for layer in own]
    # (n_members, n, n_outputs) -> (n, n_outputs): no output of a single layer
    return ForwardTrace(output.mean(dim=0), None if first is None else first[0], None, in_order)


def _forward_all(members: list[Member], x: Tensor, n_before: int = 0) -> _BatchTrace:
    """Evaluate all members, and count the units of the same layer of all members at once.

    Parameters
    ----------
    members : list of Member
    x : Tensor of shape (n, n_features)
    n_before : int, default=0
        Number of calls of each member, by which the numbers of the next member start later.
    """
    n_members = len(members)
    first_input = last_output = line = None
    given = x if n_members == 1 else x.expand(n_members, *x.shape)
    tables = [table for table, _ in members if table is not None]
    if tables:
        both, given = _prepare(tables, x)
        # The scaled columns only: the embeddings are trainable.
        first_input = given[..., : x.shape[1]]
        line = _apply_layer([table.line for table in tables], both)
    # (n, width) or, of several members, (n_members, n, width)
    values = given
    calls: list[list[Layer]] = []
    for layers in zip(*(member.layers for member in members), strict=True):
        before, values = values, _apply_layer(layers, values)
        if type(layers[0]) is nn.Linear:
            if last_output is None and first_input is None and before is not given:
                first_input = before
            last_output = values
        elif type(layers[0]) in ACTIVATION_OF:
            name = ACTIVATION_OF[type(layers[0])]
            call = (
                slope_from_output(name, values)
                if name in SLOPE_OF_OUTPUT
                else slope_and_output(layers[0], name, (before,), {})
            )
            numbers = [len(calls) + 1 + place * n_before for place in range(n_members)]
            calls.append(count_units(numbers, name, *call))
    output = values if line is None else line + values
    return _BatchTrace(first_input, last_output, output, calls)


def _prepare(tables: list[TabularMLP], x: Tensor) -> tuple[Tensor, Tensor]:
    """Prepare rows for all members at once, as one module with the columns of all members.

    This is possible because each column has its own parameters.

    Parameters
    ----------
    tables : list of TabularMLP
        With equal numbers of embedded columns.
    x : Tensor of shape (n, n_features)

    Returns
    -------
    both, embedded : Tensor of shape (n, ...) or, of several members, (n_members, n, ...)
    """
    n_members, width = len(tables), x.shape[1]
    if n_members == 1:
        return tables[0].prepare(x)
    parts = [vars(table)["_modules"] for table in tables]
    whole = copy.copy(tables[0])
    vars(whole)["_modules"] = {
        name: _concatenate_columns([own[name] for own in parts], width) for name in _COLUMN_PARTS
    }
    both, embedded = whole.prepare(x.repeat(1, n_members))
    # (n, 2 * n_members * width) -> (2, n_members, width, n)
    columns = both.t().unflatten(0, (2, n_members, width))
    # (n, n_columns) -> (n_members, n_columns_of_one, n)
    numbers, made = (
        part.reshape(n_members, len(part) // n_members, len(x))
        for part in embedded.t().tensor_split([n_members * width])
    )
    return torch.cat([*columns], dim=1).mT, torch.cat([numbers, made], dim=1).mT


def _concatenate_columns(parts: Sequence[nn.Module], width: int) -> nn.Module:
    """Build one module from several, with the ``width`` columns of each."""
    one = copy.copy(parts[0])
    for kind in ("_parameters", "_buffers"):
        own = [vars(part)[kind] for part in parts]
        vars(one)[kind] = {
            name: None if tensor is None else torch.cat([tensors[name] for tensors in own])
            for name, tensor in own[0].items()
        }
    index = vars(one)["_buffers"].get("index")
    if index is not None:
        # (n_members * n_columns,) -> (n_members, n_columns)
        places = index.reshape(len(parts), -1)
        begin = torch.arange(len(parts), device=index.device).unsqueeze(1) * width
        vars(one)["_buffers"]["index"] = (places + begin).flatten()
    return one


def _apply_layer(layers: Sequence[nn.Module], values: Tensor) -> Tensor:
    """Apply the same layer of all members."""
    kind = type(layers[0])
    if len(layers) == 1 or kind not in (nn.Linear, FrozenLinear):
        # Other layers have no parameters.
        output: Tensor = layers[0](values)
        return output
    # (n_members, n_outputs, n_inputs) @ (n_members, n_inputs, n): rows are contiguous, which is
    # faster for few units.
    where = "_parameters" if kind is nn.Linear else "_buffers"
    own = [vars(layer)[where] for layer in layers]
    weight = torch.stack([tensors["weight"] for tensors in own])
    if own[0]["bias"] is None:
        return torch.bmm(weight, values.mT).mT
    # ... + (n_members, n_outputs, 1)
    bias = torch.stack([tensors["bias"] for tensors in own]).unsqueeze(2)
    return torch.baddbmm(bias, weight, values.mT).mT
