"""Looks at networks as their fits end: those of one kind, at the same rows, are taken at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from torchreg.diagnosis.following import Member, kind_of, known_members, widest_of
from torchreg.diagnosis.lines import LinearBaseline
from torchreg.diagnosis.record import NetworkSummary
from torchreg.diagnosis.statistics import lines_of, look_inside, look_inside_each
from torchreg.engine.data import Table
from torchreg.engine.spec.train_task import capture_exception
from torchreg.nn import Link

#: Numbers of the widest layer, of all networks that are looked at at once: so few stay near.
MAX_RELEASED = 2**18


class ProbeRows(NamedTuple):
    """Rows that are sent through the network as the fit ends, and what lines make of them.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In the network's units.
    lines : LinearBaseline
    """

    x: Tensor
    lines: LinearBaseline


class ProbeTarget(NamedTuple):
    """A network that is to be looked at.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    sample : ProbeRows
    link : Link or None
        What makes predictions of its output.
    """

    network: nn.Module
    sample: ProbeRows
    link: Link | None = None


def take_sample(table: Table, chosen: Tensor | slice) -> ProbeRows:
    """Take the rows that are looked at: before the fit, so that fits on the same rows share it.

    Parameters
    ----------
    table : Table
        The training rows in the network's units.
    chosen : Tensor of shape (n,) or slice
    """
    x = table.x[chosen]
    return ProbeRows(x, lines_of(x, table.t[chosen]))


class Looks:
    """Looks of several views: what can be computed at once is so, all else when it is asked for.

    Parameters
    ----------
    views : sequence of ProbeTarget
        Each of a network of its own.

    Examples
    --------
    >>> import torch
    >>> from torchreg.nn import MLP
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> sample = take_sample(Table(x, x, None), slice(None))
    >>> views = [View(MLP(1, hidden_sizes=[3]).eval(), sample) for _ in range(2)]
    >>> [looks.of(view).n_rows for looks in [Looks(views)] for view in views]
    [50, 50]
    """

    def __init__(self, views: Sequence[ProbeTarget]) -> None:
        #: By the identity of networks, which the views keep alive.
        self._taken: dict[int, NetworkSummary | None] = {}
        self._views = views
        for sample, networks, members in _pieces(views):
            looks = capture_exception(look_inside_each, members, *sample)
            # Whose fault it was, each look alone will tell.
            if not isinstance(looks, Exception):
                self._taken.update(zip(map(id, networks), looks, strict=True))

    def of(self, view: ProbeTarget) -> NetworkSummary | None:
        """Give the look of one view."""
        network, sample, link = view
        if id(network) in self._taken:
            return self._taken[id(network)]
        return look_inside(network, *sample, link)


def _pieces(
    views: Sequence[ProbeTarget],
) -> Iterator[tuple[ProbeRows, list[nn.Module], list[Member]]]:
    """Put networks together that can be looked at at once, two or more, but not too many."""
    groups: dict[Hashable, list[tuple[ProbeTarget, Member]]] = defaultdict(list)
    for view in views if len(views) > 1 else ():
        # What is moved to a GPU has its own ways.
        if view.link is None and view.sample.x.device.type == "cpu":
            known = capture_exception(known_members, view.network)
            if isinstance(known, list) and len(known) == 1:
                groups[id(view.sample), kind_of(known[0])].append((view, known[0]))
    for group in groups.values():
        sample, first = group[0][0].sample, group[0][1]
        size = max(1, MAX_RELEASED // max(1, len(sample.x) * widest_of(first)))
        for place in range(0, len(group), size):
            piece = group[place : place + size]
            if len(piece) > 1:
                yield sample, [view.network for view, _ in piece], [member for _, member in piece]
