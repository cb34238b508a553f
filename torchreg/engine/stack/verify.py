"""Verification that networks compute in a stack what each of them computes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchreg.engine.capture import Call, EagerGradient, EagerLoss, Recorder, all_close
from torchreg.engine.data import Batch, iter_batches
from torchreg.engine.spec import Objective, TrainTask

#: Dispatch keys under which torch registers batching rules and what needs none.
_BATCHING_KEYS = "FuncTorchBatched", "FuncTorchVmapMode", "CompositeImplicitAutograd"


class NotStackableError(Exception):
    """The networks cannot train as one stack; the message completes "because"."""


class SingleStep(NamedTuple):
    """Loss, gradient, and parameters and buffers by name, after a step of one network alone."""

    slot: int
    loss: Tensor
    gradient: Tensor
    tensors: dict[str, Tensor]


class StackVerifier:
    """Compares the results of a stack with those of copies of some of its networks.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of the stack; they are not changed.
    """

    def __init__(self, tasks: Sequence[TrainTask]) -> None:
        self.tasks = tasks

    def check_batching_rules(self, batch: Batch) -> None:
        """Check that torch has a batching rule for each operation of the networks.

        Without one it would compute the networks in a slow loop, and warn of it.

        Parameters
        ----------
        batch : Batch
            Of the first network.

        Raises
        ------
        NotStackableError
        """
        objective = self._single(0)
        for training in (True, False):
            objective.network.train(training)
            with torch.no_grad(), Recorder() as recorder:
                objective.of(batch)
            for call in recorder.calls:
                if call.inputs and not any(_has_kernel(call, key) for key in _BATCHING_KEYS):
                    raise NotStackableError(f"torch has no batching rule for {call.name}")

    def compute_steps(
        self, batch_of: Callable[[int], Batch], counts: Sequence[int]
    ) -> list[SingleStep]:
        """Compute a step of some of the networks, each alone.

        Parameters
        ----------
        batch_of : callable
            Returns the batch of one network.
        counts : sequence of int
            Number of rows in the batch of each network.
        """
        steps = []
        for slot in _sample_slots(counts):
            objective = self._single(slot)
            network = objective.network
            parameters = [p for p in network.parameters() if p.requires_grad]
            loss, gradients = EagerGradient(objective, parameters, ()).compute(batch_of(slot))
            gradient = torch.cat([g.reshape(-1) for g in gradients])
            tensors = dict([*network.named_parameters(), *network.named_buffers()])
            steps.append(SingleStep(slot, loss.detach(), gradient, tensors))
        return steps

    def check_steps(
        self,
        steps: Sequence[SingleStep],
        losses: Tensor,
        grad: Tensor,
        buffers: Mapping[str, Tensor],
    ) -> None:
        """Compare loss, gradient and buffers after a step of the stack with those of networks.

        Parameters
        ----------
        steps : sequence of SingleStep
        losses, grad : Tensor of shape (n_networks,) and (n_networks, n_parameters)
        buffers : mapping of str to Tensor
            With one row per network.

        Raises
        ------
        NotStackableError
        """
        for slot, loss, gradient, tensors in steps:
            expected = [loss, gradient, *(tensors[name].detach() for name in buffers)]
            actual = [losses[slot], grad[slot], *(values[slot] for values in buffers.values())]
            # A network whose first loss is not finite is refused in the loop, stacked or not.
            if torch.isfinite(loss) and not all_close(actual, expected):
                raise NotStackableError("in a stack its loss or gradient differs")

    def check_evaluation(self, losses: Sequence[float]) -> None:
        """Compare the losses on the validation rows.

        Parameters
        ----------
        losses : sequence of float
            One per network.

        Raises
        ------
        NotStackableError
        """
        tables = [task.validation for task in self.tasks if task.validation is not None]
        for slot in _sample_slots([len(table.t) for table in tables]):
            evaluation, table = EagerLoss(self._single(slot)), tables[slot]
            total = sum(evaluation(batch) * len(batch.t) for batch in iter_batches(table))
            loss = torch.as_tensor(total / len(table.t))
            if torch.isfinite(loss) and not all_close([loss.new_tensor(losses[slot])], [loss]):
                raise NotStackableError("in a stack its validation loss differs")

    def _single(self, slot: int) -> Objective:
        """Return the objective of one network, on copies of all that a step may change."""
        task = self.tasks[slot]
        network = copy.deepcopy(task.network).train()
        return Objective(network, task.loss.copied(), task.protect_input)


def _has_kernel(call: Call, key: str) -> bool:
    schema = call.func._schema
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def _sample_slots(counts: Sequence[int]) -> set[int]:
    """Return the slots to compare: the first, the last, and those with most and least padding."""
    last = len(counts) - 1
    return {0, last, counts.index(min(counts)), counts.index(max(counts))}
