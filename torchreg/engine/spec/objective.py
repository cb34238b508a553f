"""What a step goes down: the mean loss of a batch, as the network's parameters have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn
from torch.func import functional_call

from torchreg.engine.data import Batch
from torchreg.engine.spec.outputs import check_output, has_members, mean_loss
from torchreg.losses import Loss


class MeanLoss(Protocol):
    """The differentiable mean loss of a batch, of one network or of each network of a stack."""

    #: Whether it has one loss for each of several networks.
    many: ClassVar[bool]

    @property
    def network(self) -> nn.Module:
        """The network; for a stack the one that computes for all."""

    @property
    def loss(self) -> Loss:
        """The loss of predictions and targets."""

    @property
    def stable(self) -> list[Tensor]:
        """Parameters and buffers, whose memory does not change."""

    @property
    def changing(self) -> list[Tensor]:
        """Buffers that a step may change."""

    def of(self, batch: Batch) -> Tensor:
        """Compute the mean loss: shape (), or (n_networks,)."""


@dataclass(frozen=True)
class Objective:
    """A network and the loss of its predictions.

    Parameters
    ----------
    network : nn.Module
        Standardized inputs to standardized outputs.
    loss : Loss
        Compares standardized values.
    protect_input : bool
        Whether the network overwrites its input, so that it must be given a copy.
    """

    network: nn.Module
    loss: Loss
    protect_input: bool = False
    #: Whether it is that of many networks.
    many: ClassVar[bool] = False

    @property
    def stable(self) -> list[Tensor]:
        """The tensors whose memory stays: parameters and buffers."""
        return [*self.network.parameters(), *self.network.buffers()]

    @property
    def changing(self) -> list[Tensor]:
        """The buffers, which a step may change."""
        return [*self.network.buffers()]

    def predict(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Send rows through: shape (n, n_features) to (n, n_outputs * per_output).

        A network of several members gives (n, n_members, n_outputs * per_output).
        ``values`` take the places of parameters and buffers.
        """
        x = x.clone() if self.protect_input else x
        try:
            output: Tensor = (
                self.network(x)
                if values is None
                else functional_call(self.network, dict(values), (x,))
            )
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            rows = f"{len(x)} row{'s' if len(x) > 1 else ''}"
            raise ValueError(f"The module failed on a batch of {rows}: {error}") from error
        n_rows, n_outputs = t.shape
        per_output = self.loss.per_output
        if output.shape != (n_rows, n_outputs * per_output):
            check_output(output, n_rows=n_rows, n_outputs=n_outputs, per_output=per_output)
            # (n,) -> (n, 1)
            output = output if has_members(output) else output.reshape(t.shape)
        return output

    def of(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch: a tensor of shape ()."""
        return self.mean_loss(self.predict(batch.x, batch.t), batch)

    def mean_loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Compute the mean loss of the predictions of a batch: a tensor of shape ()."""
        return mean_loss(self.loss, prediction, batch.t, batch.weight)


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """List the parameters that ask for a gradient; an empty list is an error."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "The module has no parameter that can be trained: all are fixed, or there is none."
        )
    return parameters
