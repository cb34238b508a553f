"""Networks that look at the training rows before their first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreg.engine.data import LazyRows, Table, count_columns
from torchreg.nn import Link

#: The method by which a network asks for the rows.
HOOK = "initialize_from"

#: Of rows that are not kept in the network's units, sparse ones or a table of more than 16
#: million numbers, a sample of this many numbers is shown: enough for quartiles and least
#: squares, and sorted in half a second.
_SHOWN = 2**22


def has_data_init(network: nn.Module) -> bool:
    """Tell whether a network's class has the method ``initialize_from``."""
    return callable(getattr(type(network), HOOK, None))


def initialize(network: nn.Module, table: Table, link: Link | None = None) -> None:
    """Show a network its training rows, if it asks for them; its parts it tells itself.

    Call it where the generators are lent (``with_seed``), so that what is drawn follows the seed.

    Parameters
    ----------
    network : nn.Module
        As it was drawn. Where its class has ``initialize_from``, that is called once, without
        gradients, with ``x`` (n, n_features), ``t`` (n, n_outputs), both standardized, and
        ``weight`` (n,) or ``None``.
    table : Table
        The training rows.
    link : Link or None, default=None
        What makes predictions of the network's numbers: ``t`` is then what the network should
        give, roughly, as :meth:`torchreg.nn.Link.working` says.

    Raises
    ------
    ValueError
        If the method fails, or changes the rows.
    """
    if not has_data_init(network):
        return
    x, t, weight = _shown(table)
    rows = x, t if link is None else link.working(t), weight
    versions = [_version(values) for values in rows]
    name = type(network).__name__
    try:
        with torch.no_grad():
            getattr(network, HOOK)(*rows)
        # What it made anew has torch's default dtype.
        network.to(rows[1].device, rows[1].dtype)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        shape = tuple(rows[0].shape)
        raise ValueError(f"{name}.{HOOK} failed on x of shape {shape}: {error}") from error
    if [_version(values) for values in rows] != versions:
        raise ValueError(
            f"{name}.{HOOK} expects to read the rows, but it changed them in place, and they are "
            "what the network is trained on. Work on a copy: x.clone()."
        )


def _shown(table: Table) -> tuple[Tensor, Tensor, Tensor | None]:
    n, at_most = len(table.t), max(1, _SHOWN // max(count_columns(table.x), 1))
    if isinstance(table.x, LazyRows) and n > at_most:
        index = torch.randperm(n)[:at_most].sort().values
        here = index.to(table.t.device)
        weight = None if table.weight is None else table.weight[here]
        return table.x[index], table.t[here], weight
    whole = table.whole()
    return whole.x, whole.t, whole.weight


def _version(values: Tensor | None) -> int:
    return 0 if values is None else values._version
