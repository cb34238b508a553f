"""The gradient of a batch: computed by torch's tape, or by the program it was captured in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import generator_states, inference, set_generator_states
from torchreg.engine.capture.codegen import Program, write_down
from torchreg.engine.capture.cuda_graph import graphed
from torchreg.engine.capture.python_state import obstacle, python_state
from torchreg.engine.capture.recorder import NotCapturableError, Recorder, written_outside
from torchreg.engine.data.tables import Batch
from torchreg.engine.spec.objective import MeanLoss

#: Gradients may differ by so many spacings of the largest of them, for want of digits.
_NOISE = 2.0**10
#: By so much of themselves parameters are moved to see whether they lay at a kink.
_NEARBY = 2.0**-8
#: A program repays its recording within about this many steps.
WORTH_CAPTURING = 16


class EagerGradient:
    """Loss and gradient by torch's automatic differentiation, module call by module call.

    Parameters
    ----------
    objective : MeanLoss
        What to differentiate.
    parameters : sequence of Tensor
        By what.
    out : sequence of Tensor
        Where to write the gradients: of the parameters' shapes.
    """

    def __init__(
        self,
        objective: MeanLoss,
        parameters: Sequence[Tensor],
        out: Sequence[Tensor],
    ) -> None:
        self.objective, self.parameters, self.out = objective, parameters, out
        self.places = [p.data for p in parameters]
        #: Whether the module gave a parameter other memory, which was then undone.
        self.replaced = False

    def __call__(self, batch: Batch) -> Tensor:
        """Write the gradients of a batch's mean loss; return the loss, (), or (n_networks,)."""
        return self.write(*self.compute(batch))

    def compute(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute loss and gradients."""
        loss = self.objective.of(batch)
        # The sum over many networks has for each one's parameters the gradient of its own loss.
        gradients = torch.autograd.grad(
            loss.sum() if loss.ndim else loss,
            self.parameters,
            allow_unused=True,
            materialize_grads=True,
        )
        for parameter, place in zip(self.parameters, self.places, strict=True):
            if parameter.data_ptr() != place.data_ptr():
                parameter.data = place.copy_(parameter.data)
                self.replaced = True
        return loss, [g.to_dense() if g.is_sparse else g for g in gradients]

    def write(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Put gradients where they are wanted."""
        torch._foreach_copy_(list(self.out), list(gradients))
        return loss.detach()


class Evaluation:
    """The loss alone, with the network in evaluation mode, as validation rows see it.

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
        """Return a batch's mean loss, of shape ()."""
        return self.compute(batch)[0]

    def compute(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute the loss; there are no gradients."""
        self.objective.network.eval()
        with torch.no_grad():
            loss = self.objective.of(batch)
        self.objective.network.train()
        return loss, ()

    def write(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Return the loss; there is nothing to write."""
        return loss


class CompiledGradient:
    """The same, recorded in the first step and repeated without modules and tape.

    For each shape of batch the first step is an ordinary one that is watched. The second
    is computed both ways, and only if they agree, there or at two places nearby, does the
    program take over. Where it cannot be written down or does not agree, every step is an
    ordinary one.

    Parameters
    ----------
    taped : EagerGradient or Evaluation
        The ordinary way.
    draws : bool
        Whether the network draws random numbers; torch's global generators are then ours.
    whole : Batch or None
        The batch that comes in every step, if it is the same one.
    n_steps : int or None, default=None
        How many steps are to come, at most; a few are not worth being captured.
    by_torch : bool, default=False
        Whether all is computed by torch; see :func:`torchreg.engine.capture.codegen.write_down`.

    Attributes
    ----------
    obstacle : str or None
        Why the steps are ordinary ones.
    """

    def __init__(
        self,
        taped: EagerGradient | Evaluation,
        *,
        draws: bool,
        whole: Batch | None,
        n_steps: int | None = None,
        by_torch: bool = False,
    ) -> None:
        self.taped, self.draws, self.whole = taped, draws, whole
        self.by_torch = by_torch
        self.network = taped.objective.network
        self.device = next(self.network.parameters()).device
        self.obstacle = obstacle(self.network, taped.objective.loss.function)
        if n_steps is not None and n_steps < WORTH_CAPTURING:
            self.obstacle = self.obstacle or f"{n_steps} steps are too few"
        self.programs: dict[Any, Program] = {}
        self.on_trial: dict[Any, Program] = {}
        #: What a step changes beside the network's buffers.
        self.written: list[Tensor] = []

    def __call__(self, batch: Batch) -> Tensor:
        """Write the gradients of a batch's mean loss; return the loss, (), or (n_networks,)."""
        kind = None if batch is self.whole else (batch.x.shape, batch.weight is None)
        if self.obstacle is not None:
            return self.taped(batch)
        program = self.programs.get(kind)
        if program is not None:
            try:
                with inference(True):
                    return program(*batch)
            except RuntimeError:
                # A check such as that of a Cholesky factor; the ordinary step says it better.
                self.obstacle = "a repetition of the recorded step failed"
                return self.taped(batch)
        if kind in self.on_trial:
            return self._try(batch, kind)
        return self._record(batch, kind)

    def _record(self, batch: Batch, kind: Any) -> Tensor:
        """Take an ordinary step, watched."""
        state = self._state()
        try:
            with Recorder() as recorder, self._watched():
                loss, gradients = self.taped.compute(batch)
        except Exception:
            # What is wrong without the recorder too is raised by the ordinary step.
            self._restore(state)
            self.obstacle = "the step cannot be recorded"
            return self.taped(batch)
        if recorder.looked:
            self.obstacle = self.obstacle or "the module or the loss looks at values while it runs"
        if self.taped.replaced:
            self.obstacle = self.obstacle or "the module replaces a parameter's memory"
        if recorder.drew and not self.draws:
            self.obstacle = self.obstacle or "it draws random numbers in a way of its own"
        if self.obstacle is not None:
            return self.taped.write(loss, gradients)
        tensors = {"x": batch.x, "t": batch.t, "weight": batch.weight}
        fixed = [] if self.whole is None else [t for t in self.whole if t is not None]
        try:
            self.on_trial[kind] = write_down(
                recorder.calls,
                inputs=tensors if self.whole is None else {},
                constants=fixed,
                stable=self.taped.objective.stable,
                loss=loss,
                gradients=gradients,
                out=self.taped.out,
                stays=self.taped.objective.many,
                by_torch=self.by_torch,
            )
            self.written += written_outside(recorder.calls)
        except NotCapturableError as error:
            self.obstacle = str(error)
        return self.taped.write(loss, gradients)

    def _try(self, batch: Batch, kind: Any) -> Tensor:
        """Take a step both ways, and compare."""
        before = self._state()
        loss, gradients = self._watched_step(batch)
        after = self._state()
        for program in self._versions(self.on_trial.pop(kind), batch):
            expected = [loss.detach(), *gradients]
            if self.obstacle is None and (
                self._repeats(program, batch, expected, before, after)
                or self._matches_perturbed(program, batch, before)
            ):
                self.programs[kind] = program
                self._restore(after)
                return self.taped.write(loss, gradients)
        self.obstacle = self.obstacle or "a repetition of the recorded step failed"
        self._restore(after)
        return self.taped.write(loss, gradients)

    def _watched_step(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        with self._watched():
            return self.taped.compute(batch)

    @staticmethod
    def _versions(program: Program, batch: Batch) -> Iterator[Program]:
        """Give a program in its forms, the fastest first."""
        if batch.t.device.type == "cuda" and (graph := graphed(program, batch)) is not None:
            yield graph
        yield program

    def _repeats(
        self,
        program: Program,
        batch: Batch,
        expected: list[Tensor],
        before: list[Tensor],
        after: list[Tensor],
    ) -> bool:
        """Whether a program gives what the ordinary step gave, and leaves what it left."""
        self._restore(before)
        try:
            with inference(True):
                loss = program(*batch)
        except Exception:
            # Some operations, such as oneDNN's LSTM, cannot be called from outside torch.
            return False
        expected_loss, *gradients = expected
        return (
            agree([loss], [expected_loss])
            and agree(self.taped.out, gradients, noise=_NOISE)
            and agree(self._state(), after)
        )

    def _matches_perturbed(self, program: Program, batch: Batch, before: list[Tensor]) -> bool:
        """Whether it does so at two other places.

        A number that lies within its rounding of a kink, such as that of a ReLU, may be taken
        for one side or the other, and a whole row with it. It is not so elsewhere.
        """
        parameters = [p.data for p in self.taped.parameters]
        if not parameters:
            return False
        kept = [p.clone() for p in parameters]
        try:
            for place in (1, 2):
                for p, own in zip(parameters, kept, strict=True):
                    steps = torch.arange(p.numel(), dtype=torch.float32, device=p.device)
                    # (n,) -> the parameter's own shape
                    p.copy_(own * (1 + _NEARBY * (place * steps).cos().view_as(p)))
                self._restore(before)
                loss, gradients = self._watched_step(batch)
                after = self._state()
                if not self._repeats(program, batch, [loss.detach(), *gradients], before, after):
                    return False
        except Exception:
            # The module may not be defined there, as a Cholesky factor of its parameters.
            return False
        finally:
            put_back(parameters, kept)
        return True

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice Python state that a step changes: a repetition would not change it."""
        loss = self.taped.objective.loss.function
        before = python_state(self.network, loss)
        yield
        if python_state(self.network, loss) != before:
            self.obstacle = "the module or the loss changes Python state while it runs"

    def _state(self) -> list[Tensor]:
        """Copy what a step may change beside the gradient: tensors, and generators if it draws."""
        state = [tensor.clone() for tensor in self._changing()]
        return [*generator_states(self.device), *state] if self.draws else state

    def _restore(self, state: list[Tensor]) -> None:
        tensors = self._changing()
        n_generators = len(state) - len(tensors)
        set_generator_states(self.device, state[:n_generators])
        put_back(tensors, state[n_generators:])

    def _changing(self) -> list[Tensor]:
        return [tensor.detach() for tensor in [*self.taped.objective.changing, *self.written]]


def put_back(tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Put the values back that were copied from tensors."""
    with torch.no_grad():
        for tensor, own in zip(tensors, kept, strict=True):
            tensor.copy_(own)


def agree(first: Sequence[Tensor], second: Sequence[Tensor], *, noise: float = 0.0) -> bool:
    """Whether tensors are equal up to the rounding of a sum in another order.

    What is ``noise`` spacings of the largest number of all may differ: a gradient that is
    nothing but rounding, as that of a bias before a normalization, has no digits to compare.
    """
    largest = max((_largest(b) for b in second), default=0.0) if noise else 0.0
    for a, b in zip(first, second, strict=True):
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return False
            continue
        eps = torch.finfo(a.dtype).eps
        tolerance = eps**0.5
        bound = max(tolerance * _largest(b), noise * eps * largest)
        if not torch.allclose(a, b, rtol=tolerance, atol=bound, equal_nan=True):
            return False
    return True


def _largest(values: Tensor) -> float:
    """Give the largest size of the finite numbers."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0
