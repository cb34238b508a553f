"""A plain PyTorch script that rebuilds, trains and draws a fitted network, without torchreg."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchreg._serialization import write_atomically
from torchreg.export.script.files import as_csv, saved
from torchreg.export.script.layers import (
    OWN,
    LayerSource,
    state_of,
)
from torchreg.export.script.layout import Expression, Group, Item, lay_out, quoted
from torchreg.export.script.loss import loss_section
from torchreg.export.script.network import (
    fitted_section,
    layers_after,
    layers_before,
    layers_of,
    network_section,
    own_section,
)
from torchreg.export.script.recipe import Recipe
from torchreg.export.script.source import NotWritableError
from torchreg.export.script.training import training_section
from torchreg.export.script.using import counted, draw_section, main_section, rows_section

_STANDARD = {
    "copy": "import copy",
    "csv": "import csv",
    "math": "import math",
    "sys": "import sys",
    "Path": "from pathlib import Path",
}
#: What two empty lines stand around.
_BLOCK = re.compile(r"@|class |def |async ")


def write_script(path: str | os.PathLike[str], recipe: Recipe) -> None:
    """Write a script, and beside it what the network learned and the rows.

    Each file is replaced as a whole or not at all, the script last.

    Parameters
    ----------
    path : str or path-like
        Ends in ``.py``. Beside it are written ``<stem>.pt`` (the state dict of the script's
        network), ``<stem>_data.csv`` and ``<stem>_validation.csv`` where there are rows, and
        ``<stem>_start.pt`` where the network's first weights cannot be drawn from the seed.
    recipe : Recipe
        What to write about.

    Raises
    ------
    ValueError
        If the path does not end in ``.py``, or something cannot be written as source.
    FileNotFoundError
        If the folder does not exist.
    """
    script = check_path(path)
    written, fitted, start = compose(recipe, script.name)
    files = {script.with_suffix(".pt"): saved(fitted)}
    if start is not None:
        files[script.with_name(f"{script.stem}_start.pt")] = saved(start)
    for kind, rows in (("data", recipe.rows), ("validation", recipe.validation_rows)):
        if rows is not None:
            files[script.with_name(f"{script.stem}_{kind}.csv")] = as_csv(rows, recipe)
    files[script] = written.encode()
    for file, content in files.items():
        write_atomically(file, content)


def check_path(path: str | os.PathLike[str]) -> Path:
    """Require a name that ends in ``.py``, in a folder that exists."""
    script = Path(path)
    if script.suffix != ".py" or script.is_dir():
        raise ValueError(f"to_script expects a file name that ends in .py, got {str(path)!r}.")
    if not script.parent.is_dir():
        raise FileNotFoundError(
            f"to_script cannot write {str(path)!r}: there is no folder {str(script.parent)!r}. "
            "Make it first."
        )
    return script


def compose(recipe: Recipe, name: str) -> tuple[str, dict[str, Tensor], dict[str, Tensor] | None]:
    """Write the text of a script, and collect the state dicts that it loads.

    Parameters
    ----------
    recipe : Recipe
    name : str
        Of the script's file.

    Returns
    -------
    text : str
    fitted : dict of str to Tensor
        The parameters of the script's network.
    start : dict of str to Tensor or None
        Those before it was trained, where they cannot be drawn anew.
    """
    source = LayerSource(OWN)
    n_before, n_after = len(layers_before(recipe)), len(layers_after(recipe, source))
    network = network_section(recipe, source)
    fitted = fitted_section(recipe, source)
    loss = loss_section(recipe, source)
    training = training_section(recipe, source, n_before, n_after)
    body = "\n".join(
        [
            *_user_section(source),
            *own_section("\n".join([*network, *fitted]), "\n".join(source.definitions.values())),
            *network,
            *fitted,
            "",
            "",
            *rows_section(recipe),
            *loss,
            *training,
            *draw_section(recipe),
            *main_section(recipe),
        ]
    )
    constants = _constants(recipe)
    used = _names_in(f"{constants}\n{body}")
    imports = {**_STANDARD, **source.imports}
    statements = [imports[key] for key in sorted(imports) if key in used]
    head = _import_blocks(statements)
    if source.annotations_are_text:
        head = "from __future__ import annotations\n\n" + head
    whole = "\n".join([_docstring(recipe, name), head, "", constants, "", "", body])
    whole = re.sub(r"\n{4,}", "\n\n\n", whole).rstrip() + "\n"
    _check_names(whole)
    learned = _state(recipe, recipe.network.networks, n_before)
    if not recipe.network.starts:
        return whole, learned, None
    return whole, learned, _state(recipe, recipe.network.starts, n_before)


def _state(recipe: Recipe, networks: Sequence[nn.Module], n_before: int) -> dict[str, Tensor]:
    """Collect the numbers of networks, and those of the link behind them."""
    layers = layers_of(networks, recipe)
    link = nn.ModuleList() if recipe.network.link is None else recipe.network.link
    place = n_before + len(layers)
    fixed = {f"{place}.{key}": value.cpu().clone() for key, value in link.state_dict().items()}
    return state_of(layers, first=n_before) | fixed


def _docstring(recipe: Recipe, name: str) -> str:
    shown = name if re.fullmatch(r"[\w.-]+", name) else "script.py"
    stem, known = shown.removesuffix(".py"), counted(recipe).removeprefix("a ")
    lines = [
        '"""A fitted network taken apart: plain PyTorch, as TorchRegressor.to_script wrote it.',
        "",
    ]
    if recipe.rows is None:
        lines += [f"    python {shown} rows.csv", ""]
    else:
        lines += [f"    python {shown}           # the rows of the fit, {stem}_data.csv"]
        lines += [f"    python {shown} rows.csv  # other rows", ""]
    lines += [
        f"It predicts with the fitted parameters, which are beside it ({stem}.pt), trains the same",
        f"{known} once more, and draws both ({stem}.png). Without targets in the table it prints",
        "predictions only.",
        '"""',
        "",
    ]
    return "\n".join(lines)


