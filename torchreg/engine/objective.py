"""What a step goes down: the mean loss of a batch, as the network's parameters have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.func import functional_call

from torchreg.engine.members import has_members, mean_loss
from torchreg.engine.network import check_output
from torchreg.engine.rows import Batch
from torchreg.losses import Loss


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
