"""The network as HTML: as it prints, its constants under the user's names, its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from torchreg.nn import Ensemble, Standardize, Unstandardize
from torchreg.nn.links import target_layer
from torchreg.reporting.markup import table, text

#: More columns than this are folded away in a notebook, ...
FOLDED = 12
#: ... and more than this are counted, not listed.
LISTED = 500

#: Where several networks are.
MEMBERS = "network.members."

#: Takes its colors from the page around it, so that it reads on light and on dark ones.
STYLE = """
.torchreg-network{margin:.5em 0;max-width:60em}
.torchreg-network summary{cursor:pointer;font-weight:600}
.torchreg-network pre{margin:.5em 0;white-space:pre-wrap;overflow-wrap:anywhere}
.torchreg-network table{border-collapse:collapse;margin:.8em 0}
.torchreg-network caption{caption-side:top;text-align:left;padding:.2em 0;color:inherit}
.torchreg-network th,.torchreg-network td{padding:.15em .8em .15em 0;text-align:left;
border-bottom:1px solid rgba(128,128,128,.4);overflow-wrap:anywhere;background:none}
.torchreg-network thead th{overflow-wrap:normal}
.torchreg-network tbody th{min-width:11em}
.torchreg-network .number{text-align:right;font-variant-numeric:tabular-nums}
"""


def network_html(
    module: nn.Module, features: Sequence[str], targets: Sequence[str] = ("y",)
) -> str:
    """Show a fitted network in a notebook.

    Parameters
    ----------
    module : nn.Module
        Raw units to raw units.
    features, targets : sequence of str
        Names of the columns of X and y.

    Returns
    -------
    str
        A piece of HTML with its own style.
    """
    size = sum(parameter.numel() for parameter in module.parameters())
    words = f"The network: raw units in, raw units out, {size:,} parameters"
    if count_alike(module) > 1:
        words += f" in {count_alike(module)} networks like this, averaged"
    tables = []
    for columns in (*constants_tables(module, features, targets), layers_table(module)):
        folded = columns.count("<tr>") > FOLDED + 1
        caption = columns.partition("<caption>")[2].partition("</caption>")[0]
        tables.append(
            f"<details><summary>{caption}</summary>{columns}</details>" if folded else columns
        )
    return (
        f'<div class="torchreg-network"><style>{STYLE}</style>'
        f"<details open><summary>{text(words)}</summary>"
        f"<pre>{text(module)}</pre>{''.join(tables)}</details></div>"
    )


def constants_tables(
    module: nn.Module,
    features: Sequence[str],
    targets: Sequence[str],
    units: Mapping[str, str] | None = None,
) -> list[str]:
    """Show the numbers of ``Standardize`` and ``Unstandardize`` beside the user's names.

    Parameters
    ----------
    module : nn.Module
        With children ``standardize`` and ``unstandardize``, or only one of them, or none.
    features, targets : sequence of str
        Names of the columns of X and y.
    units : mapping of str to str or None
        Units by name. A column of them is only shown where there are any.

    Returns
    -------
    list of str
        A table for each of the two layers that is there.
    """
    tables = []
    for scaling, title, names in (
        (getattr(module, "standardize", None), "feature", features),
        (target_layer(module), "target", targets),
    ):
        if scaling is None:
            continue
        mean, scale = (_columns(value, len(names)) for value in (scaling.mean, scaling.scale))
        head = [title, "mean", "scale"]
        rows: list[list[object]] = [list(row) for row in zip(names, mean, scale, strict=True)]
        if units:
            head.append("unit")
            rows = [[*row, units.get(str(row[0]), "")] for row in rows]
        plural = "s" if len(names) > 1 else ""
        caption = f"{type(scaling).__name__}: {len(names)} {title}{plural}, raw units"
        if len(names) > LISTED:
            caption += f"; the first {LISTED} are listed"
        tables.append(table(caption, head, rows[:LISTED]))
    return tables


def layers_table(module: nn.Module) -> str:
    """Show each layer that computes something, and how many parameters it has.

    Of several networks with the same layers, one is shown.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    str
    """
    rows: list[list[object]] = []
    counted: set[int] = set()
    n_alike = count_alike(module)
    for name, layer in module.named_modules():
        if n_alike > 1 and name.startswith(MEMBERS):
            number, _, inside = name.removeprefix(MEMBERS).partition(".")
            if number != "0":
                continue
            name = f"{n_alike} × {inside}"
        own = [p for p in layer.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        inner = any(True for _ in layer.children())
        if inner and not own:
            continue
        # The numbers of a scaling layer have a table of their own.
        alone = inner or isinstance(layer, Standardize | Unstandardize)
        words = type(layer).__name__ if alone else str(layer)
        rows.append([name, words, sum(p.numel() for p in own)])
    total = sum(p.numel() for p in module.parameters())
    caption = f"Layers: {total:,} parameters"
    if n_alike > 1:
        caption += f" in {n_alike} networks like this, averaged, {total // n_alike:,} in each"
    return table(caption, ["layer", "what", "parameters"], rows)


def count_alike(module: nn.Module) -> int:
    """Count the networks that are averaged, if all have the same layers; else 1.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> from torchreg.nn import MLP
    >>> count_alike(nn.Sequential(OrderedDict(network=Ensemble([MLP(2), MLP(2)]))))
    2
    """
    network = getattr(module, "network", None)
    if not isinstance(network, Ensemble):
        return 1
    printed = {str(member) for member in network.members}
    return len(network.members) if len(printed) == 1 else 1


def _columns(value: Tensor, n: int) -> list[float]:
    # () or (n,) -> (n,)
    columns: list[float] = value.detach().cpu().double().expand(n).tolist()
    return columns
