"""The section of a script that trains: the rows, and the loop."""

from __future__ import annotations

import textwrap

import torch

from torchreg.export.script.layers import LayerSource
from torchreg.export.script.layout import Expression, call, flat, lay_out
from torchreg.export.script.loop import training_loop
from torchreg.export.script.recipe import Recipe, TrainingRecipe


def training_section(recipe: Recipe, source: LayerSource, before: int, after: int) -> list[str]:
    """Write what trains.

    Parameters
    ----------
    recipe : Recipe
    source : LayerSource
        Collects what the optimizer needs.
    before, after : int
        How many layers of constants stand before and after the core.
    """
    training = recipe.training
    lines = ["# %% Training, from the seed" + "s" * bool(training.seeds)]
    lines += [f"# {remark}" for text in recipe.remarks for remark in textwrap.wrap(text, 80)]
    if training.merges:
        lines += _merging(recipe)
    if training.batch_size is not None and training.lone_row:
        lines += _BATCH_SIZES.splitlines()
    if training.seeds:
        return [*lines, *_several(recipe, source, before, after)]
    return [*lines, *_one(recipe, source, before, after)]


def _one(recipe: Recipe, source: LayerSource, before: int, after: int) -> list[str]:
    """Write what trains one network."""
    training = recipe.training
    rows = ["X", "y"] + ["weight"] * training.weighted_rows
    given = rows
    if training.given_validation:
        given = [*rows, *(f"{name}_val" for name in rows)]
    lines = [
        f"def train({', '.join(given)}):",
        '    """Build the network and train it; return it, and the loss of each epoch."""',
        *_seeded_network(recipe),
    ]
    if training.held_out is not None:
        lines += _held_out(recipe)
    if training.merges:
        lines += [f"    X, y, weight = merge_identical({', '.join(rows)})"]
    lines += ["", "    # 2. What the core sees, and what it shall answer: numbers of order 1."]
    core = "network" if not before + after else f"network[{before or ''}:{-after or ''}]"
    lines += [f"    core = {core}", *_inside(recipe, before)]
    lines += [f"    {line}" for line in _beginning(recipe, "core[0]", after)]
    each = "epoch" if training.batch_size is None else "batch of every epoch"
    lines += ["", f"    # 3. The loop: loss, gradient, step, for every {each}."]
    lines += [*_optimizer(recipe, source), *training_loop(recipe)]
    return [*lines, "    return network.eval(), losses", "", ""]


def _several(recipe: Recipe, source: LayerSource, before: int, after: int) -> list[str]:
    """Write what trains a network for each fold."""
    training, network = recipe.training, recipe.network
    names = ["x", "t"] + ["weight"] * training.weighted
    both = [f"{name}_val" for name in names], names
    held_out, kept = (
        (f"{name}[held_out]" for name in names),
        (f"{name}[~held_out]" for name in names),
    )
    source.imports["np"] = "import numpy as np"
    lines = [*_DEAL_FOLDS.splitlines(), f"def train_one(core, seed, {', '.join(names)}, held_out):"]
    lines += [
        '    """Train one network without the rows held out; return the loss of each epoch."""',
        f"    {', '.join(both[0])} = {', '.join(held_out)}",
        f"    {', '.join(both[1])} = {', '.join(kept)}",
    ]
    if training.weighted:
        lines += [f"    {w} = {w} / {w}.mean()" for w in ("weight", "weight_val")]
    lines += [*_optimizer(recipe, source), *training_loop(recipe), "    return losses", "", ""]

    rows = ["X", "y"] + ["weight"] * training.weighted_rows
    lines += [
        f"def train({', '.join(rows)}):",
        '    """Build the networks and train them; return their mean, and that of their losses."""',
        "    # 1. What the networks see, and what they shall answer: numbers of order 1.",
        "    network = build_network()",
    ]
    if network.start is not None:
        lines += ["    network.load_state_dict(torch.load(START, weights_only=True))"]
    if training.merges:
        lines += [f"    X, y, weight = merge_identical({', '.join(rows)})"]
    lines += [
        *_inside(recipe, before),
        "",
        "    # 2. Each begins with weights of its own, and holds out a part of the rows.",
        "    fold = assign_folds(len(x))",
        f"    members, curves = network[{before}].members, []",
        "    for number, seed in enumerate(SEEDS):",
        "        torch.manual_seed(seed)",
        f"        core = members[number]{'' if network.start is not None else ' = build_core()'}",
        *(f"        {line}" for line in _beginning(recipe, "core", after)),
        f"        losses = train_one(core, seed, {', '.join(names)}, fold == number)",
        "        curves.append(losses)",
        *_MEAN_CURVE.splitlines(),
    ]
    return [*lines, "", ""]


