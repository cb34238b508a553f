"""Networks of one architecture that train as one stack."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from torchreg._device import drawing
from torchreg.engine.core import OnLoss
from torchreg.engine.gradient import CapturedGradient, Evaluation, TapedGradient, agree
from torchreg.engine.objective import Objective
from torchreg.engine.problem import Problem
from torchreg.engine.rows import Batch, rows_in, width_of
from torchreg.engine.stacked_network import StackedObjective
from torchreg.engine.stacked_rows import Deal, all_rows
from torchreg.rules import VectorRule, stack_rules

#: Numbers of validation rows that are evaluated at once, for all networks together.
_EVALUATED = 2**18


class NotStackableError(Exception):
    """These networks cannot train as one; the message completes "because"."""


class Stack:
    """The numerical part of many fits at once; see :class:`torchreg.engine.core.Core`.

    Parameters of network k are row k of one matrix, and its own parameters are views of that
    row until it leaves: whoever looks at it sees its weights as they are. One program, recorded
    from one of the networks under ``torch.func.vmap``, computes the gradients of all; one
    update moves them. The sum of the losses has for each network's parameters the gradient of
    its own loss, so that nobody disturbs another.

    Parameters
    ----------
    problems : sequence of Problem
        Of one kind (:func:`torchreg.engine.alike.kind_of`).
    features_first : bool
        How rows lie in memory; see :class:`torchreg.engine.stacked_network.FeaturesFirst`.

    Raises
    ------
    NotStackableError
        If the module cannot be computed for many at once, or does not give for each network
        what it gives alone. All networks are then as they were.
    """

    def __init__(self, problems: Sequence[Problem], *, features_first: bool) -> None:
        self.problems, self.features_first = [*problems], features_first
        first = problems[0]
        networks = [problem.network for problem in problems]
        self.device = first.training.t.device
        self.drawing = drawing() if first.draws else nullcontext()
        self.generators = [torch.Generator().manual_seed(p.seed) for p in problems]
        self.names = [n for n, p in networks[0].named_parameters() if p.requires_grad]
        parameters = [dict(network.named_parameters()) for network in networks]
        self.theta = torch.stack(
            [
                torch.cat([own[name].detach().reshape(-1) for name in self.names])
                for own in parameters
            ]
        )
        #: Buffers, and parameters that are not trained: a row for each network.
        self.fixed = {
            name: torch.stack([dict(_fixed(network))[name].detach() for network in networks])
            for name, _ in _fixed(networks[0])
        }
        rules = [problem.optimizer.vector_rule(self.device) for problem in problems]
        self.rule = stack_rules([r for r in rules if isinstance(r, VectorRule)], self.theta)
        self._prepare()
        self._try_out()
        self._lend()
        self.started = networks, [tensor.clone() for tensor in self.tensors()]

    def _prepare(self) -> None:
        """Lay rows, parameters and gradients out for the networks that there are."""
        problems = self.problems
        tables = [problem.training for problem in problems]
        sizes = [problem.batch_size for problem in problems]
        self.deal = Deal(tables, sizes, self.generators, turned=self.features_first)
        n_steps = len(self.deal.widths)
        self.whole = all_rows(tables, turned=self.features_first) if n_steps == 1 else None
        self.slope = torch.empty_like(self.theta)
        networks = [problem.network for problem in problems]
        shapes = {name: p.shape for name, p in networks[0].named_parameters()}
        leaves, out, begin = {}, [], 0
        for name in self.names:
            part = slice(begin, begin + shapes[name].numel())
            # (n_networks, n) columns -> (n_networks, the parameter's own shape)
            leaves[name] = self.theta[:, part].view(-1, *shapes[name]).detach().requires_grad_()
            out.append(self.slope[:, part].view(-1, *shapes[name]))
            begin = part.stop
        self.objective = StackedObjective(
            networks,
            {**leaves, **self.fixed},
            problems[0].loss,
            protect_input=problems[0].protect_input,
            features_first=self.features_first,
        )
        n_epochs = max(problem.max_epochs for problem in problems)
        taped = TapedGradient(self.objective, list(leaves.values()), out)
        draws = problems[0].draws
        self.captured = CapturedGradient(
            taped, draws=draws, whole=self.whole, n_steps=n_epochs * n_steps
        )
        self.validation: list[Batch] = []
        if problems[0].validation is not None:
            held = [problem.validation for problem in problems if problem.validation is not None]
            rows = all_rows(held, turned=self.features_first)
            at_once = rows_in(_EVALUATED, len(problems) * width_of(held[0].x))
            self.validation = _pieces(rows, at_once, rows_dim=2 if self.features_first else 1)
            evaluation = Evaluation(self.objective)
            self.loss_of = CapturedGradient(evaluation, draws=draws, whole=None, n_steps=n_epochs)

    def _try_out(self) -> None:
        """Record the first step, repeat it, and hold it against networks that compute alone.

        Nothing is moved by it.
        """
        before = {name: tensor.clone() for name, tensor in self.fixed.items()}
        seeds = [torch.Generator().manual_seed(problem.seed) for problem in self.problems]
        tables, sizes = self.deal.tables, [problem.batch_size for problem in self.problems]
        if self.whole is not None:
            batch, counts = self.whole, self.deal.counts[0]
        else:
            batch, counts = next(Deal(tables, sizes, seeds, turned=self.features_first).batches())
        try:
            with self.drawing:
                losses = self.captured(batch)
                if not self.problems[0].draws:
                    self._hold_against_alone(batch, counts, losses, before)
                self._restore(before)
                self.captured(batch)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise NotStackableError(f"the module cannot be computed for many: {reason}") from error
        finally:
            self._restore(before)
        self._require_program()

    def _restore(self, fixed: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in fixed.items():
                self.fixed[name].copy_(tensor)

    def _require_program(self) -> None:
        if self.captured.obstacle is not None:
            raise NotStackableError(self.captured.obstacle)

    def _hold_against_alone(
        self, batch: Batch, counts: list[int], losses: Tensor, before: dict[str, Tensor]
    ) -> None:
        """Compare loss, gradient and buffers of some networks, those with the most padding too."""
        for place in {0, len(counts) - 1, counts.index(min(counts)), counts.index(max(counts))}:
            network = copy.deepcopy(self.problems[place].network).train()
            parameters = [p for p in network.parameters() if p.requires_grad]
            own = _rows_of(batch, place, counts[place], turned=self.features_first)
            problem = self.problems[place]
            objective = Objective(network, problem.loss, problem.protect_input)
            loss, gradients = TapedGradient(objective, parameters, ()).compute(own)
            expected = [loss.detach(), torch.cat([g.reshape(-1) for g in gradients])]
            expected += [buffer for buffer in network.buffers()]
            came = [losses[place], self.slope[place]]
            came += [self.fixed[name][place] for name, _ in network.named_buffers()]
            if not agree(came, expected):
                raise NotStackableError("in a stack it does not compute what it computes alone")

    def _lend(self) -> None:
        """Let the networks look at their rows."""
        for place, problem in enumerate(self.problems):
            begin = 0
            parameters = dict(problem.network.named_parameters())
            for name in self.names:
                p = parameters[name]
                # (n,) columns of a row -> the parameter's own shape
                p.data = self.theta[place, begin : begin + p.numel()].view(p.shape)
                begin += p.numel()
            for name, buffer in problem.network.named_buffers():
                buffer.data = self.fixed[name][place]

    @property
    def lane(self) -> str:
        """How the steps are computed, in words."""
        n = len(self.started[0])
        return f"The steps were captured once and repeated, for a stack of {n} networks."

    def batches(self) -> Iterator[tuple[Batch, list[int]]]:
        """Deal all rows out anew; beside each batch, how many rows of each network are in it."""
        return self.deal.batches()

    def step(self, batch: Batch, on_loss: OnLoss) -> None:
        """Take one step down the loss of a batch."""
        with self.drawing:
            losses = self.captured(batch)
        self._require_program()
        on_loss(losses, None)
        self.rule.update(self.theta, self.slope)

    def evaluate(self) -> list[float] | None:
        """Compute each network's mean loss on its validation rows, if there are any."""
        if not self.validation:
            return None
        rows = 2 if self.features_first else 1
        n_rows = sum(piece.t.shape[rows] for piece in self.validation)
        total: Any = 0.0
        for piece in self.validation:
            with self.drawing:
                losses = self.loss_of(piece)
            total = total + losses * (piece.t.shape[rows] / n_rows if piece.weight is None else 1.0)
        losses_of_all: list[float] = total.tolist()
        return losses_of_all

    def tensors(self) -> list[Tensor]:
        """List the tensors that training changes, each with a row for each network."""
        buffers = [name for name, _ in self.problems[0].network.named_buffers()]
        return [self.theta, *(self.fixed[name] for name in buffers)]

    def are_finite(self) -> list[bool]:
        """Tell of each network whether its weights are finite as they are now."""
        finite = torch.ones(len(self.theta), dtype=torch.bool, device=self.device)
        for tensor in self.tensors():
            # (n_networks, ...) -> (n_networks, n)
            finite &= torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
        answers: list[bool] = finite.tolist()
        return answers

    def keep(self, places: list[int]) -> None:
        """Let the other networks go: those that stay train faster."""
        self.problems = [self.problems[place] for place in places]
        self.generators = [self.generators[place] for place in places]
        self.theta = self.theta[places]
        self.fixed = {name: tensor[places] for name, tensor in self.fixed.items()}
        self.rule.keep(places)
        self._prepare()
        self._lend()

    def release(self, place: int) -> None:
        """Leave every parameter and buffer of a network owning its own memory."""
        network = self.problems[place].network
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.data = tensor.data.clone()
        network.eval()

    def undo(self) -> None:
        """Put all networks back to where they were before they were stacked."""
        networks, (theta, *buffers) = self.started
        for place, network in enumerate(networks):
            parameters = [p for p in network.parameters() if p.requires_grad]
            parts = theta[place].split([p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                # (n,) -> the parameter's own shape
                p.data = part.view(p.shape).clone()
            for buffer, kept in zip(network.buffers(), buffers, strict=True):
                buffer.data = kept[place].clone()


def _fixed(network: nn.Module) -> list[tuple[str, Tensor]]:
    """List what is not trained: buffers, and parameters that ask for no gradient."""
    frozen = [(name, p) for name, p in network.named_parameters() if not p.requires_grad]
    return [*frozen, *network.named_buffers()]


def _rows_of(batch: Batch, place: int, n_rows: int, *, turned: bool) -> Batch:
    """Take the rows of one network out of a batch, as it would see them alone."""
    x, t = batch.x[place], batch.t[place]
    if turned:
        # (n_columns, m) -> (m, n_columns)
        x, t = x.t().contiguous(), t.t().contiguous()
    share = None if batch.weight is None else batch.weight[place, :n_rows] * n_rows
    return Batch(x[:n_rows], t[:n_rows], share)


def _pieces(rows: Batch, at_once: int, *, rows_dim: int) -> list[Batch]:
    """Cut a batch into pieces of some rows."""
    x, t = rows.x.split(at_once, rows_dim), rows.t.split(at_once, rows_dim)
    shares = [None] * len(x) if rows.weight is None else rows.weight.split(at_once, 1)
    return [Batch(*piece) for piece in zip(x, t, shares, strict=True)]
