"""Step backend of several networks of one architecture that train as one stack."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import rng_lock
from torchreg.engine.capture import (
    CompiledGradient,
    EagerGradient,
    EagerLoss,
    restore_tensors,
    storage_id,
)
from torchreg.engine.data import (
    Batch,
    StackedLoader,
    Table,
    make_generators,
    rows_per_chunk,
    select_table,
    stack_tables,
    stack_tables_in_chunks,
)
from torchreg.engine.spec import TrainTask, reraise_interrupt
from torchreg.engine.stack.grouping import widest
from torchreg.engine.stack.verify import NotStackableError, StackVerifier
from torchreg.engine.stack.vmap_objective import (
    StackedObjective,
    apply_prefix,
    frozen_prefix,
    mutable_buffers,
)
from torchreg.engine.train.lr_groups import build_stacked_schedule
from torchreg.engine.train.step_backend import OnLoss
from torchreg.optim import FlatOptimizer, stack_optimizers

#: Units times rows of the widest layer of all networks together, when validation rows are
#: evaluated in pieces.
_MAX_EVALUATED = 2**20


class Stack:
    """Step backend of several networks of one architecture.

    The trainable parameters of network k are row k of one matrix; the parameters of its module
    are views of that row until the network is detached. One program, captured from one of the
    networks under ``torch.func.vmap``, computes the gradients of all networks, and one update
    moves them. The sum of the losses is differentiated: the gradient of network k's parameters
    is that of its own loss, so the networks do not influence each other.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of one signature (:func:`torchreg.engine.stack.stack_signature`).
    features_first : bool
        Memory layout of the rows; see :class:`torchreg.engine.stack.vmap_objective.FeaturesFirst`.

    Raises
    ------
    NotStackableError
        If the module cannot be computed for many networks at once, or if that gives other
        numbers than one network alone. The networks are then unchanged.
    """

    #: Only L-BFGS detects that further steps change nothing, and it trains networks one by one.
    converged = False

    def __init__(self, tasks: Sequence[TrainTask], *, features_first: bool) -> None:
        self.tasks, self.features_first = [*tasks], features_first
        first = tasks[0]
        networks = [task.network for task in tasks]
        self.device = first.training.t.device
        self.rng_lock = rng_lock() if first.uses_rng else nullcontext()
        self.generators = self._new_generators()
        self.names = [n for n, p in networks[0].named_parameters() if p.requires_grad]
        #: Parameters and buffers of each network, by name.
        self.own = [dict(chain(n.named_parameters(), n.named_buffers())) for n in networks]
        parts = [torch.stack([own[name].detach() for own in self.own]) for name in self.names]
        # (n_networks, *shape) -> (n_networks, n) columns
        parts = [part.view(len(part), part[0].numel()) for part in parts]
        self.params = torch.cat(parts, dim=1)
        #: Buffers and frozen parameters, by name, with one row per network.
        self.buffers = {
            name: torch.stack([own[name].detach() for own in self.own])
            for name in self.own[0]
            if name not in self.names
        }
        self.mutable = mutable_buffers(networks[0])
        optimizers = [task.optimizer.build_flat(self.device) for task in tasks]
        flat = [each for each in optimizers if isinstance(each, FlatOptimizer)]
        self.optimizer = stack_optimizers(flat, self.params)
        self.lr_schedule = build_stacked_schedule(tasks)
        self.apply_lr()
        self.max_epochs = max(task.max_epochs for task in tasks)
        try:
            self.prefix = frozen_prefix(tasks)
            self.tables = [apply_prefix(self.prefix, task) for task in tasks]
            self._prepare()
            self._verify()
        except NotStackableError:
            raise
        except Exception as error:
            # Under vmap a module may raise any exception.
            reraise_interrupt(error)
            reason = str(error).partition("\n")[0]
            raise NotStackableError(f"vmap cannot compute the module: {reason}") from error
        self.initial = self.own, *self._values()
        self.bind_views()

    def _new_generators(self) -> list[torch.Generator]:
        """Return a generator for each network, at the start of its order of rows."""
        return make_generators([t.seed for t in self.tasks], [t.training for t in self.tasks])

    def _prepare(self) -> None:
        """Lay out rows, parameters and gradients for the networks in the stack."""
        first = self.tasks[0]
        tables = [own[0] for own in self.tables]
        sizes = [task.batch_size for task in self.tasks]
        self.loader = StackedLoader(
            tables, sizes, self.generators, features_first=self.features_first
        )
        # A single batch that is smaller than batch_size is shuffled, as for one network.
        is_whole = all(n >= len(table.t) for n, table in zip(sizes, tables, strict=True))
        self.full_batch = (
            stack_tables(tables, features_first=self.features_first) if is_whole else None
        )
        self.grad = torch.empty_like(self.params)
        leaves, out = {}, []
        for name, columns, shape in self._layout():
            # (n_networks, n) columns -> (n_networks, *shape)
            leaves[name] = self.params[:, columns].view(shape).detach().requires_grad_()
            out.append(self.grad[:, columns].view(shape))
        self.objective = StackedObjective(
            [task.network for task in self.tasks],
            {**leaves, **self.buffers},
            first.loss,
            protect_input=first.protect_input,
            features_first=self.features_first,
            prefix=self.prefix,
        )
        self.gradient = CompiledGradient(
            EagerGradient(self.objective, list(leaves.values()), out),
            uses_rng=first.uses_rng,
            full_batch=self.full_batch,
            n_steps=self.max_epochs * len(self.loader.batch_widths),
        )
        self.validation: list[Batch] = []
        if first.validation is not None:
            validation = [own[1] for own in self.tables]
            at_once = rows_per_chunk(_MAX_EVALUATED, len(self.tasks) * widest(first))
            self.validation = stack_tables_in_chunks(
                validation, at_once, features_first=self.features_first
            )
            evaluation = EagerLoss(self.objective)
            self.loss_of = CompiledGradient(evaluation, uses_rng=first.uses_rng, full_batch=None)

    def _layout(self) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
        """Yield the columns of each trainable parameter, and its shape for all networks."""
        begin = 0
        for name in self.names:
            shape = self.own[0][name].shape
            yield name, slice(begin, begin + shape.numel()), (len(self.params), *shape)
            begin += shape.numel()

    def _values(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Copy all parameters and buffers."""
        return self.params.clone(), {name: tensor.clone() for name, tensor in self.buffers.items()}

    def _verify(self) -> None:
        """Compute a step of each kind twice, and compare it with that of single networks.

        Parameters and buffers are unchanged afterwards.
        """
        before, draws = self._values(), self.tasks[0].uses_rng
        with self.rng_lock:
            verifier = StackVerifier(self.tasks)
            for number, (batch, counts, raw) in enumerate(self._sample_batches()):
                single = partial(
                    select_table, raw, counts=counts, features_first=self.features_first
                )
                # Networks that draw random numbers cannot be compared.
                alone = [] if draws else verifier.compute_steps(single, counts)
                if number == 0:
                    verifier.check_batching_rules(single(0))
                losses = self.gradient(batch)
                self._check_captured()
                verifier.check_steps(alone, losses, self.grad, self.buffers)
                self._restore(before)
                self.gradient(batch)
                self._check_captured()
                self._restore(before)
            if self.validation:
                evaluated, again = self.evaluate() or [], self.evaluate()
                if self.loss_of.capture_blocker is not None:
                    raise NotStackableError(self.loss_of.capture_blocker)
                # Networks that draw random numbers in evaluation mode cannot be compared.
                if evaluated == again or not draws:
                    verifier.check_evaluation(evaluated)
                self._restore(before)

    def _sample_batches(self) -> Iterator[tuple[Batch, list[int], Batch]]:
        """Yield a batch of each width, padded and not, its counts, and its raw rows."""
        tables = [task.training for task in self.tasks]
        if self.full_batch is not None:
            yield (
                self.full_batch,
                self.loader.batch_counts[0],
                stack_tables(tables, features_first=self.features_first),
            )
            return
        sizes = [task.batch_size for task in self.tasks]

        def batches(tables: Sequence[Table]) -> Iterator[tuple[Batch, list[int]]]:
            generators = self._new_generators()
            return StackedLoader(
                tables, sizes, generators, features_first=self.features_first
            ).batches()

        prefixed = batches([own[0] for own in self.tables])
        raw_batches = batches(tables) if self.prefix else None
        known = set()
        for batch, counts in prefixed:
            raw = next(raw_batches)[0] if raw_batches else batch
            kind = max(counts), len(set(counts)) > 1
            if kind not in known:
                known.add(kind)
                yield batch, counts, raw

    def _restore(self, values: tuple[Tensor, dict[str, Tensor]]) -> None:
        params, buffers = values
        restore_tensors([self.params, *self.buffers.values()], [params, *buffers.values()])

    def _check_captured(self) -> None:
        if self.gradient.capture_blocker is not None:
            raise NotStackableError(self.gradient.capture_blocker)
        if not self.gradient.mutated_tensors:
            return
        own = {storage_id(tensor) for tensor in [self.params, *self.buffers.values()]}
        if any(storage_id(tensor) not in own for tensor in self.gradient.mutated_tensors):
            raise NotStackableError("it changes a tensor that is neither a parameter nor a buffer")

    def bind_views(self) -> None:
        """Make the networks' tensors views of their rows; idempotent."""
        rows = {name: values.unbind() for name, values in self.buffers.items()}
        for name, columns, shape in self._layout():
            # (n_networks, n) columns -> (n_networks, *shape)
            rows[name] = self.params[:, columns].view(shape).unbind()
        for slot, own in enumerate(self.own):
            for name, values in rows.items():
                own[name].data = values[slot]

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, as a sentence."""
        n_networks = len(self.initial[0])
        return f"The steps were captured once and repeated, for a stack of {n_networks} networks."

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Shuffle the rows; yield batches, each with its number of rows of every network."""
        return self.loader.batches()

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one optimizer step on a batch."""
        with self.rng_lock:
            losses = self.gradient(batch)
        self._check_captured()
        on_loss(losses, None)
        self.optimizer.step(self.params, self.grad)
        if self.lr_schedule is not None:
            self.lr_schedule.after_step()
            self.apply_lr()

    def apply_lr(self) -> None:
        """Set the learning rates of the next step to those of the schedules."""
        if self.lr_schedule is not None:
            for name, values in self.lr_schedule.changed_hyperparams().items():
                self.optimizer.set_hyperparam(name, values, like=self.params)

    def evaluate(self) -> list[float] | None:
        """Compute each network's mean loss on its validation rows; ``None`` without any."""
        if not self.validation:
            return None
        rows = 2 if self.features_first else 1
        n_rows = sum(piece.t.shape[rows] for piece in self.validation)
        total: Any = 0.0
        for piece in self.validation:
            with self.rng_lock:
                losses = self.loss_of(piece)
            total = total + losses * (piece.t.shape[rows] / n_rows if piece.weight is None else 1.0)
        mean_losses: list[float] = total.tolist()
        return mean_losses

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes, with one row per network."""
        return [self.params, *(self.buffers[name] for name in self.mutable)]

    def are_finite(self) -> list[bool]:
        """Return for each network whether its weights are finite."""
        # (n_networks, ...) -> (n_networks, n)
        rows = [tensor.reshape(len(tensor), -1) for tensor in self.tensors()]
        # A finite sum has finite terms; only other sums need a look at each of them.
        total: Any = sum(each.sum(dim=1) for each in rows)
        finite = torch.isfinite(total)
        if not bool(finite.all()):
            finite = torch.stack([torch.isfinite(each).all(dim=1) for each in rows]).all(dim=0)
        are_finite: list[bool] = finite.tolist()
        return are_finite

    def subset(self, indices: list[int]) -> Stack:
        """Build a smaller stack of some of the networks; :meth:`bind_views` moves them there."""
        stack = copy.copy(self)
        stack.tasks = [self.tasks[index] for index in indices]
        stack.own = [self.own[index] for index in indices]
        stack.tables = [self.tables[index] for index in indices]
        stack.generators = [self.generators[index] for index in indices]
        stack.params = self.params[indices]
        stack.buffers = {name: tensor[indices] for name, tensor in self.buffers.items()}
        stack.optimizer = self.optimizer.subset(indices)
        if self.lr_schedule is not None:
            stack.lr_schedule = self.lr_schedule.subset(indices)
            stack.apply_lr()
        stack._prepare()
        return stack

    def detach(self, slot: int) -> None:
        """Give every parameter and buffer of a network its own memory."""
        for tensor in self.own[slot].values():
            tensor.data = tensor.data.clone()
        self.tasks[slot].network.eval()

    def undo(self, slots: Sequence[int]) -> None:
        """Restore some networks as they were before they were stacked."""
        tensors, params, buffers = self.initial
        for slot in slots:
            own = tensors[slot]
            parts = params[slot].split([own[name].numel() for name in self.names])
            for name, part in zip(self.names, parts, strict=True):
                # (n,) -> shape of the parameter
                own[name].data = part.view(own[name].shape).clone()
            for name, values in buffers.items():
                own[name].data = values[slot].clone()