def _beginning(recipe: Recipe, core: str, after: int) -> list[str]:
    """Write what comes before the first step of a network."""
    network, lines = recipe.network, []
    if network.has_data_init:
        weight = "weight" if recipe.training.weighted else "None"
        # A link knows what numbers the network should begin with.
        t = "t" if network.link is None else f"network[-{after}].initial_target(t)"
        lines += ["with torch.no_grad():", f"    {core}.initialize_from(x, {t}, {weight})"]
        wide = network.dtype == torch.float64
        if wide or network.casts:
            # What it made anew has torch's default dtype, or one of its own.
            lines += [f"core.{'double' if wide else 'float'}()"]
    if network.draws:
        lines += [
            "# Four rows went through a copy first, to see whether it draws: it did.",
            "copy.deepcopy(core)(x[:4])",
        ]
    return lines


def _optimizer(recipe: Recipe, source: LayerSource) -> list[str]:
    """Write what moves the weights, and the learning rate."""
    training = recipe.training
    options = {
        key: source.argument(f"optimizer__{key}", value) for key, value in training.options.items()
    }
    optimizer = call(source.name_of(training.optimizer), "core.parameters()", **options)
    lines = lay_out(optimizer, 4, before="optimizer = ")
    if training.schedule is not None:
        lines += lay_out(_scheduler(training, source), 4, before="scheduler = ")
    return lines


def _scheduler(training: TrainingRecipe, source: LayerSource) -> Expression:
    """Write what moves the learning rate."""
    schedule = training.schedule
    assert schedule is not None
    options = {
        key: source.argument(f"schedule__{key}", value) for key, value in schedule.options.items()
    }
    if schedule.steps is not None:
        epochs = "EPOCHS" if schedule.epochs == training.epochs else "PLANNED_EPOCHS"
        if training.batch_size is None:
            steps = epochs
        elif training.lone_row:
            steps = f"{epochs} * len(batch_sizes(len(x)))"
        else:
            steps = f"{epochs} * math.ceil(len(x) / BATCH_SIZE)"
        options[schedule.steps] = steps
    return call(flat(source.argument("schedule", schedule.build)), "optimizer", **options)


def _merging(recipe: Recipe) -> list[str]:
    n, weighted = len(recipe.features), recipe.training.weighted_rows
    if weighted:
        given = "X, y, weight"
        body = """\
    rows, index = torch.unique(rows, dim=0, return_inverse=True)
    weight = torch.zeros(len(rows), dtype=X.dtype).index_add(0, index, weight)"""
    else:
        given = "X, y"
        body = """\
    rows, counts = torch.unique(rows, dim=0, return_counts=True)
    weight = counts.to(X.dtype)"""
    return f'''\
def merge_identical({given}):
    """Write identical rows once, with the sum of their weights: the loss is the same."""
    rows = torch.cat([X, y], dim=1)
{body}
    return rows[:, :{n}], rows[:, {n}:], weight


'''.splitlines()


