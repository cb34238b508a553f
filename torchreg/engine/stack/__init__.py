"""Train many networks of one architecture as one stack.

Small networks spend most of a step in Python and in launching operations. Networks with the same
modules, loss and optimizer therefore share these costs: their parameters are the rows of one
matrix, ``torch.func.vmap`` computes one network for all rows, and one update moves the matrix.

1. ``grouping`` sorts tasks into groups that fit a stack, by their architecture, their number of
   rows and their size.
2. ``stack`` builds the step backend of a group. It applies the ``frozen_prefix`` of the networks to
   their rows once, and compares a step with single networks (``verify``); ``vmap_objective``
   computes the losses.
3. ``train_many`` trains stacks in parallel threads. A group that cannot be stacked, or fails while
   it trains, trains one network after another, with the same results. The networks of a fit with
   observers train epoch by epoch in turn.

Each task has a result of its own: an exception in one network does not affect the others.
"""

from torchreg.engine.stack.grouping import (
    Group,
    UnstackableError,
    group_tasks,
    stack_signature,
)
from torchreg.engine.stack.stack import Stack
from torchreg.engine.stack.train_many import train_tasks
from torchreg.engine.stack.verify import NotStackableError, StackVerifier

__all__ = [
    "Group",
    "NotStackableError",
    "Stack",
    "StackVerifier",
    "UnstackableError",
    "group_tasks",
    "stack_signature",
    "train_tasks",
]