def _constants(recipe: Recipe) -> str:
    training = recipe.training
    lines = ["HERE = Path(__file__)"]
    lines += ['FITTED = HERE.with_suffix(".pt")  # the fitted parameters: a state dict']
    if recipe.network.starts:
        lines += ['START = HERE.with_name(f"{HERE.stem}_start.pt")  # the same before training']
    lines += ['DATA = HERE.with_name(f"{HERE.stem}_data.csv")']
    if training.given_validation:
        lines += ['VALIDATION = HERE.with_name(f"{HERE.stem}_validation.csv")']
    lines += ['PICTURE = HERE.with_suffix(".png")', ""]
    lines += lay_out(_strings(recipe.features), before="FEATURES = ")
    lines += lay_out(_strings(recipe.targets), before="TARGETS = ")
    if training.seeds:
        seeds = Group("[", tuple(Item(str(seed)) for seed in training.seeds), "]")
        lines += ["", f"SEED = {training.split_seed}  # of the folds"]
        lines += lay_out(seeds, before="SEEDS = ", comment="of the networks, one for each fold")
        lines += [f"EPOCHS = {training.epochs}"]
    else:
        lines += ["", f"SEED = {training.seed}", f"EPOCHS = {training.epochs}"]
    if training.schedule is not None and training.schedule.epochs != training.epochs:
        lines += [f"PLANNED_EPOCHS = {training.schedule.epochs}  # of the schedule"]
    if training.batch_size is not None:
        lines += [f"BATCH_SIZE = {training.batch_size}"]
    if training.held_out is not None:
        lines += [f"HELD_OUT = {training.held_out!r}  # share of the rows"]
        if training.split_seed != training.seed:
            lines += [f"SPLIT_SEED = {training.split_seed}  # of the rows held out"]
    if training.patience is not None:
        lines += [f"PATIENCE = {training.patience}  # epochs without improvement"]
        if training.tol or not training.keeps_best:
            lines += [f"TOL = {training.tol!r}  # relative"]
    if torch.get_default_dtype() != torch.float32:
        lines += ["", f"torch.set_default_dtype({torch.get_default_dtype()})"]
    return "\n".join(lines)


def _strings(names: list[str]) -> Expression:
    return Group("[", tuple(Item(quoted(name)) for name in names), "]")


def _user_section(source: LayerSource) -> list[str]:
    if not source.definitions and not source.remarks:
        return []
    lines = ["# %% What the network and its training are made of"]
    lines += [f"# {remark}" for remark in source.remarks]
    before = ""
    for definition in source.definitions.values():
        is_block = bool(_BLOCK.match(definition))
        if before and (is_block or _BLOCK.match(before)):
            lines += ["", ""]
        lines.append(definition)
        before = definition
    return [*lines, "", ""]


def _check_names(code: str) -> None:
    """Refuse a script in which a name of the user's means something else."""
    seen: set[str] = set()
    for node in ast.parse(code).body:
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        for name in names:
            if name in seen:
                raise NotWritableError(
                    f"The module, loss or optimizer uses {name!r}, a name that the script needs "
                    "for something else. Rename yours."
                )
            seen.add(name)


def _names_in(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _import_blocks(statements: list[str]) -> str:
    """Sort imports: Python's own, then those of packages; one line a module."""
    whole = {line for line in statements if line.startswith("import ")}
    parts: dict[str, list[str]] = {}
    for line in statements:
        if line not in whole:
            _, module, _, name = line.split(maxsplit=3)
            parts.setdefault(module, []).append(name)
    lines = sorted(whole) + [
        f"from {module} import {', '.join(sorted(set(parts[module])))}" for module in sorted(parts)
    ]
    ours = [line for line in lines if re.split(r"[ .]", line)[1] in sys.stdlib_module_names]
    theirs = [line for line in lines if line not in ours]
    return "\n\n".join("\n".join(block) for block in (ours, theirs) if block)
