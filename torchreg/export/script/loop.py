"""The loop of a script: loss, gradient, step, and what it looks at after each epoch."""

from __future__ import annotations

from torchreg.export.script.loss import is_plain, name_of_loss
from torchreg.export.script.recipe import Recipe, TrainingRecipe


def training_loop(recipe: Recipe) -> list[str]:
    """Write the loop, from the empty list of losses to the weights that are kept."""
    training = recipe.training
    whole = training.batch_size is None
    lines = []
    if not whole:
        seed = "seed" if training.seeds else "SEED"
        lines += [f"    generator = torch.Generator().manual_seed({seed})"]
    lines += ["    losses = []"]
    if training.keeps_best or training.patience is not None:
        lines += _before_patience(training)
    lines += ["    for _ in range(EPOCHS):"]
    step = _step(recipe, "" if whole else "[rows]")
    if whole:
        lines += [f"        {line}".rstrip() for line in step]
        value = "optimizer.step(closure)" if training.uses_line_search else "loss"
        lines += [f"        losses.append({value}.item())"]
    else:
        size = "batch_sizes(len(x))" if training.lone_row else "BATCH_SIZE"
        lines += [
            "        total = 0.0",
            "        order = torch.randperm(len(x), generator=generator)",
            f"        for rows in order.split({size}):",
            *(f"            {line}".rstrip() for line in step),
        ]
        if training.uses_line_search:
            lines += ["            loss = optimizer.step(closure)"]
        lines += [
            "            total += loss.item() * len(rows)",
            "        losses.append(total / len(x))",
        ]
    if training.validates:
        lines += _validation(training)
    if training.schedule is not None and training.schedule.every != "step":
        lines += [f"        {_move_rate(training)}"]
    if training.keeps_best or training.patience is not None:
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
    if training.uses_line_search:
        return ["", "def closure():", *(f"    {line}" for line in step), "    return loss", ""]
    step += ["optimizer.step()"]
    by_step = training.schedule is not None and training.schedule.every == "step"
    return [*step, _move_rate(training)] if by_step else step


def _before_patience(training: TrainingRecipe) -> list[str]:
    lines = ["    waited, best_loss = 0, math.inf"]
    if training.patience is None:
        return ["    best_loss, best = math.inf, None"]
    if training.keeps_best:
        lines = ["    waited, best_loss, best = 0, math.inf, None"]
    if training.tol and training.keeps_best:
        lines += ["    goal = math.inf  # what the next improvement has to be below"]
    return lines


def _validation(training: TrainingRecipe) -> list[str]:
    """Write what validation rows are looked at for."""
    arguments = ["x_val", "t_val"]
    if training.weighted:
        known = training.weighted_rows or training.seeds
        arguments += ["weight_val" if known else "torch.ones_like(t_val[:, 0])"]
    why = "        # The validation rows say when the learning rate falls."
    if training.keeps_best:
        stop = "when to stop, and " if training.patience is not None else ""
        why = f"        # The rows held out say {stop}which weights were the best."
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
    keep = [
        "        if loss < best_loss:",
        "            best_loss, best = loss, copy.deepcopy(core.state_dict())",
    ]
    if training.patience is None:
        return [*keep, "    core.load_state_dict(best)"]
    if not training.keeps_best:
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
        keep += [
            "        if loss < goal:",
            "            waited, goal = 0, loss - TOL * abs(loss)",
        ]
    else:
        keep += ["            waited = 0"]
    return [
        *keep,
        "        else:",
        "            waited += 1",
        "        if waited >= PATIENCE:",
        "            break",
        "    core.load_state_dict(best)",
    ]
