"""Training objective: the mean loss of a batch as a function of the network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torchreg.engine.data import Batch
from torchreg.losses import Loss

#: Errors of a module that are raised again with the number of rows.
_MODULE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


class MeanLoss(Protocol):
    """Differentiable mean loss of a batch, of one network or of each network of a stack."""

    #: Whether there is one loss per network of a stack.
    many: ClassVar[bool]

    @property
    def network(self) -> nn.Module:
        """The network; for a stack, the one whose forward pass is vectorized."""

    @property
    def loss(self) -> Loss:
        """The loss of predictions and targets."""

    @property
    def stable(self) -> list[Tensor]:
        """Parameters and buffers, whose memory stays the same."""

    @property
    def changing(self) -> list[Tensor]:
        """Buffers that a step may change."""

    def of(self, batch: Batch) -> Tensor:
        """Compute the mean loss: shape (), or (n_networks,)."""


@dataclass(frozen=True)
class Objective:
    """Mean loss of one network.

    Parameters
    ----------
    network : nn.Module
        Standardized inputs to standardized outputs.
    loss : Loss
        Compares standardized values.
    protect_input : bool, default=False
        Whether the network overwrites its input and must receive a copy.
    """

    network: nn.Module
    loss: Loss
    protect_input: bool = False
    many: ClassVar[bool] = False

    @property
    def stable(self) -> list[Tensor]:
        """Parameters and buffers, whose memory stays the same."""
        return [*self.network.parameters(), *self.network.buffers()]

    @property
    def changing(self) -> list[Tensor]:
        """Buffers that a step may change."""
        return [*self.network.buffers()]

    def predict(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the network on rows of shape (n, n_features).

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        t : Tensor of shape (n, n_outputs)
            Targets, whose shape the output is checked against.
        values : mapping or None, default=None
            Values to use instead of the network's parameters and buffers.

        Returns
        -------
        Tensor of shape (n, n_outputs * per_output)
            Or (n, n_members, n_outputs * per_output) for a network of several members.
        """
        x = x.clone() if self.protect_input else x
        try:
            output = (
                self.network(x)
                if values is None
                else functional_call(self.network, dict(values), (x,))
            )
        except _MODULE_ERRORS as error:
            raise _module_error(error, n_rows=len(x)) from error
        return self._in_shape(output, t)

    def _in_shape(self, output: Tensor, t: Tensor) -> Tensor:
        n_rows, n_outputs = t.shape
        per_output = self.loss.per_output
        if output.shape != (n_rows, n_outputs * per_output):
            check_output(output, n_rows=n_rows, n_outputs=n_outputs, per_output=per_output)
            # (n,) -> (n, 1)
            output = output if has_members(output) else output.reshape(t.shape)
        return output

    def of(self, batch: Batch) -> Tensor:
        """Compute the mean loss of a batch: shape ()."""
        x = batch.x.clone() if self.protect_input else batch.x
        try:
            output = self.network(x)
        except _MODULE_ERRORS as error:
            raise _module_error(error, n_rows=len(x)) from error
        prediction = self._in_shape(output, batch.t)
        if prediction.ndim < 3:
            return self.loss.mean(prediction, batch.t, batch.weight)
        return mean_loss(self.loss, prediction, batch.t, batch.weight)

    def mean_loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Compute the mean loss of the predictions of a batch: shape ()."""
        return mean_loss(self.loss, prediction, batch.t, batch.weight)


def _module_error(error: Exception, *, n_rows: int) -> ValueError:
    rows = f"{n_rows} row{'s' if n_rows > 1 else ''}"
    return ValueError(f"The module failed on a batch of {rows}: {error}")


def has_members(prediction: Tensor) -> bool:
    """Return whether predictions have the shape (n, n_members, n_outputs)."""
    return prediction.ndim == 3


def mean_loss(loss: Loss, prediction: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
    r"""Average the loss over rows and members, :math:`\frac{1}{nM} \sum_{im} w_i\, \ell_{im}`.

    For a network of several members this is the mean of their losses, not the loss of their mean.

    Parameters
    ----------
    loss : Loss
    prediction : Tensor of shape (n, n_outputs) or (n, n_members, n_outputs)
    t : Tensor of shape (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    Tensor of shape ()
    """
    if prediction.ndim < 3:
        return loss.mean(prediction, t, weight)
    if weight is None and loss.per_row is False:
        return torch.stack([loss.function(p, t) for p in prediction.unbind(dim=1)]).mean()
    row_losses = losses_per_row(loss, prediction, t)
    # A captured step computes weight / n once where the weights are the same in every step.
    return row_losses.mean() if weight is None else row_losses @ (weight / len(weight))


def losses_per_row(loss: Loss, prediction: Tensor, t: Tensor) -> Tensor:
    """Compute the loss of each row, averaged over members if there are any: shape (n,)."""
    if not has_members(prediction):
        return loss.of_each_row(prediction, t)
    n, m, _ = prediction.shape
    # (n, n_outputs) -> (n, m, n_outputs) -> (n * m, n_outputs)
    repeated = t.unsqueeze(1).expand(n, m, t.shape[1]).flatten(0, 1)
    member_losses = loss.of_each_row(prediction.flatten(0, 1), repeated)
    # (n * m,) -> (n, m) -> (n,)
    return member_losses.reshape(n, m).mean(dim=1)


def check_output(output: Any, *, n_rows: int, n_outputs: int, per_output: int = 1) -> Tensor:
    """Raise an error unless the output has one prediction per row, member and output.

    ``per_output`` is the number of columns per output that the loss requires.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"The module must return a tensor, it returned {type(output).__name__}.")
    shape = tuple(output.shape)
    width = n_outputs * per_output
    if shape == (n_rows, width) or (width == 1 and shape == (n_rows,)):
        return output
    if len(shape) == 3 and shape[1] > 0 and (shape[0], shape[2]) == (n_rows, width):
        return output
    required, advice = "", "as many outputs as y has columns"
    if per_output > 1:
        required = f", and the loss requires {per_output} numbers for each"
        advice = f"{width} outputs, or pass a class, which receives out_features={width}"
    raise ValueError(
        f"The module returns shape {shape} for {n_rows} rows, but y has {n_outputs} "
        f"output{'s' if n_outputs > 1 else ''}{required}: shape ({n_rows}, {width}) is expected. "
        f"Give the module's last layer {advice}."
    )


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """List the parameters that require a gradient; raise an error if there are none."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "The module has no trainable parameter: it has none, or none requires a gradient."
        )
    return parameters
