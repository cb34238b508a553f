"""The interface between the training loop and the computation of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from torchreg.engine.data import Batch
from torchreg.engine.train.lr_groups import StackedLRSchedule

#: Called before the weights are updated, with the loss of each network on a batch, of shape
#: (n_networks,) or (), and the predictions where an observer needs them.
OnLoss = Callable[[Tensor, Tensor | None], None]


class StepBackend(Protocol):
    """The computation of steps, for one network or for several that train as one stack."""

    #: The batch of every step, if it is always the same one.
    full_batch: Batch | None
    #: The learning rates, if a schedule changes them.
    lr_schedule: StackedLRSchedule | None

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, as a sentence."""

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the weights of any network."""

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Shuffle the rows; yield batches, each with its number of rows of every network."""

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one optimizer step on a batch."""

    def evaluate(self) -> list[float] | None:
        """Compute each network's mean loss on its validation rows; ``None`` without any."""

    def apply_lr(self) -> None:
        """Set the learning rates of the next step to those of :attr:`lr_schedule`."""

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes; in a stack, with one row per network."""

    def are_finite(self) -> list[bool]:
        """Return for each network whether its weights are finite."""

    def subset(self, indices: list[int]) -> StepBackend:
        """Build the backend of some of the networks, which :meth:`bind_views` moves there."""

    def bind_views(self) -> None:
        """Make the networks' parameters views of the tensors of this backend; idempotent."""

    def detach(self, slot: int) -> None:
        """Give every parameter and buffer of a network its own memory."""


class ResumableBackend(StepBackend, Protocol):
    """A backend whose state can be saved, so that another process can resume the run."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two steps, except the weights."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, perhaps in another process."""
