"""Networks of one architecture that train as one stack."""

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
from torchreg.engine.stack.grouping import size_of, widest, width_in_numbers
from torchreg.engine.stack.leading import leading_of, tables_behind
from torchreg.engine.stack.script import WORTH_SCRIPTING, Script, write_script
from torchreg.engine.stack.verify import NotStackableError, StackVerifier
from torchreg.engine.stack.vmap_objective import StackedObjective, moving_buffers
from torchreg.engine.train.lr_groups import build_stacked_schedule
from torchreg.engine.train.step_backend import OnLoss
from torchreg.optim import FlatOptimizer, stack_optimizers

#: Numbers in the widest layer when validation rows are evaluated, for all networks together.
_EVALUATED = 2**20
#: Numbers in the widest layer of all networks together, up to which steps take less time without
#: Python in between: the products of larger ones take longer so, for torch computes them, and not
#: NumPy. Beside other threads, that wait for Python, more; ...
_BESIDE_OTHERS = 2**18
#: ... and where no other thread is in the way.
_BY_ITSELF = 2**15


class Stack:
    """Step backend of several networks of one architecture.

    Parameters of network k are row k of one matrix, and its own parameters are views of that
    row until it leaves: whoever looks at it sees its weights as they are. One program, recorded
    from one of the networks under ``torch.func.vmap``, computes the gradients of all; one
    update moves them. The sum of the losses has for each network's parameters the gradient of
    its own loss, so that nobody disturbs another.

    Parameters
    ----------
    tasks : sequence of TrainTask
        Of one kind (:func:`torchreg.engine.stack.signature.stack_signature`).
    features_first : bool
        How rows lie in memory; see :class:`torchreg.engine.stack.vmap_objective.FeaturesFirst`.
    beside_others : bool, default=False
        Whether other threads compute at the same time.

    Raises
    ------
    NotStackableError
        If the module cannot be computed for many at once, or does not give for each network
        what it gives alone. All networks are then as they were.
    """

    #: Only L-BFGS, which trains networks one by one, can tell.
    converged = False

    def __init__(
        self, tasks: Sequence[TrainTask], *, features_first: bool, beside_others: bool = False
    ) -> None:
        self.tasks, self.features_first = [*tasks], features_first
        self.beside_others = beside_others
        first = tasks[0]
        networks = [task.network for task in tasks]
        self.device = first.training.t.device
        self.rng_lock = rng_lock() if first.uses_rng else nullcontext()
        self.generators = self._new_generators()
        self.names = [n for n, p in networks[0].named_parameters() if p.requires_grad]
        #: Of each network, its parameters and buffers by name.
        self.own = [dict(chain(n.named_parameters(), n.named_buffers())) for n in networks]
        parts = [torch.stack([own[name].detach() for own in self.own]) for name in self.names]
        # (n_networks, the parameter's own shape) -> (n_networks, n) columns
        parts = [part.view(len(part), part[0].numel()) for part in parts]
        self.params = torch.cat(parts, dim=1)
        #: Buffers, and parameters that are not trained: a row for each network.
        self.fixed = {
            name: torch.stack([own[name].detach() for own in self.own])
            for name in self.own[0]
            if name not in self.names
        }
        #: Those of them that a step may change.
        self.moving = moving_buffers(networks[0])
        optimizers = [task.optimizer.build_flat(self.device) for task in tasks]
        flat = [each for each in optimizers if isinstance(each, FlatOptimizer)]
        self.optimizer = stack_optimizers(flat, self.params)
        self.pace = build_stacked_schedule(tasks)
        self.apply_lr()
        #: The steps that are to come, at most, as they are captured for all networks.
        self.n_epochs = max(task.max_epochs for task in tasks)
        try:
            self.leading = leading_of(tasks)
            self.tables = [tables_behind(self.leading, task) for task in tasks]
            self._prepare()
            self._try_out()
        except NotStackableError:
            raise
        except Exception as error:
            # Under vmap a module can fail in ways of its own, whatever it raises.
            reraise_interrupt(error)
            reason = str(error).partition("\n")[0]
            raise NotStackableError(f"the module cannot be computed for many: {reason}") from error
        self.started = self.own, *self._values()
        self.lend()

    def _new_generators(self) -> list[torch.Generator]:
        """Give each network a generator that is where its order of rows begins."""
        tasks = self.tasks
        return make_generators([p.seed for p in tasks], [p.training for p in tasks])

    def _prepare(self) -> None:
        """Lay rows, parameters and gradients out for the networks that there are."""
        tasks = self.tasks
        tables = [own[0] for own in self.tables]
        sizes = [task.batch_size for task in tasks]
        self.deal = StackedLoader(
            tables, sizes, self.generators, features_first=self.features_first
        )
        # A lone batch that is not full by name is dealt out anew, as it is alone.
        is_whole = all(n >= len(table.t) for n, table in zip(sizes, tables, strict=True))
        self.whole = stack_tables(tables, features_first=self.features_first) if is_whole else None
        self.slope = torch.empty_like(self.params)
        networks = [task.network for task in tasks]
        shapes = {name: p.shape for name, p in networks[0].named_parameters()}
        leaves, out, begin = {}, [], 0
        for name in self.names:
            part = slice(begin, begin + shapes[name].numel())
            # (n_networks, n) columns -> (n_networks, the parameter's own shape)
            shape = len(self.params), *shapes[name]
            leaves[name] = self.params[:, part].view(shape).detach().requires_grad_()
            out.append(self.slope[:, part].view(shape))
            begin = part.stop
        self.objective = StackedObjective(
            networks,
            {**leaves, **self.fixed},
            tasks[0].loss,
            protect_input=tasks[0].protect_input,
            features_first=self.features_first,
            leading=self.leading,
        )
        taped = EagerGradient(self.objective, list(leaves.values()), out)
        draws = tasks[0].uses_rng
        n_steps = self.n_epochs * len(self.deal.batch_widths)
        self.may_script = self._may_script()
        self.written: Script | None = None
        self.captured = CompiledGradient(
            taped, uses_rng=draws, full_batch=self.whole, n_steps=n_steps, by_torch=self.may_script
        )
        self.validation: list[Batch] = []
        if tasks[0].validation is not None:
            held = [own[1] for own in self.tables]
            at_once = rows_per_chunk(_EVALUATED, len(tasks) * widest(tasks[0]))
            self.validation = stack_tables_in_chunks(
                held, at_once, features_first=self.features_first
            )
            self.loss_of = CompiledGradient(
                EagerLoss(self.objective), uses_rng=draws, full_batch=None
            )

    def _values(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Copy all parameters and buffers."""
        return self.params.clone(), {name: tensor.clone() for name, tensor in self.fixed.items()}

    def _try_out(self) -> None:
        """Take a step of each kind, repeat it, and hold it against networks that compute alone.

        Nothing is moved by it.
        """
        before, draws = self._values(), self.tasks[0].uses_rng
        with self.rng_lock:
            trial = StackVerifier(self.tasks)
            for number, (batch, counts, raw) in enumerate(self._batches_to_try()):
                own = partial(select_table, raw, counts=counts, features_first=self.features_first)
                if number == 0:
                    trial.check_batching_rules(own(0))
                losses = self.captured(batch)
                self._require_program()
                if not draws:
                    trial.check_step(own, counts, losses, self.slope, self.fixed)
                self._restore(before)
                self.captured(batch)
                self._require_program()
                self._restore(before)
            if self.validation:
                evaluated, again = self.evaluate() or [], self.evaluate()
                if self.loss_of.capture_blocker is not None:
                    raise NotStackableError(self.loss_of.capture_blocker)
                # What draws even while it is evaluated cannot be compared.
                if evaluated == again or not draws:
                    trial.check_evaluation(evaluated)
                self._restore(before)

    def _batches_to_try(self) -> Iterator[tuple[Batch, list[int], Batch]]:
        """Give a batch of each width, padded and not; beside it, how its rows come to a network."""
        tables = [task.training for task in self.tasks]
        if self.whole is not None:
            yield (
                self.whole,
                self.deal.batch_counts[0],
                stack_tables(tables, features_first=self.features_first),
            )
            return
        sizes = [task.batch_size for task in self.tasks]

        def deal(tables: Sequence[Table]) -> Iterator[tuple[Batch, list[int]]]:
            generators = self._new_generators()
            return StackedLoader(
                tables, sizes, generators, features_first=self.features_first
            ).batches()

        dealt = [deal([own[0] for own in self.tables]), *([deal(tables)] if self.leading else [])]
        known = set()
        for (batch, counts), *others in zip(*dealt, strict=True):
            raw = others[0][0] if others else batch
            kind = max(counts), len(set(counts)) > 1
            if kind not in known:
                known.add(kind)
                yield batch, counts, raw

    def _restore(self, values: tuple[Tensor, dict[str, Tensor]]) -> None:
        params, fixed = values
        restore_tensors([self.params, *self.fixed.values()], [params, *fixed.values()])

    def _require_program(self) -> None:
        if self.captured.capture_blocker is not None:
            raise NotStackableError(self.captured.capture_blocker)
        if not self.captured.mutated_tensors:
            return
        own = {storage_id(tensor) for tensor in [self.params, *self.fixed.values()]}
        if any(storage_id(tensor) not in own for tensor in self.captured.mutated_tensors):
            raise NotStackableError("it changes a tensor that is no parameter and no buffer")

    def lend(self) -> None:
        """Let the networks look at their rows; done twice, it is as if done once."""
        rows = {name: values.unbind() for name, values in self.fixed.items()}
        begin = 0
        for name in self.names:
            shape = self.own[0][name].shape
            part = self.params[:, begin : begin + shape.numel()]
            # (n_networks, n) columns -> (n_networks, the parameter's own shape)
            rows[name] = part.view(len(part), *shape).unbind()
            begin += shape.numel()
        for place, own in enumerate(self.own):
            for name, values in rows.items():
                own[name].data = values[place]

    @property
    def execution_mode(self) -> str:
        """How the steps are computed, in words."""
        n, how = len(self.started[0]), "" if self.written is None else " without Python in between"
        return f"The steps were captured once and repeated{how}, for a stack of {n} networks."

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Deal all rows out anew; beside each batch, how many rows of each network are in it."""
        return self.deal.batches()

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""
        with self.rng_lock:
            losses = self.captured(batch)
        self._require_program()
        on_loss(losses, None)
        self.optimizer.step(self.params, self.slope)
        if self.pace is not None:
            self.pace.after_step()
            self.apply_lr()

    def _may_script(self) -> bool:
        """Whether steps are taken without Python in between, if that can be done."""
        size, is_quiet = size_of(self.tasks[0]), all(p.is_quiet for p in self.tasks)
        n_numbers = sum(width_in_numbers(task, size) for task in self.tasks)
        most = _BESIDE_OTHERS if self.beside_others else _BY_ITSELF
        steps_are_alike = is_quiet and not self.tasks[0].uses_rng
        return steps_are_alike and self.device.type == "cpu" and n_numbers <= most

    def script(self, n_steps: int) -> Script | None:
        """Give so many steps on the whole batch as one, if that pays and can be done."""
        if self.written is None and self.may_script and n_steps >= WORTH_SCRIPTING:
            self.written = write_script(self._step_on_all, self.tensors(), self.optimizer)
            self.may_script = self.written is not None
        return self.written

    def _step_on_all(self) -> Tensor:
        assert self.whole is not None
        losses = self.captured(self.whole)
        self.optimizer.step(self.params, self.slope)
        return losses

    def apply_lr(self) -> None:
        """Take the next step with the learning rates of the networks' schedules."""
        if self.pace is not None:
            for name, values in self.pace.changed_hyperparams().items():
                self.optimizer.set_hyperparam(name, values, like=self.params)

    def evaluate(self) -> list[float] | None:
        """Compute each network's mean loss on its validation rows, if there are any."""
        if not self.validation:
            return None
        rows = 2 if self.features_first else 1
        n_rows = sum(piece.t.shape[rows] for piece in self.validation)
        total: Any = 0.0
        for piece in self.validation:
            with self.rng_lock:
                losses = self.loss_of(piece)
            total = total + losses * (piece.t.shape[rows] / n_rows if piece.weight is None else 1.0)
        losses_of_all: list[float] = total.tolist()
        return losses_of_all

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes, each with a row for each network."""
        return [self.params, *(self.fixed[name] for name in self.moving)]

    def are_finite(self) -> list[bool]:
        """Tell of each network whether its weights are finite as they are now."""
        # (n_networks, ...) -> (n_networks, n)
        rows = [tensor.reshape(len(tensor), -1) for tensor in self.tensors()]
        # A finite sum has finite terms; only where it is not is each of them looked at.
        total: Any = sum(each.sum(dim=1) for each in rows)
        finite = torch.isfinite(total)
        if not bool(finite.all()):
            finite = torch.stack([torch.isfinite(each).all(dim=1) for each in rows]).all(dim=0)
        answers: list[bool] = finite.tolist()
        return answers

    def of(self, places: list[int]) -> Stack:
        """Build the stack of some of the networks, which train faster than all."""
        stack = copy.copy(self)
        stack.tasks = [self.tasks[place] for place in places]
        stack.own = [self.own[place] for place in places]
        stack.tables = [self.tables[place] for place in places]
        stack.generators = [self.generators[place] for place in places]
        stack.params = self.params[places]
        stack.fixed = {name: tensor[places] for name, tensor in self.fixed.items()}
        stack.optimizer = self.optimizer.subset(places)
        if self.pace is not None:
            stack.pace = self.pace.subset(places)
            stack.apply_lr()
        stack._prepare()
        return stack

    def release(self, place: int) -> None:
        """Leave every parameter and buffer of a network owning its own memory."""
        for tensor in self.own[place].values():
            tensor.data = tensor.data.clone()
        self.tasks[place].network.eval()

    def undo(self) -> None:
        """Put all networks back to where they were before they were stacked."""
        tensors, params, fixed = self.started
        for place, own in enumerate(tensors):
            parts = params[place].split([own[name].numel() for name in self.names])
            for name, part in zip(self.names, parts, strict=True):
                # (n,) -> the parameter's own shape
                own[name].data = part.view(own[name].shape).clone()
            for name, values in fixed.items():
                own[name].data = values[place].clone()
