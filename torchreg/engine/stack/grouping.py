"""Which networks train as one stack, and how large a stack may be."""

from __future__ import annotations

import math
import pickle
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import partial
from itertools import chain, pairwise
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchreg.engine.capture import WORTH_CAPTURING, find_capture_blocker
from torchreg.engine.data import LazyRows, compute_batch_sizes, count_columns
from torchreg.engine.spec import TrainTask
from torchreg.nn import BinEmbedding, MemberLinear, PeriodicEmbedding
from torchreg.optim import LBFGS, optimizer_signature

#: Upper bound of the units of the widest layer times rows of a batch times networks of a stack:
#: two or three tensors of that size fit the cache of a processor.
MAX_STACK_WIDTH = 3 * 2**17
#: An embedding counts this much less than a layer, which is followed by an activation and whose
#: gradient is as wide: it is a single operation.
EMBEDDING_DISCOUNT = 5
#: Upper bound of the parameters and validation values of a stack of several networks. The
#: optimizer and the best weights hold copies of the parameters.
MAX_RESIDENT = 2**24
#: Units times rows of the widest layer of a stack from which an operation takes so long that
#: another thread can compute meanwhile; ...
WIDE_LAYER = 2**16
#: ... or rows of a batch times parameters, for wide layers and small batches.
HEAVY_STEP = 2**23
#: Why one of several networks of a kind is not in a stack.
REASON_LARGE = "it is large enough by itself"
#: Largest ratio of the numbers of rows in a stack; shorter tables are padded, which costs time.
_MAX_ROW_RATIO = 1.25
_PLAIN = bool | int | float | complex | str | bytes | None
#: Attributes of every module, which are not settings.
_MODULE_ATTRIBUTES = {*vars(nn.Module()), "training"}
_CONTAINERS = ("_parameters", "_buffers", "_modules")
#: Tensors of more bytes are compared by identity.
_MAX_NBYTES = 2**20


class Group(NamedTuple):
    """Tasks that can train as one stack.

    Parameters
    ----------
    indices : list of int
        Positions of the tasks.
    not_stacked_reason : str or None
        Why a task is the only one; completes "because".
    """

    indices: list[int]
    not_stacked_reason: str | None = None


def group_tasks(tasks: Sequence[TrainTask], *, n_threads: int) -> list[Group]:
    """Group the tasks that can train as one stack; any other task is a group of its own.

    Parameters
    ----------
    tasks : sequence of TrainTask
    n_threads : int
        How many stacks can train at the same time.

    Returns
    -------
    list of Group
    """
    by_signature: defaultdict[Hashable, list[int]] = defaultdict(list)
    changed = [[id(tensor) for tensor in _changed_tensors(task.network)] for task in tasks]
    n_owners = Counter(chain(*changed))
    groups = []
    for index, task in enumerate(tasks):
        try:
            if any(n_owners[tensor] > 1 for tensor in changed[index]):
                raise UnstackableError("it shares trainable tensors with another network")
            by_signature[stack_signature(task)].append(index)
        except UnstackableError as error:
            groups.append(Group([index], str(error)))
    # Tables are numbered in the order of their first task.
    numbers: dict[int, int] = {}
    tables = [numbers.setdefault(id(task.training.t), len(numbers)) for task in tasks]
    for indices in by_signature.values():
        # Sort by number of rows, so that little is padded, then by table: rows that several
        # networks share are gathered once.
        indices.sort(key=lambda index: (len(tasks[index].training.t), tables[index]))
        begin = 0
        for end in range(1, len(indices) + 1):
            fewest = len(tasks[indices[begin]].training.t)
            if end < len(indices) and (
                len(tasks[indices[end]].training.t) <= _MAX_ROW_RATIO * fewest
            ):
                continue
            groups += _split(tasks, indices[begin:end], n_threads)
            begin = end
    return groups


def join_groups(groups: Sequence[Group], tasks: Sequence[TrainTask]) -> list[list[Group]]:
    """Join groups that have networks of the same observed fit, and keep all others apart."""
    joined: list[tuple[set[int], list[Group]]] = []
    for group in groups:
        monitors = {id(tasks[i].monitor) for i in group.indices if tasks[i].monitor is not None}
        together = [group]
        for other in [each for each in joined if each[0] & monitors]:
            joined.remove(other)
            monitors, together = monitors | other[0], [*other[1], *together]
        joined.append((monitors, together))
    return [together for _, together in joined]


