"""Layers that come first and only scale: computed once for all rows, not anew in each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchreg.engine.capture import Call, Recorder, all_close, snapshot_python_state, storage_id
from torchreg.engine.data import Table
from torchreg.engine.spec import TrainTask, reraise_interrupt
from torchreg.engine.stack.grouping import HELD
from torchreg.engine.stack.vmap_objective import leave_out
from torchreg.nn.sequential import sequential_layers

#: So many rows show which layers come first and only scale.
_FEW = 4


@dataclass
class _Visit:
    """What one layer was given, what it returned, and which calls it made meanwhile."""

    given: tuple[Any, ...]
    begin: int
    end: int = 0
    result: Any = None
    #: Whether it was called more than once.
    again: bool = False


@dataclass
class _Pass:
    """A forward pass: all calls, and the visits of each layer by name."""

    calls: list[Call] = field(default_factory=list)
    visits: dict[str, _Visit] = field(default_factory=dict)


def leading_layers(network: nn.Module, loss: Callable[..., Any], x: Tensor) -> list[str]:
    """Find the layers that come first, learn nothing, and compute each number by itself.

    What they give for a row is the same in every step, so that rows can be sent through them
    once, before the training. A layer is such a one if, while the network trains as while it is
    evaluated, it is called once, with the network's input; nothing else looks at that input; all
    that it does is elementwise, or lays columns beside columns, and no operand but the input has
    a row for each row; it draws nothing, writes nothing and changes no Python state; and nobody
    trains or writes to what it reads.

    Parameters
    ----------
    network : nn.Module
        It is not changed.
    loss : callable
        Whose Python state is watched, too.
    x : Tensor of shape (n, n_features)
        A few rows, at least two; with fewer nothing is found.

    Returns
    -------
    list of str
        Their names, in the order in which they are called. Empty, too, where the network fails.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Tanh(), nn.Hardtanh(), nn.Linear(3, 1))
    >>> leading_layers(layers, torch.nn.functional.mse_loss, torch.zeros(2, 3))
    ['0', '1']
    """
    names: list[str] = []
    if len(x) < 2 or _begins_with_what_learns(network):
        return names
    try:
        network = copy.deepcopy(network)
        while (name := _first(network, loss, x)) is not None:
            names.append(name)
            (x,) = send_through(network, [name], [x], training=True)
            leave_out(network, [name])
    except Exception as error:
        # Whatever a module of the user's raises, its training says better.
        reraise_interrupt(error)
    return names


def _begins_with_what_learns(network: nn.Module) -> bool:
    """Whether it shows without a call that the first layer is one that is trained."""
    layers = sequential_layers(network)
    return bool(layers and any(p.requires_grad for p in layers[0].parameters()))


def leading_of(tasks: Sequence[TrainTask]) -> list[str]:
    """Name the leading layers of networks of one kind, as far as memory is kind to their rows.

    Parameters
    ----------
    tasks : sequence of TrainTask

    Returns
    -------
    list of str
        See :func:`leading_layers`.
    """
    first = tasks[0]
    tables = [table for task in tasks for table in task.tables]
    n_numbers = sum(table.x.numel() for table in tables if isinstance(table.x, Tensor))
    # To watch a network that draws would be to draw.
    if first.uses_rng or first.protect_input or n_numbers > HELD:
        return []
    x = first.training.x
    assert isinstance(x, Tensor)  # Lazy rows are in no stack.
    return leading_layers(first.network, first.loss.function, x[:_FEW])


def tables_behind(names: Sequence[str], task: TrainTask) -> list[Table]:
    """Give training and validation rows of a network as they leave its leading layers.

    Parameters
    ----------
    names : sequence of str
        Of :func:`leading_of`.
    task : TrainTask
    """
    tables = []
    for training, table in zip((True, False), task.tables, strict=False):
        if names and isinstance(table.x, Tensor):
            (x,) = send_through(task.network, names, [table.x], training=training)
            table = table._replace(x=x)
        tables.append(table)
    return tables


def send_through(
    network: nn.Module, names: Sequence[str], tables: Sequence[Tensor], *, training: bool
) -> list[Tensor]:
    """Give tables of rows as they leave the leading layers of a network.

    Parameters
    ----------
    network : nn.Module
        It is not changed.
    names : sequence of str
        Of :func:`leading_layers`.
    tables : sequence of Tensor of shape (n, n_features)
    training : bool
        Whether it is in training mode meanwhile.
    """
    layers = [copy.deepcopy(network.get_submodule(name)).train(training) for name in names]
    results = []
    with torch.no_grad():
        for rows in tables:
            for layer in layers:
                rows = layer(rows)
            results.append(rows)
    return results


def _first(network: nn.Module, loss: Callable[..., Any], x: Tensor) -> str | None:
    """Name the first such layer."""
    trained = {storage_id(p) for p in network.parameters() if p.requires_grad}
    names = {name for name, _ in network.named_modules()}
    for training in (True, False):
        before = snapshot_python_state(network.train(training), loss)
        seen = _pass_of(network, x)
        if snapshot_python_state(network, loss) != before:
            return None
        names &= {name for name in seen.visits if _leads(seen, name, x, trained)}
        if not names:
            return None
    for name, module in network.named_modules():
        if name in names and _is_apart(network, module) and _keeps_rows_apart(module, x):
            return str(name)
    return None


def _is_apart(network: nn.Module, module: nn.Module) -> bool:
    """Whether no other layer has a parameter or a buffer of this one."""
    inside = {id(part) for part in module.modules()}
    own = {id(t) for t in [*module.parameters(), *module.buffers()]}
    parts = [part for part in network.modules() if id(part) not in inside]
    others = [t for p in parts for t in [*p.parameters(recurse=False), *p.buffers(recurse=False)]]
    return own.isdisjoint(map(id, others))


def _pass_of(network: nn.Module, x: Tensor) -> _Pass:
    """Watch a forward pass."""
    seen = _Pass()
    with torch.no_grad(), Recorder() as recorder, _visits(network, recorder, seen):
        network(x)
    seen.calls = recorder.calls
    if recorder.read_values or recorder.used_rng:
        seen.visits.clear()
    return seen


@contextmanager
def _visits(network: nn.Module, recorder: Recorder, seen: _Pass) -> Iterator[None]:
    """Note when each layer is called, and with what."""
    handles = []
    for name, module in network.named_modules():
        if any(p.requires_grad for p in module.parameters()):
            continue

        def enter(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            again = name in seen.visits
            seen.visits[name] = _Visit((*args, *kwargs.values()), len(recorder.calls), again=again)

        def leave(_: nn.Module, args: Any, result: Any, name: str = name) -> None:
            seen.visits[name].end, seen.visits[name].result = len(recorder.calls), result

        handles += [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leads(seen: _Pass, name: str, x: Tensor, trained: set[int]) -> bool:
    """Tell of a visit whether the layer's results can be computed beforehand."""
    visit = seen.visits[name]
    own = seen.calls[visit.begin : visit.end]
    others = seen.calls[: visit.begin] + seen.calls[visit.end :]
    if visit.again or len(visit.given) != 1 or visit.given[0] is not x or not own:
        return False
    if not isinstance(visit.result, Tensor) or not _is_like(visit.result, x):
        return False
    if any(storage_id(t) == storage_id(x) for call in others for t in call.inputs):
        return False
    made = {id(x), *(id(t) for call in own for t in call.outputs)}
    read = [t for call in own for t in call.inputs if id(t) not in made]
    written = {storage_id(t) for call in seen.calls for t in call.mutated}
    return (
        id(visit.result) in made - {id(x)}
        and all(_is_elementwise(call) or _lays_beside(call) for call in own)
        and all(t.ndim < x.ndim or t.shape[0] == 1 for t in read)
        and not {storage_id(t) for t in [x, *read]} & (written | trained)
    )


def _is_like(result: Tensor, x: Tensor) -> bool:
    like = result.dtype == x.dtype and result.device == x.device
    return like and result.ndim == x.ndim == 2 and len(result) == len(x)


def _is_elementwise(call: Call) -> bool:
    known = torch.Tag.pointwise in call.func.tags or call.name == "_to_copy"
    return known and not call.has_side_effects


def _lays_beside(call: Call) -> bool:
    # Without a dimension it lays rows below rows.
    return call.name == "cat" and len(call.args) == 2 and call.args[1] in (1, -1)


def _keeps_rows_apart(module: nn.Module, x: Tensor) -> bool:
    """Try whether a row becomes what it becomes alone: a number of rows may be a factor."""
    with torch.no_grad():
        return all(
            all_close([module.train(training)(x)[:1]], [module(x[:1])])
            for training in (True, False)
        )
