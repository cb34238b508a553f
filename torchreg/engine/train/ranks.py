"""When it pays that networks which have ended leave their stack."""

from __future__ import annotations

from collections.abc import Sequence

from torchreg.engine.train.run_state import RunState

#: Networks that have ended leave the stack when so large a share of it has, ...
_SHARE_TO_LEAVE = 0.3
#: ... and when they save so many of its steps: a smaller stack is recorded and tried out anew.
_STEPS_TO_LEAVE = 100


def should_compact(active: Sequence[RunState], n_placed: int, n_epochs: int) -> bool:
    """Tell whether those that still train had better go on without the others.

    Parameters
    ----------
    active : sequence of RunState
        Those that still train, at least one.
    n_placed : int
        How many have a place in the stack.
    n_epochs : int
        How many epochs have ended.
    """
    share = 1 - len(active) / n_placed
    if share < _SHARE_TO_LEAVE:
        return False
    n_to_come = max(_epochs_to_come(member, n_epochs) for member in active)
    return share * n_to_come * active[0].task.steps_in_epoch >= _STEPS_TO_LEAVE


def _epochs_to_come(member: RunState, n_epochs: int) -> int:
    """Guess: who waits for a better epoch goes on for as long as it has."""
    left = member.task.max_epochs - n_epochs
    return left if member.patience is None else min(left, n_epochs)
