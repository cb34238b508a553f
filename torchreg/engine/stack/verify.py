"""Whether networks compute in a stack what each of them computes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from torchreg.engine.capture import Call, EagerGradient, EagerLoss, Recorder, all_close
from torchreg.engine.data import Batch, iter_batches
from torchreg.engine.spec import Objective, TrainTask

#: Where torch keeps what it knows of an operation under vmap.
_FOR_MANY = "FuncTorchBatched", "FuncTorchVmapMode", "CompositeImplicitAutograd"


class NotStackableError(Exception):
    """These networks cannot train as one; the message completes "because"."""


class StackVerifier:
    """Holds what a stack computes against copies of some of its networks.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of the stack; nothing of them is changed.
    """

    def __init__(self, tasks: Sequence[TrainTask]) -> None:
        self.tasks = tasks

    def check_batching_rules(self, batch: Batch) -> None:
        """See whether torch knows how to compute each operation for many networks at once.

        It could compute the others in a loop, but would warn of that, and take its time.

        Parameters
        ----------
        batch : Batch
            Of the first network.

        Raises
        ------
        NotStackableError
        """
        objective = self._alone(0)
        for training in (True, False):
            objective.network.train(training)
            with torch.no_grad(), Recorder() as recorder:
                objective.of(batch)
            for call in recorder.calls:
                if call.inputs and not any(_has_kernel(call, key) for key in _FOR_MANY):
                    raise NotStackableError(f"torch has no {call.name} for many networks at once")

    def check_step(
        self,
        select_table: Callable[[int], Batch],
        counts: Sequence[int],
        losses: Tensor,
        slope: Tensor,
        buffers: Mapping[str, Tensor],
    ) -> None:
        """Compare a step: loss, gradient and buffers.

        Parameters
        ----------
        select_table : callable
            Gives the batch of one network.
        counts : sequence of int
            How many rows each has.
        losses, slope : Tensor of shape (n_networks,) and (n_networks, n_parameters)
        buffers : mapping of str to Tensor
            With a row for each network.

        Raises
        ------
        NotStackableError
        """
        for place in _some(counts):
            objective = self._alone(place)
            network = objective.network
            parameters = [p for p in network.parameters() if p.requires_grad]
            taped = EagerGradient(objective, parameters, ())
            loss, gradients = taped.compute(select_table(place))
            expected = [loss.detach(), torch.cat([g.reshape(-1) for g in gradients])]
            came = [losses[place], slope[place]]
            tensors = dict([*network.named_parameters(), *network.named_buffers()])
            for name, values in buffers.items():
                expected.append(tensors[name].detach())
                came.append(values[place])
            # One whose loss is not finite is refused with its first step, wherever it trains.
            if torch.isfinite(loss) and not all_close(came, expected):
                raise NotStackableError("in a stack it does not compute what it computes alone")

    def check_evaluation(self, losses: Sequence[float]) -> None:
        """Compare the losses of the validation rows.

        Parameters
        ----------
        losses : sequence of float
            One for each network.

        Raises
        ------
        NotStackableError
        """
        tables = [p.validation for p in self.tasks if p.validation is not None]
        for place in _some([len(table.t) for table in tables]):
            evaluation, table = EagerLoss(self._alone(place)), tables[place]
            total = sum(evaluation(batch) * len(batch.t) for batch in iter_batches(table))
            loss = torch.as_tensor(total / len(table.t))
            if torch.isfinite(loss) and not all_close([loss.new_tensor(losses[place])], [loss]):
                raise NotStackableError("in a stack it is not evaluated as it is alone")

    def _alone(self, place: int) -> Objective:
        """Build the objective of one network, on copies of all that a step may change."""
        task = self.tasks[place]
        network = copy.deepcopy(task.network).train()
        return Objective(network, task.loss.copied(), task.protect_input)


def _has_kernel(call: Call, key: str) -> bool:
    schema = call.func._schema
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def _some(counts: Sequence[int]) -> set[int]:
    """Choose some networks to look at, those with the most padding too."""
    last = len(counts) - 1
    return {0, last, counts.index(min(counts)), counts.index(max(counts))}
