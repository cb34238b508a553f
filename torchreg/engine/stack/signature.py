"""Signatures of tasks: what networks of one stack have in common."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchreg.engine.capture import find_capture_blocker
from torchreg.engine.data import LazyRows, compute_batch_sizes, count_columns
from torchreg.engine.spec import TrainTask
from torchreg.optim import LBFGS, optimizer_signature

_PLAIN = bool | int | float | complex | str | bytes | None
#: Attributes of every module, which are not settings.
_MODULE_ATTRIBUTES = {*vars(nn.Module()), "training"}
_CONTAINERS = ("_parameters", "_buffers", "_modules")
#: Tensors of more bytes are compared by identity.
_MAX_NBYTES = 2**20


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
