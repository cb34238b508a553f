"""Sending rows through networks of known parts: several of one kind side by side."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchreg.diagnosis.record import Layer
from torchreg.diagnosis.slopes import SLOPE_OF_OUTPUT, slope_and_output, slope_from_output
from torchreg.diagnosis.units import count_units
from torchreg.diagnosis.watching import Seen
from torchreg.nn import (
    MLP,
    BinEmbedding,
    Ensemble,
    FrozenLinear,
    PeriodicEmbedding,
    ScaledAndClipped,
    TabularMLP,
)
from torchreg.nn.sequential import ACTIVATION_OF, has_default_forward, sequential_layers

#: What in a :class:`TabularMLP` prepares rows: all numbers in it belong to one column each.
_OF_COLUMNS: dict[str, type[nn.Module]] = {
    "scale": ScaledAndClipped,
    "waves": PeriodicEmbedding,
    "bins": BinEmbedding,
}
#: What is in it.
_PARTS: dict[str, type[nn.Module]] = {**_OF_COLUMNS, "line": FrozenLinear, "mlp": MLP}


class Member(NamedTuple):
    """One of several networks, or the only one.

    Parameters
    ----------
    table : TabularMLP or None
        What prepares the rows for the layers, and adds a line to what they give.
    layers : list of nn.Module
        From :func:`torchreg.nn.sequential.sequential_layers`.
    """

    table: TabularMLP | None
    layers: list[nn.Module]


class _Sent(NamedTuple):
    """What came of sending rows through members; see :class:`Seen`.

    Parameters
    ----------
    first_input, last_output : Tensor of shape (n, width) or (n_members, n, width), or None
    output : Tensor of that shape
    calls : list of list of Layer
        For each call of an activation, a layer of each member.
    """

    first_input: Tensor | None
    last_output: Tensor | None
    output: Tensor
    calls: list[list[Layer]]


def known_members(network: nn.Module) -> list[Member] | None:
    """List the members of an ensemble, or the network itself, if all that is in them is known.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of Member or None
        ``None`` if there is anything but plain networks and :class:`torchreg.nn.TabularMLP`,
        or if members differ in their layers.

    Examples
    --------
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
        if table is not None and not _is_as_built(table):
            return None
        layers = sequential_layers(each if table is None else table.mlp)
        if layers is None:
            return None
        members.append(Member(table, layers))
    if len(members) > 1 and len(set(map(kind_of, members))) > 1:
        return None
    return members


def _is_as_built(table: TabularMLP) -> bool:
    """Tell whether nothing in it but its perceptron calls an activation."""
    parts = vars(table)["_modules"]
    return has_default_forward(table) and all(
        type(parts[n]) is kind and has_default_forward(parts[n]) for n, kind in _PARTS.items()
    )


def kind_of(member: Member) -> Hashable:
    """Describe what a network consists of, without its numbers.

    Those of one kind can be followed side by side.

    Examples
    --------
    >>> networks = MLP(3), MLP(3, dropout=0.1), MLP(3, hidden_sizes=[5])
    >>> one, other, third = (kind_of(known_members(network)[0]) for network in networks)
    >>> one == other, one == third
    (False, False)
    """
    table = member.table
    shapes: list[Hashable] = []
    if table is not None:
        for name in ("line", *_OF_COLUMNS):
            own = vars(table)["_modules"][name]
            tensors = {**vars(own)["_parameters"], **vars(own)["_buffers"]}
            shapes += map(_form_of, tensors.values())
    return (*shapes, *((type(layer), _setting_of(layer)) for layer in member.layers))


def _setting_of(layer: nn.Module) -> Hashable:
    if type(layer) is nn.Linear:
        own = vars(layer)["_parameters"]
        return _form_of(own["weight"]), own["bias"] is None
    # In evaluation mode nothing is dropped, whatever its rate.
    return None if type(layer) is nn.Dropout else layer.extra_repr()


def _form_of(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (tensor.shape, tensor.dtype)


def follow(members: list[Member], x: Tensor) -> Seen:
    """Call one layer after the other: a fraction of the work of watching all calls.

    The same layer of all members is computed, and looked at, at once.

    Parameters
    ----------
    members : list of Member
        From :func:`known_members`, in evaluation mode.
    x : Tensor of shape (n, n_features)
        In the networks' units and dtype, on their device.
    """
    if len(members) == 1:
        first, last, output, calls = _send(members, x)
        return Seen(output, first, last, [layer for (layer,) in calls])
    n_calls = sum(type(layer) in ACTIVATION_OF for layer in members[0].layers)
    # One member is called after the other.
    first, _, output, calls = _send(members, x, n_before=n_calls)
    in_order = [layer for own in zip(*calls, strict=True) for layer in own]
    # (n_members, n, n_outputs) -> (n, n_outputs): not what a single layer makes
    return Seen(output.mean(dim=0), None if first is None else first[0], None, in_order)


def _send(members: list[Member], x: Tensor, n_before: int = 0) -> _Sent:
    """Send rows through all members, and count the units of the same layer of all at once.

    Parameters
    ----------
    members : list of Member
    x : Tensor of shape (n, n_features)
    n_before : int, default=0
        By how many the calls of each are numbered higher than those of the one before it.
    """
    n_members = len(members)
    first_input = last_output = line = None
    given = x if n_members == 1 else x.expand(n_members, *x.shape)
    tables = [table for table, _ in members if table is not None]
    if tables:
        both, given = _prepare(tables, x)
        # The numbers themselves: what is made of them beside them is learned.
        first_input = given[..., : x.shape[1]]
        line = _apply([table.line for table in tables], both)
    # (n, width) or, of several members, (n_members, n, width)
    values = given
    calls: list[list[Layer]] = []
    for layers in zip(*(member.layers for member in members), strict=True):
        before, values = values, _apply(layers, values)
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
    return _Sent(first_input, last_output, output, calls)


def _prepare(tables: list[TabularMLP], x: Tensor) -> tuple[Tensor, Tensor]:
    """Prepare rows for all members: the columns of all, as if they were columns of one.

    Each column has numbers of its own, in one member as in another.

    Parameters
    ----------
    tables : list of TabularMLP
        With as many embedded columns each.
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
        name: _of_all_columns([own[name] for own in parts], width) for name in _OF_COLUMNS
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


def _of_all_columns(parts: Sequence[nn.Module], width: int) -> nn.Module:
    """Make one module for the columns of several, which have ``width`` columns each."""
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


def _apply(layers: Sequence[nn.Module], values: Tensor) -> Tensor:
    """Send values through the same layer of all members."""
    kind = type(layers[0])
    if len(layers) == 1 or kind not in (nn.Linear, FrozenLinear):
        # What is not linear has no numbers of its own.
        output: Tensor = layers[0](values)
        return output
    # (n_members, n_outputs, n_inputs) @ (n_members, n_inputs, n): the rows lie along memory,
    # where products, and sums of rows, of few units take a fraction of the time.
    where = "_parameters" if kind is nn.Linear else "_buffers"
    own = [vars(layer)[where] for layer in layers]
    weight = torch.stack([tensors["weight"] for tensors in own])
    if own[0]["bias"] is None:
        return torch.bmm(weight, values.mT).mT
    # ... + (n_members, n_outputs, 1)
    bias = torch.stack([tensors["bias"] for tensors in own]).unsqueeze(2)
    return torch.baddbmm(bias, weight, values.mT).mT
