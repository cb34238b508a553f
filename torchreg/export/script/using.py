"""The sections of a script that use its network: the table, the picture, all of it."""

from __future__ import annotations

from torchreg.export.script import text
from torchreg.export.script.layout import Group, Item, call, lay_out, quoted
from torchreg.export.script.recipe import Recipe


def counted(recipe: Recipe) -> str:
    """Say how many networks there are."""
    n = len(recipe.training.seeds)
    return f"{n} networks" if n else "a network"


def rows_section(recipe: Recipe) -> list[str]:
    """Write what reads a table."""
    weighted = recipe.training.weighted_rows
    lines = text.ROWS.format(
        n_features=f"(n, {len(recipe.features)})",
        n_targets=f"(n, {len(recipe.targets)})",
        and_weights=", weights (n,)" if weighted else "",
    ).splitlines()[1:]
    if not weighted:
        return [*lines, "    return X, y", "", ""]
    name = quoted(recipe.weight_name)
    return [
        *lines,
        f"    if {name} not in names:",
        "        return X, y, torch.ones(len(X), dtype=X.dtype)",
        f"    return X, y, columns([{name}])[:, 0]  # (n, 1) -> (n,)",
        "",
        "",
    ]


def draw_section(recipe: Recipe) -> list[str]:
    """Write what draws the fitted network and the one that was trained."""
    one_feature, n_targets = len(recipe.features) == 1, len(recipe.targets)
    labels = [quoted(text.label_of(name)) for name in recipe.targets]
    if n_targets == 1:
        indent, i, label = "    ", "0", labels[0]
        axes = ['    fig, ax = plt.subplots(layout="constrained")']
    else:
        indent, i, label = "        ", "i", "labels[i]"
        axes = lay_out(Group("[", tuple(map(Item, labels)), "]"), 4, before="labels = ")
        size = f"figsize=({6.4 * n_targets:.4g}, 4.8)"
        axes += [f'    fig, axes = plt.subplots(1, {n_targets}, {size}, layout="constrained")']
        axes += ["    for i, ax in enumerate(axes):"]
    named = {"xlabel": label, "ylabel": f'{label} + ", predicted"'}
    if one_feature:
        named = {"xlabel": quoted(text.label_of(recipe.features[0])), "ylabel": label}
    elif n_targets == 1:
        named["ylabel"] = quoted(text.label_of(recipe.targets[0]) + ", predicted")
    optimizer = recipe.training.optimizer.__name__
    named["title"] = f'f"{{len(X)}} rows, {counted(recipe)} trained by {optimizer}"'
    template = text.DRAW_CURVE if one_feature else text.DRAW_TRUTH
    return template.format(
        axes="\n".join(axes),
        indent=indent,
        i=i,
        labels="\n".join(lay_out(call("ax.set", **named), len(indent))),
    ).splitlines()[1:]


def main_section(recipe: Recipe) -> list[str]:
    """Write what a script does when it is run."""
    given = "X, y, weight" if recipe.training.weighted_rows else "X, y"
    arguments = f"{given}, *load_rows(VALIDATION)" if recipe.training.given_validation else given
    return text.MAIN.format(given=given, arguments=arguments).splitlines()[1:]
