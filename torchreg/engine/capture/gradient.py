"""The gradient of a batch: by autograd, or by a program compiled from a recorded step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import generator_states, inference, set_generator_states
from torchreg.engine.capture.codegen import Program, compile_trace
from torchreg.engine.capture.cuda_graph import build_cuda_graph
from torchreg.engine.capture.python_state import find_capture_blocker, snapshot_python_state
from torchreg.engine.capture.recorder import NotCapturableError, Recorder, find_mutated_inputs
from torchreg.engine.capture.tensors import all_close, restore_tensors
from torchreg.engine.data import Batch
from torchreg.engine.spec import MeanLoss

#: Gradients may differ by this many spacings of the largest of them, because of cancellation.
_NOISE = 2.0**10
#: Relative size of the perturbation of parameters in :meth:`CompiledGradient._matches_perturbed`.
_PERTURBATION = 2.0**-8
#: A program repays its recording within about this many steps.
WORTH_CAPTURING = 16
#: Why all steps are eager once a program fails or differs.
_DIFFERS = "a repetition of the recorded step failed"


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
        if not loss.requires_grad:
            raise ValueError(
                "No gradient reaches the parameters of the module: its output was computed by "
                "operations that torch cannot differentiate, such as detach(), no_grad(), NumPy "
                "or argmax. Replace them by differentiable operations of torch."
            )
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
        # torch 2.6 returns zeros that require gradients for parameters that nothing uses.
        with torch.no_grad():
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


class CompiledGradient:
    """An eager gradient that is recorded once, compiled, verified and then replayed.

    For each shape of batch, the first step is eager and recorded. The next runs both eagerly
    and compiled. If both agree, there or at two perturbed points, the program computes all later
    steps; otherwise, and if the step cannot be compiled, all steps stay eager.

    Parameters
    ----------
    eager : EagerGradient or EagerLoss
    uses_rng : bool
        Whether the network draws random numbers; the caller then owns torch's global generators.
    full_batch : Batch or None
        The batch of every step, if it is always the same one.
    n_steps : int or None, default=None
        Upper bound on the number of steps; a few steps are not worth capturing.

    Attributes
    ----------
    capture_blocker : str or None
        Why the steps are eager; completes "because".
    mutated_tensors : list of Tensor
        Tensors outside the network's buffers that a step changes.
    """

    def __init__(
        self,
        eager: EagerGradient | EagerLoss,
        *,
        uses_rng: bool,
        full_batch: Batch | None,
        n_steps: int | None = None,
    ) -> None:
        self.eager, self.uses_rng, self.full_batch = eager, uses_rng, full_batch
        self.network = eager.objective.network
        self.device = next(self.network.parameters()).device
        self.capture_blocker: str | None = None
        if n_steps is not None and n_steps < WORTH_CAPTURING:
            self.capture_blocker = f"{n_steps} steps are too few"
        #: By shape of batch.
        self.programs: dict[Any, Program] = {}
        self.unverified: dict[Any, Program] = {}
        self.mutated_tensors: list[Tensor] = []

    def __call__(self, batch: Batch) -> Tensor:
        """Write the gradients of a batch's mean loss; return the loss, () or (n_networks,)."""
        if self.capture_blocker is not None:
            return self.eager(batch)
        shape = None if batch is self.full_batch else (batch.x.shape, batch.weight is None)
        program = self.programs.get(shape)
        if program is not None:
            try:
                with inference(True):
                    return program(*batch)
            except RuntimeError:
                # A check failed, such as that of a Cholesky factor; the eager step explains it.
                self.capture_blocker = _DIFFERS
                return self.eager(batch)
        if shape in self.unverified:
            return self._verify(batch, shape)
        return self._record(batch, shape)

    def _record(self, batch: Batch, shape: Any) -> Tensor:
        """Run an eager step, record it and compile the trace."""
        loss_function = self.eager.objective.loss.function
        self.capture_blocker = find_capture_blocker(self.network, loss_function)
        if self.capture_blocker is not None:
            return self.eager(batch)
        state = self._copy_state()
        try:
            with Recorder() as recorder, self._watch_python_state():
                loss, gradients = self.eager.compute(batch)
        except Exception:
            # An error that has nothing to do with the recorder is raised again by the eager step.
            self._restore(state)
            self.capture_blocker = "the step cannot be recorded"
            return self.eager(batch)
        blockers = [
            (recorder.read_values, "the module or the loss looks at values while it runs"),
            (self.eager.replaced, "the module replaces a parameter's memory"),
            (
                recorder.used_rng and not self.uses_rng,
                "it draws random numbers in a way of its own",
            ),
        ]
        found = (blocker for applies, blocker in blockers if applies)
        self.capture_blocker = self.capture_blocker or next(found, None)
        if self.capture_blocker is not None:
            return self.eager.write(loss, gradients)
        inputs = {"x": batch.x, "t": batch.t, "weight": batch.weight}
        constants = [] if self.full_batch is None else [t for t in self.full_batch if t is not None]
        try:
            self.unverified[shape] = compile_trace(
                recorder.calls,
                inputs=inputs if self.full_batch is None else {},
                constants=constants,
                stable=self.eager.objective.stable,
                loss=loss,
                gradients=gradients,
                out=self.eager.out,
                preallocate=self.eager.objective.many,
            )
            self.mutated_tensors += find_mutated_inputs(recorder.calls)
        except NotCapturableError as error:
            self.capture_blocker = str(error)
        return self.eager.write(loss, gradients)

    def _verify(self, batch: Batch, shape: Any) -> Tensor:
        """Run a step eagerly and compiled; accept the program if both agree."""
        before = self._copy_state()
        loss, gradients = self._watched_step(batch)
        after = self._copy_state()
        for program in self._variants(self.unverified.pop(shape), batch):
            expected = [loss.detach(), *gradients]
            if self.capture_blocker is None and (
                self._matches(program, batch, expected, before, after)
                or self._matches_perturbed(program, batch, before)
            ):
                self.programs[shape] = program
                self._restore(after)
                return self.eager.write(loss, gradients)
        self.capture_blocker = self.capture_blocker or _DIFFERS
        self._restore(after)
        return self.eager.write(loss, gradients)

    def _watched_step(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        with self._watch_python_state():
            return self.eager.compute(batch)

    @staticmethod
    def _variants(program: Program, batch: Batch) -> Iterator[Program]:
        """Yield forms of a program, the fastest first."""
        if batch.t.device.type == "cuda":
            graph = build_cuda_graph(program, batch)
            if graph is not None:
                yield graph
        yield program

    def _matches(
        self,
        program: Program,
        batch: Batch,
        expected: list[Tensor],
        before: list[Tensor],
        after: list[Tensor],
    ) -> bool:
        """Whether a program gives the loss, gradients and state of the eager step."""
        self._restore(before)
        try:
            with inference(True):
                loss = program(*batch)
        except Exception:
            # Some operations, such as oneDNN's LSTM, can only be called by torch itself.
            return False
        expected_loss, *gradients = expected
        return (
            all_close([loss], [expected_loss])
            and all_close(self.eager.out, gradients, noise=_NOISE)
            and all_close(self._copy_state(), after)
        )

    def _matches_perturbed(self, program: Program, batch: Batch, before: list[Tensor]) -> bool:
        """Whether a program matches the eager step for two perturbations of the parameters.

        A number within rounding of a kink, such as that of a ReLU, may fall on either side of it,
        which changes the gradient of a whole row. At other points it does not.
        """
        parameters = [p.data for p in self.eager.parameters]
        if not parameters:
            return False
        saved = [p.clone() for p in parameters]
        try:
            for frequency in (1, 2):
                for p, values in zip(parameters, saved, strict=True):
                    index = torch.arange(p.numel(), dtype=torch.float32, device=p.device)
                    # (n,) -> the parameter's own shape
                    factor = 1 + _PERTURBATION * (frequency * index).cos().view_as(p)
                    p.copy_(values * factor)
                self._restore(before)
                loss, gradients = self._watched_step(batch)
                after = self._copy_state()
                if not self._matches(program, batch, [loss.detach(), *gradients], before, after):
                    return False
        except Exception:
            # The module may not be defined there, such as a Cholesky factor of its parameters.
            return False
        finally:
            restore_tensors(parameters, saved)
        return True

    @contextmanager
    def _watch_python_state(self) -> Iterator[None]:
        """Detect changes of Python state, which a program would not repeat."""
        loss = self.eager.objective.loss.function
        before = snapshot_python_state(self.network, loss)
        yield
        if snapshot_python_state(self.network, loss) != before:
            self.capture_blocker = "the module or the loss changes Python state while it runs"

    def _copy_state(self) -> list[Tensor]:
        """Copy what a step may change: buffers, other tensors, and generators if it uses them."""
        state = [tensor.clone() for tensor in self._state_tensors()]
        return [*generator_states(self.device), *state] if self.uses_rng else state

    def _restore(self, state: list[Tensor]) -> None:
        tensors = self._state_tensors()
        n_generators = len(state) - len(tensors)
        set_generator_states(self.device, state[:n_generators])
        restore_tensors(tensors, state[n_generators:])

    def _state_tensors(self) -> list[Tensor]:
        return [t.detach() for t in [*self.eager.objective.changing, *self.mutated_tensors]]
