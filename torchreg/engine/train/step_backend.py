"""What a training loop turns: rows in, losses out, weights moved; of one network or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from torchreg.engine.data import Batch
from torchreg.engine.train.lr_groups import StackedLRSchedule

#: Hears the loss of each network on a batch, shape (n_networks,) or (), and its predictions where
#: somebody listens to them, before the weights are moved by it.
OnLoss = Callable[[Tensor, Tensor | None], None]


class Steps(Protocol):
    """Steps on the whole batch that are taken as one."""

    #: How many of them take no longer than a short while.
    n_at_once: int

    def run(self, before: Sequence[Tensor]) -> Tensor | None:
        """Take as many as there is room for; see :class:`torchreg.engine.stack.script.Script`."""


class StepBackend(Protocol):
    """The numerical part of a fit: of one network, or of several that train as one stack."""

    #: The batch of every step, if it is always the same one.
    whole: Batch | None
    #: How learning rates move, if they do.
    pace: StackedLRSchedule | None

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, and why, in words."""

    @property
    def converged(self) -> bool:
        """Whether further steps would not change the weights of any network."""

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Deal all rows out anew; beside each batch, how many rows of each network are in it."""

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""

    def script(self, n_steps: int) -> Steps | None:
        """Give so many steps on the whole batch as one, if that pays and can be done."""

    def evaluate(self) -> list[float] | None:
        """Compute each network's mean loss on its validation rows, if there are any."""

    def apply_lr(self) -> None:
        """Take the next step with the learning rates of :attr:`pace`."""

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes; of a stack, each with a row per network."""

    def are_finite(self) -> list[bool]:
        """Tell of each network whether its weights are finite as they are now."""

    def of(self, places: list[int]) -> StepBackend:
        """Build the core of some of the networks; they are moved there by :meth:`lend`."""

    def lend(self) -> None:
        """Let the networks look at the tensors here; done twice, it is as if done once."""

    def release(self, place: int) -> None:
        """Leave every parameter and buffer of a network owning its own memory."""


class ResumableBackend(StepBackend, Protocol):
    """A core whose state can be kept, so that a fit goes on in another process."""

    def memory(self) -> dict[str, Any]:
        """Give what is remembered from one step to the next, beside the weights."""

    def recall(self, memory: dict[str, Any]) -> None:
        """Remember what :meth:`memory` gave, in this or another process."""
