"""Which networks can train as one stack, and how large a stack may be."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from torch import Tensor, nn

from torchreg.engine.data import count_columns
from torchreg.engine.spec import TrainTask
from torchreg.engine.stack.signature import UnstackableError, stack_signature
from torchreg.nn import BinEmbedding, MemberLinear, PeriodicEmbedding

#: Numbers in the widest layer of a stack, rows of a batch and networks together, at most: two
#: or three such tensors stay in a processor's cache. More networks make another stack.
MAX_RELEASED = 3 * 2**17
#: An embedding is one operation of so many, all others of which are narrower: it counts so much
#: less than a layer, after which activation, gradient and sums are as wide as itself.
EMBEDDED = 5
#: Numbers of parameters and validation rows that the networks of a stack hold, at most, if they
#: are several: some of them several times, as the optimizer and the best weights do.
HELD = 2**24
#: Numbers in the widest layer of a stack, from which on an operation takes so long that another
#: thread can compute meanwhile; ...
MANY = 2**16
#: ... or rows of a batch times parameters, where layers are wide and batches are small.
MUCH = 2**23
#: Why one of several networks of a kind is alone.
ENOUGH = "it is large enough by itself"
#: The most rows that networks of one stack may have, for each of the fewest: what is padded is
#: computed, too.
_UNEQUAL = 1.25


class Group(NamedTuple):
    """Problems that can train as one stack.

    Parameters
    ----------
    places : list of int
        Their indices.
    apart : str or None
        Why a problem is alone; completes "because".
    """

    places: list[int]
    apart: str | None = None


def group_tasks(tasks: Sequence[TrainTask], *, n_threads: int) -> list[Group]:
    """List the problems that can train as one stack; those that cannot are alone.

    Parameters
    ----------
    tasks : sequence of TrainTask
    n_threads : int
        How many stacks can train at the same time.

    Returns
    -------
    list of Group
    """
    kinds: defaultdict[Hashable, list[int]] = defaultdict(list)
    changed = [[id(tensor) for tensor in _changed_in(task.network)] for task in tasks]
    owners = Counter(chain(*changed))
    groups = []
    for index, task in enumerate(tasks):
        try:
            if any(owners[tensor] > 1 for tensor in changed[index]):
                raise UnstackableError("it shares with another network what is trained")
            kinds[stack_signature(task)].append(index)
        except UnstackableError as error:
            groups.append(Group([index], str(error)))
    #: Which of the tables each problem has, counted in the order in which they come.
    known: dict[int, int] = {}
    tables = [known.setdefault(id(task.training.t), len(known)) for task in tasks]
    for alike in kinds.values():
        # Those with the same number of rows together, so that little is padded; and those with
        # the same rows, which are then gathered once.
        alike.sort(key=lambda index: (len(tasks[index].training.t), tables[index]))
        begin = 0
        for end in range(1, len(alike) + 1):
            fewest = len(tasks[alike[begin]].training.t)
            if end < len(alike) and len(tasks[alike[end]].training.t) <= _UNEQUAL * fewest:
                continue
            groups += _pieces(tasks, alike[begin:end], n_threads)
            begin = end
    return groups


def _changed_in(network: nn.Module) -> list[Tensor]:
    """List what training changes: whose networks share it, they train one after another."""
    return [*[p for p in network.parameters() if p.requires_grad], *network.buffers()]


def _pieces(tasks: Sequence[TrainTask], alike: list[int], n_threads: int) -> list[Group]:
    """Cut a group into stacks of about equal size, kind to memory and enough for all threads."""
    own = [tasks[index] for index in alike]
    size = size_of(own[0])
    each = max(width_in_numbers(task, size) for task in own)
    held = max(_held_in_numbers(task, size) for task in own)
    n_pieces = math.ceil(len(alike) / max(1, min(MAX_RELEASED // each, HELD // held)))
    for_all_threads = math.ceil(n_pieces / n_threads) * n_threads
    busy = math.floor(share_of_threads(own))
    n_pieces = max(n_pieces, min(for_all_threads, busy, len(alike)))
    bounds = [len(alike) * piece // n_pieces for piece in range(n_pieces + 1)]
    apart = ENOUGH if len(alike) > 1 else "no other network is like it"
    return [Group(alike[a:b], apart if b - a == 1 else None) for a, b in pairwise(bounds)]


class Size(NamedTuple):
    """Units of a network's widest layer, and numbers of its parameters."""

    widest: int
    n_parameters: int


def size_of(task: TrainTask) -> Size:
    """Measure a network: once for all of a kind, for to look through modules takes its time."""
    return Size(widest(task), sum(p.numel() for p in task.network.parameters()))


def share_of_threads(alike: Sequence[TrainTask]) -> float:
    """Tell how many threads the networks of a stack keep busy, which else wait for Python.

    Parameters
    ----------
    alike : sequence of TrainTask
        Of one kind.
    """
    size = size_of(alike[0])
    return sum(share_of_thread(task, size) for task in alike)


def share_of_thread(task: TrainTask, size: Size | None = None) -> float:
    """Tell which part of a thread a network of a stack keeps busy."""
    size = size or size_of(task)
    work = _rows_at_once(task) * size.n_parameters
    return max(width_in_numbers(task, size) / MANY, work / MUCH)


def _held_in_numbers(task: TrainTask, size: Size) -> int:
    """Count the numbers that each network of a stack holds all the time."""
    validation = task.validation
    rows = 0 if validation is None else len(validation.t) * count_columns(validation.x)
    return rows + size.n_parameters


def width_in_numbers(task: TrainTask, size: Size | None = None) -> int:
    """Count the numbers in the widest layer of a network: rows of a batch times units."""
    return _rows_at_once(task) * (size or size_of(task)).widest


def _rows_at_once(task: TrainTask) -> int:
    return min(task.batch_size, len(task.training.t))


def widest(task: TrainTask) -> int:
    """Count the units of a network's widest layer, or its inputs if there are more."""
    widths = [p.shape[0] for p in task.network.parameters() if p.ndim]
    widths += [_width_of_part(part) for part in task.network.modules()]
    return max([count_columns(task.training.x), *widths])


def _width_of_part(part: nn.Module) -> int:
    """Count the units of a layer whose parameters do not tell them by their length."""
    if isinstance(part, MemberLinear):
        return part.n_members * part.out_features
    if isinstance(part, PeriodicEmbedding):
        n_columns = (part.out_features - part.in_features) // part.n_outputs
        return n_columns * part.n_frequencies // EMBEDDED
    if isinstance(part, BinEmbedding):
        return part.out_features // part.n_outputs * part.n_bins // EMBEDDED
    return 0