def _changed_tensors(network: nn.Module) -> list[Tensor]:
    """List what training changes; networks that share any of it cannot train together."""
    return [*[p for p in network.parameters() if p.requires_grad], *network.buffers()]


def _split(tasks: Sequence[TrainTask], indices: list[int], n_threads: int) -> list[Group]:
    """Split a group into stacks of about equal size, within the bounds and one per busy thread."""
    own = [tasks[index] for index in indices]
    size = size_of(own[0])
    width = max(layer_width(task, size) for task in own)
    resident = max(_n_resident(task, size) for task in own)
    max_networks = max(1, min(MAX_STACK_WIDTH // width, MAX_RESIDENT // resident))
    n_stacks = math.ceil(len(indices) / max_networks)
    for_all_threads = math.ceil(n_stacks / n_threads) * n_threads
    n_busy = math.floor(n_busy_threads(own))
    n_stacks = max(n_stacks, min(for_all_threads, n_busy, len(indices)))
    bounds = [len(indices) * stack // n_stacks for stack in range(n_stacks + 1)]
    groups: list[Group] = []
    for begin, end in pairwise(bounds):
        n_steps = max(task.n_steps for task in own[begin:end])
        if end - begin == 1:
            reason = REASON_LARGE if len(indices) > 1 else "no other network is like it"
            groups.append(Group(indices[begin:end], reason))
        elif n_steps < WORTH_CAPTURING:
            reason = f"{n_steps} steps are too few"
            groups += [Group([index], reason) for index in indices[begin:end]]
        else:
            groups.append(Group(indices[begin:end]))
    return groups


class Size(NamedTuple):
    """Units of a network's widest layer, and its number of parameters."""

    widest: int
    n_parameters: int


def size_of(task: TrainTask) -> Size:
    """Measure a network; all networks of one signature have the same size."""
    return Size(widest(task), sum(p.numel() for p in task.network.parameters()))


def n_busy_threads(tasks: Sequence[TrainTask]) -> float:
    """Return how many threads the networks of a stack keep busy outside of Python.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of one signature.
    """
    size = size_of(tasks[0])
    return sum(share_of_thread(task, size) for task in tasks)


def share_of_thread(task: TrainTask, size: Size | None = None) -> float:
    """Return the share of a thread that a network in a stack keeps busy."""
    size = size or size_of(task)
    work = _batch_rows(task) * size.n_parameters
    return max(layer_width(task, size) / WIDE_LAYER, work / HEAVY_STEP)


def _n_resident(task: TrainTask, size: Size) -> int:
    """Count the values that a network in a stack keeps in memory."""
    validation = task.validation
    rows = 0 if validation is None else len(validation.t) * count_columns(validation.x)
    return rows + size.n_parameters


def layer_width(task: TrainTask, size: Size | None = None) -> int:
    """Return the rows of a batch times the units of the widest layer."""
    return _batch_rows(task) * (size or size_of(task)).widest


def _batch_rows(task: TrainTask) -> int:
    return min(task.batch_size, len(task.training.t))


def widest(task: TrainTask) -> int:
    """Return the units of a network's widest layer, or its inputs if there are more."""
    widths = [p.shape[0] for p in task.network.parameters() if p.ndim]
    widths += [_layer_width(layer) for layer in task.network.modules()]
    return max([count_columns(task.training.x), *widths])


def _layer_width(layer: nn.Module) -> int:
    """Return the units of a layer whose parameters do not have one row per unit."""
    if isinstance(layer, MemberLinear):
        return layer.n_members * layer.out_features
    if isinstance(layer, PeriodicEmbedding):
        n_columns = (layer.out_features - layer.in_features) // layer.n_outputs
        return n_columns * layer.n_frequencies // EMBEDDING_DISCOUNT
    if isinstance(layer, BinEmbedding):
        return layer.out_features // layer.n_outputs * layer.n_bins // EMBEDDING_DISCOUNT
    return 0


class UnstackableError(Exception):
    """A task that cannot be in any stack; the message completes "because"."""


def stack_signature(task: TrainTask) -> Hashable:
    """Describe a task; tasks with equal signatures can train as one stack.

    They have the same modules in the same order, the same loss and update rule, and the same
    number of steps per epoch. Rows, weights, scaling, seeds and budgets may differ, and so may
    learning rates and other numbers of the optimizer, and the rates of ``nn.Dropout``.

    Parameters
    ----------
    task : TrainTask

    Returns
    -------
    hashable

    Raises
    ------
    UnstackableError
        If it can only train alone.
    """
    loss = task.loss
    if task.batch_observer is not None:
        raise UnstackableError("a callback observes batches")
    if task.checkpoint_store is not None:
        raise UnstackableError("it saves checkpoints")
    if any(isinstance(table.x, LazyRows) for table in task.tables):
        raise UnstackableError("its rows are standardized in each epoch")
    if len({p.dtype for p in task.network.parameters() if p.requires_grad}) > 1:
        raise UnstackableError("its parameters have several dtypes")
    blocker = find_capture_blocker(task.network, loss.function)
    if blocker is not None:
        raise UnstackableError(blocker)
    device = task.training.t.device
    optimizer = task.optimizer.build_flat(device)
    if optimizer is None or isinstance(optimizer, LBFGS):
        raise UnstackableError(f"optimizer {task.optimizer.name!r} trains one network at a time")
    sizes = compute_batch_sizes(len(task.training.t), task.batch_size)
    whole = task.batch_size >= len(task.training.t)
    # Padding is impossible where the number of rows or draws of a batch matters.
    exact = task.uses_rng or not loss.per_row or _mixes_rows(task.network)
    return (
        _architecture(task.network),
        (loss.per_row, _describe(loss.function)),
        optimizer_signature(optimizer),
        (device, task.training.t.dtype, count_columns(task.training.x), task.training.t.shape[1]),
        (whole, task.batch_size if not whole else 0, len(sizes), tuple(sizes) if exact else ()),
        (task.validation is None, task.stopping.on_validation),
        (task.uses_rng, task.protect_input),
        # The rows of a loss that is not a mean over rows can be neither padded nor weighted.
        () if loss.per_row else _rows_and_weights(task),
    )


def _rows_and_weights(task: TrainTask) -> Hashable:
    return tuple((len(table.t), table.weight is None) for table in task.tables)


def _mixes_rows(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def _architecture(network: nn.Module) -> Hashable:
    """Describe modules, shapes and settings, but not the values of parameters and buffers."""
    parts: list[list[tuple[str, Any]]] = [
        [*named(remove_duplicate=False)]
        for named in (network.named_parameters, network.named_buffers, network.named_modules)
    ]
    *named_tensors, named_modules = parts
    # Shared tensors and modules are described by the first of their names.
    first = {id(thing): name for part in parts for name, thing in reversed(part)}
    tensors = [
        (name, first[id(t)], tuple(t.shape), t.dtype, t.requires_grad)
        for part in named_tensors
        for name, t in part
    ]
    modules = [(name, first[id(m)], type(m), _settings(m)) for name, m in named_modules]
    return (tuple(tensors), tuple(modules))


def _settings(module: nn.Module) -> Hashable:
    own = {key: value for key, value in vars(module).items() if key not in _MODULE_ATTRIBUTES}
    if type(module) is nn.Dropout:
        del own["p"]
    return _describe(own)


def _describe(value: Any) -> Hashable:
    """Describe a setting; equal settings have equal descriptions."""
    if isinstance(value, _PLAIN):
        return (type(value).__name__, repr(value))
    if isinstance(value, FunctionType | BuiltinFunctionType | type | torch.Generator):
        # Two generators draw different numbers even if their states are equal.
        return ("itself", id(value))
    if isinstance(value, partial):
        return ("partial", *map(_describe, (value.func, value.args, value.keywords)))
    if isinstance(value, dict):
        return ("dict", *((_describe(k), _describe(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(_describe, value))
    if isinstance(value, Tensor) and value.layout == torch.strided and value.nbytes <= _MAX_NBYTES:
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return ("tensor", value.dtype, value.shape, value.device, content)
    if isinstance(value, nn.Module):
        own = {
            key: v
            for key, v in vars(value).items()
            if key not in _MODULE_ATTRIBUTES or key in _CONTAINERS
        }
        return ("module", type(value), _describe(own))
    try:
        return ("pickled", pickle.dumps(value))
    except Exception:
        return ("itself", id(value))