_BATCH_SIZES = '''\
def batch_sizes(n):
    """Count the rows of each batch; a lone last row joins the batch before it."""
    sizes = [BATCH_SIZE] * (n // BATCH_SIZE)
    rest = n % BATCH_SIZE
    if rest == 1 and sizes:
        return [*sizes[:-1], sizes[-1] + 1]
    return [*sizes, rest] if rest else sizes


'''


_DEAL_FOLDS = '''\
def assign_folds(n):
    """Deal rows out at random: the fold of each, (n,)."""
    stream = np.random.SeedSequence(SEED, spawn_key=(3,))  # another than the batches'
    fold = np.random.default_rng(stream).permutation(np.arange(n) % len(SEEDS))
    return torch.from_numpy(fold)


'''
_MEAN_CURVE = """
    # 3. The mean loss of each epoch, over those that were training in it.
    longest = max(map(len, curves))
    epochs = [[curve[i] for curve in curves if i < len(curve)] for i in range(longest)]
    return network.eval(), [sum(losses) / len(losses) for losses in epochs]
"""


def _seeded_network(recipe: Recipe) -> list[str]:
    network = recipe.network
    seed = "    torch.manual_seed(SEED)"
    lines = ["    # 1. The network, with the weights that torch draws.", seed]
    lines += ["    network = build_network()"]
    if network.start is None:
        return lines
    load = "    network.load_state_dict(torch.load(START, weights_only=True))"
    if network.draws_before:
        return [*lines, load]
    return [
        "    # 1. The network, with the weights that it was given.",
        "    network = build_network()",
        load,
        seed,
    ]


def _held_out(recipe: Recipe) -> list[str]:
    training = recipe.training
    rows = ["X", "y"] + ["weight"] * training.weighted_rows
    seed = "SEED" if training.split_seed == training.seed else "SPLIT_SEED"
    return [
        "",
        "    # Some rows are held out, to see when to stop.",
        f"    order = torch.randperm(len(X), generator=torch.Generator().manual_seed({seed}))",
        "    n_held = math.ceil(HELD_OUT * len(X))",
        "    held_out, kept = order[:n_held], order[n_held:]",
        f"    {', '.join(f'{r}_val' for r in rows)} = {', '.join(f'{r}[held_out]' for r in rows)}",
        f"    {', '.join(rows)} = {', '.join(f'{r}[kept]' for r in rows)}",
    ]


def _inside(recipe: Recipe, before: int) -> list[str]:
    """Write how rows come into the units of the core."""
    network, training = recipe.network, recipe.training
    wide = network.dtype == torch.float64
    x = f"network[:{before}]({{X}})" if before else "{X}"
    if network.of_y is None:
        t = "{y}"
    else:
        part = f"[{network.central}]" if network.central else ""
        t = f"({{y}} - add.constant{part}) / multiply.constant{part}"
        if bool((network.of_y.scale == 0).any()):
            # 0 / 0, or whatever rounding left, divided by 0.
            t = f"({t}).nan_to_num(0, 0, 0)"
    lines = []
    if network.of_y is not None:
        lines += ["    multiply, add = network[-2:]"]
    cast_x, cast_t = "", "" if wide else ".float()"
    if training.uses_line_search:
        lines += ["    # A line search amplifies the last bit: the rows are rounded to float32."]
        cast_x = cast_t = ".float().double()" if wide else ".float()"
    if cast_t and " / " in t and not t.startswith("(("):
        t = f"({t})"
    for end in ["", "_val"] if training.validates and not training.seeds else [""]:
        names = {"X": f"X{end}", "y": f"y{end}"}
        lines += [f"    x{end} = {x.format(**names)}{cast_x}"]
        lines += [f"    t{end} = {t.format(**names)}{cast_t}"]
        if training.weighted and (not end or training.weighted_rows):
            lines += [f"    weight{end} = weight{end} / weight{end}.mean()"]
            if not wide:
                lines[-1] = f"    weight{end} = (weight{end} / weight{end}.mean()).float()"
    return lines
