"""The section of a script that trains: the rows, and the loop."""

from __future__ import annotations

import textwrap

import torch

from torchreg.export.script.layers import LayerSource
from torchreg.export.script.layout import Expression, call, flat, lay_out
from torchreg.export.script.loss import is_plain, name_of_loss
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
    rows = ["X", "y"] + ["weight"] * training.weighted_rows
    given = rows
    if training.given_validation:
        given = [*rows, *(f"{name}_val" for name in rows)]
    lines = ["# %% Training, from the seed"]
    lines += [f"# {remark}" for text in recipe.remarks for remark in _wrapped(text)]
    if training.merges:
        lines += _merging(recipe)
    if training.batch_size is not None and training.lone_row:
        lines += _BATCH_SIZES.splitlines()
    lines += [
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
    lines += [f"    core = {core}", *_inside(recipe, before, after)]
    if recipe.network.looks_at_rows:
        weight = "weight" if training.weighted else "None"
        lines += [
            "    with torch.no_grad():",
            f"        core[0].initialize_from(x, t, {weight})",
        ]
        wide = recipe.network.dtype == torch.float64
        if wide or recipe.network.casts:
            # What it made anew has torch's default dtype, or one of its own.
            lines += [f"    core.{'double' if wide else 'float'}()"]
    if recipe.network.draws:
        lines += [
            "    # Four rows went through a copy first, to see whether it draws: it did.",
            "    copy.deepcopy(core)(x[:4])",
        ]
    each = "epoch" if training.batch_size is None else "batch of every epoch"
    lines += ["", f"    # 3. The loop: loss, gradient, step, for every {each}."]
    options = {
        key: source.argument(f"optimizer__{key}", value) for key, value in training.options.items()
    }
    optimizer = call(source.name_of(training.optimizer), "core.parameters()", **options)
    lines += lay_out(optimizer, 4, before="optimizer = ")
    if training.schedule is not None:
        lines += lay_out(_scheduler(training, source), 4, before="scheduler = ")
    lines += _loop(recipe)
    return [*lines, "    return network.eval(), losses", "", ""]


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


def _inside(recipe: Recipe, before: int, after: int) -> list[str]:
    """Write how rows come into the units of the core."""
    network, training = recipe.network, recipe.training
    wide = network.dtype == torch.float64
    x = f"network[:{before}]({{X}})" if before else "{X}"
    if network.of_y is None:
        t = "{y}"
    else:
        t = "({y} - add.constant) / multiply.constant"
        if bool((network.of_y.scale == 0).any()):
            # 0 / 0, or whatever rounding left, divided by 0.
            t = "(({y} - add.constant) / multiply.constant).nan_to_num(0, 0, 0)"
    lines = []
    if network.of_y is not None:
        lines += ["    multiply, add = network[-2:]"]
    cast_x, cast_t = "", "" if wide else ".float()"
    if training.searches_lines:
        lines += ["    # A line search amplifies the last bit: the rows are rounded to float32."]
        cast_x = cast_t = ".float().double()" if wide else ".float()"
    if cast_t and " / " in t and not t.startswith("(("):
        t = f"({t})"
    for end in ["", "_val"] if training.validates else [""]:
        names = {"X": f"X{end}", "y": f"y{end}"}
        lines += [f"    x{end} = {x.format(**names)}{cast_x}"]
        lines += [f"    t{end} = {t.format(**names)}{cast_t}"]
        if training.weighted and (not end or training.weighted_rows):
            lines += [f"    weight{end} = weight{end} / weight{end}.mean()"]
            if not wide:
                lines[-1] = f"    weight{end} = (weight{end} / weight{end}.mean()).float()"
    return lines


def _loop(recipe: Recipe) -> list[str]:
    training = recipe.training
    whole = training.batch_size is None
    lines = []
    if not whole:
        lines += ["    generator = torch.Generator().manual_seed(SEED)"]
    lines += ["    losses = []"]
    if training.patience is not None:
        lines += _before_patience(training)
    lines += ["    for _ in range(EPOCHS):"]
    step = _step(recipe, "" if whole else "[rows]")
    if whole:
        lines += [f"        {line}".rstrip() for line in step]
        value = "optimizer.step(closure)" if training.searches_lines else "loss"
        lines += [f"        losses.append({value}.item())"]
    else:
        size = "batch_sizes(len(x))" if training.lone_row else "BATCH_SIZE"
        lines += [
            "        total = 0.0",
            "        order = torch.randperm(len(x), generator=generator)",
            f"        for rows in order.split({size}):",
            *(f"            {line}".rstrip() for line in step),
        ]
        if training.searches_lines:
            lines += ["            loss = optimizer.step(closure)"]
        lines += [
            "            total += loss.item() * len(rows)",
            "        losses.append(total / len(x))",
        ]
    if training.validates:
        lines += _validation(training)
    if training.schedule is not None and training.schedule.every != "step":
        lines += [f"        {_move_rate(training)}"]
    if training.patience is not None:
        lines += _patience(training)
    return lines


def _move_rate(training: TrainingRecipe) -> str:
    by_loss = training.schedule is not None and training.schedule.every == "loss"
    loss = "loss" if training.validates else "losses[-1]"
    return f"scheduler.step({loss})" if by_loss else "scheduler.step()"


def _step(recipe: Recipe, rows: str) -> list[str]:
    """Write one step of the optimizer; one that searches lines calls it as often as it likes."""
    training = recipe.training
    arguments = [f"x{rows}", f"t{rows}"] + [f"weight{rows}"] * training.weighted
    if is_plain(recipe):
        mean = "" if training.loss_shape == "number" else ".mean()"
        loss = f"{name_of_loss(training)}(core(x{rows}), t{rows}){mean}"
    else:
        loss = f"mean_loss(core, {', '.join(arguments)})"
    step = ["optimizer.zero_grad()", f"loss = {loss}", "loss.backward()"]
    if training.searches_lines:
        return ["", "def closure():", *(f"    {line}" for line in step), "    return loss", ""]
    step += ["optimizer.step()"]
    by_step = training.schedule is not None and training.schedule.every == "step"
    return [*step, _move_rate(training)] if by_step else step


def _before_patience(training: TrainingRecipe) -> list[str]:
    lines = ["    waited, best_loss = 0, math.inf"]
    if training.stops_by_validation:
        lines = ["    waited, best_loss, best = 0, math.inf, None"]
    if training.tol and training.stops_by_validation:
        lines += ["    goal = math.inf  # what the next improvement has to be below"]
    return lines


def _validation(training: TrainingRecipe) -> list[str]:
    """Write what validation rows are looked at for."""
    arguments = ["x_val", "t_val"]
    if training.weighted:
        arguments += ["weight_val" if training.weighted_rows else "torch.ones_like(t_val[:, 0])"]
    why = "        # The validation rows say when the learning rate falls."
    if training.stops_by_validation:
        why = "        # The rows held out say when to stop, and which weights were the best."
    return [
        "",
        why,
        "        core.eval()",
        "        with torch.no_grad():",
        f"            loss = mean_loss(core, {', '.join(arguments)}).item()",
        "        core.train()",
    ]


def _patience(training: TrainingRecipe) -> list[str]:
    """Write how the loop ends before its budget."""
    lines: list[str] = []
    if not training.stops_by_validation:
        return [
            "",
            "        # Has it settled?",
            "        if losses[-1] < best_loss - TOL * abs(best_loss) or best_loss == math.inf:",
            "            waited, best_loss = 0, losses[-1]",
            "        else:",
            "            waited += 1",
            "        if waited >= PATIENCE:",
            "            break",
        ]
    if training.tol:
        lines += [
            "        if loss < best_loss:",
            "            best_loss, best = loss, copy.deepcopy(core.state_dict())",
            "        if loss < goal:",
            "            waited, goal = 0, loss - TOL * abs(loss)",
        ]
    else:
        lines += [
            "        if loss < best_loss:",
            "            best_loss, best = loss, copy.deepcopy(core.state_dict())",
            "            waited = 0",
        ]
    return [
        *lines,
        "        else:",
        "            waited += 1",
        "        if waited >= PATIENCE:",
        "            break",
        "    core.load_state_dict(best)",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80)
