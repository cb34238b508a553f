"""The fitted network as HTML: its layers, and its constants under the user's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from torchreg.nn import Ensemble, Standardize, Unstandardize
from torchreg.nn.links import target_layer
from torchreg.reporting.render import Table, render

#: Tables of more rows are folded in a notebook.
FOLDED_ROWS = 12
#: Columns listed at most; of more, their number is given.
MAX_LISTED = 500
#: Prefix of the names of layers in averaged networks.
MEMBERS = "network.members."


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
        An HTML element with its own style, in the colors of the surrounding page.
    """
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    summary = f"The network: raw units in, raw units out, {n_parameters:,} parameters"
    if n_averaged(module) > 1:
        summary += f" in {n_averaged(module)} networks like this, averaged"
    return render(
        "network.html",
        summary=summary,
        module=module,
        tables=[*constants_tables(module, features, targets), layers_table(module)],
        folded_rows=FOLDED_ROWS,
    )


def constants_tables(
    module: nn.Module,
    features: Sequence[str],
    targets: Sequence[str],
    units: Mapping[str, str] | None = None,
) -> list[Table]:
    """Tabulate means and scales of ``Standardize`` and ``Unstandardize`` by column name.

    Parameters
    ----------
    module : nn.Module
        With or without children ``standardize`` and ``unstandardize``.
    features, targets : sequence of str
        Names of the columns of X and y.
    units : mapping of str to str or None
        Units by name; without them the tables have no column of units.

    Returns
    -------
    list of Table
        One for each of the two layers that the module has.
    """
    tables = []
    for scaling, title, names in (
        (getattr(module, "standardize", None), "feature", features),
        (target_layer(module), "target", targets),
    ):
        if scaling is None:
            continue
        mean, scale = (_columns(value, len(names)) for value in (scaling.mean, scaling.scale))
        titles = [title, "mean", "scale"]
        rows: list[list[object]] = [list(row) for row in zip(names, mean, scale, strict=True)]
        if units:
            titles.append("unit")
            rows = [[*row, units.get(str(row[0]), "")] for row in rows]
        plural = "s" if len(names) > 1 else ""
        caption = f"{type(scaling).__name__}: {len(names)} {title}{plural}, raw units"
        if len(names) > MAX_LISTED:
            caption += f"; the first {MAX_LISTED} are listed"
        tables.append(Table(caption, titles, rows[:MAX_LISTED]))
    return tables


def layers_table(module: nn.Module) -> Table:
    """Tabulate the layers that compute something, with their numbers of parameters.

    Of averaged networks with the same layers, one is listed.
    """
    rows: list[list[object]] = []
    counted: set[int] = set()
    n_networks = n_averaged(module)
    for name, layer in module.named_modules():
        if n_networks > 1 and name.startswith(MEMBERS):
            index, _, inner_name = name.removeprefix(MEMBERS).partition(".")
            if index != "0":
                continue
            name = f"{n_networks} × {inner_name}"
        own = [p for p in layer.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        has_children = any(True for _ in layer.children())
        if has_children and not own:
            continue
        # The constants of a scaling layer have their own table.
        is_named_only = has_children or isinstance(layer, Standardize | Unstandardize)
        description = type(layer).__name__ if is_named_only else str(layer)
        rows.append([name, description, sum(p.numel() for p in own)])
    total = sum(p.numel() for p in module.parameters())
    caption = f"Layers: {total:,} parameters"
    if n_networks > 1:
        caption += f" in {n_networks} networks like this, averaged, {total // n_networks:,} in each"
    return Table(caption, ["layer", "what", "parameters"], rows)


def n_averaged(module: nn.Module) -> int:
    """Count the averaged networks if all have the same layers; 1 otherwise.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> from torchreg.nn import MLP
    >>> n_averaged(nn.Sequential(OrderedDict(network=Ensemble([MLP(2), MLP(2)]))))
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
