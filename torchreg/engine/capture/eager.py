"""The gradient of a batch by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchreg.engine.data import Batch
from torchreg.engine.spec import MeanLoss


class EagerGradient:
    """Loss and gradient by autograd.

    Parameters
    ----------
    objective : MeanLoss
        What to differentiate.
    parameters : sequence of Tensor
        With respect to what.
    out : sequence of Tensor
        Where the gradients are written; same shapes as the parameters.
    """

    def __init__(
        self, objective: MeanLoss, parameters: Sequence[Tensor], out: Sequence[Tensor]
    ) -> None:
        self.objective, self.parameters, self.out = objective, parameters, out
        self.storages = [p.data for p in parameters]
        #: Whether the module replaced the memory of a parameter, which is then undone.
        self.replaced = False

    def __call__(self, batch: Batch) -> Tensor:
        """Write the gradients of a batch's mean loss; return the loss, () or (n_networks,)."""
        return self.write(*self.compute(batch))

    def compute(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute loss and gradients."""
        loss = self.objective.of(batch)
        # Each network of a stack depends on its own parameters only, so that the gradient of the
        # summed losses holds the gradient of each loss.
        gradients = torch.autograd.grad(
            loss.sum() if loss.ndim else loss,
            self.parameters,
            allow_unused=True,
            materialize_grads=True,
        )
        for parameter, storage in zip(self.parameters, self.storages, strict=True):
            if parameter.data_ptr() != storage.data_ptr():
                parameter.data = storage.copy_(parameter.data)
                self.replaced = True
        return loss, [g.to_dense() if g.is_sparse else g for g in gradients]

    def write(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Copy gradients to ``out``; return the loss."""
        torch._foreach_copy_(list(self.out), list(gradients))
        return loss.detach()


class EagerLoss:
    """The loss alone, with the network in evaluation mode, for validation rows.

    Parameters
    ----------
    objective : MeanLoss
        What to evaluate; its network is in training mode before and after.
    """

    parameters: Sequence[Tensor] = ()
    out: Sequence[Tensor] = ()
    replaced = False

    def __init__(self, objective: MeanLoss) -> None:
        self.objective = objective

    def __call__(self, batch: Batch) -> Tensor:
        """Return a batch's mean loss, of shape () or (n_networks,)."""
        return self.compute(batch)[0]

    def compute(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute the loss, without gradients."""
        self.objective.network.eval()
        with torch.no_grad():
            loss = self.objective.of(batch)
        self.objective.network.train()
        return loss, ()

    def write(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Return the loss; there are no gradients to write."""
        return loss
