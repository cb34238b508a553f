"""Steps of many networks that follow one another without Python in between.

Where several stacks train side by side, each operation that is called from Python waits for the
lock of its interpreter, which another thread may hold just then; two threads take as long as one.
TorchScript has an interpreter of its own, which needs no such lock: what a step did is noted once
and written down in its language, in a loop. Where that cannot be done, or does not give what the
step gave, steps are taken from Python as ever.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from torchreg._utils import inference
from torchreg.engine.capture import Call, Recorder, all_close, iter_tensors, restore_tensors
from torchreg.optim.base import Stateful

#: Fewer steps do not repay their translation.
WORTH_SCRIPTING = 100
#: Seconds of steps at once, about: Ctrl-C is heard when they have been taken.
_AT_ONCE_S = 0.05

_Function = Callable[..., None]


class _WordlessError(Exception):
    """TorchScript has no words for what a step does; nobody hears of it."""


class Script:
    """Steps that follow one another without Python in between; built by :func:`write_script`.

    Parameters
    ----------
    function : callable
        Takes the number of steps; where the losses of each go, shape (n_steps, n_networks); a
        list of ``state``, and one of where it is copied to first; for each of the tensors that
        training changes where it is written as it is before each step, shape (n_steps, ...);
        and ``given``.
    given : sequence of Tensor or list of Tensor
        What the steps read and write.
    like : Tensor of shape (n_networks,)
        Losses of one step.
    state : sequence of Tensor
        What is remembered from one step to the next.
    """

    def __init__(
        self,
        function: _Function,
        given: Sequence[Tensor | list[Tensor]],
        like: Tensor,
        state: Sequence[Tensor],
    ) -> None:
        self._function, self._given, self._like = function, [*given], like
        self._state, self._kept = [*state], [torch.empty_like(tensor) for tensor in state]
        #: How many steps take no longer than a short while.
        self.n_at_once = 1

    def run(self, before: Sequence[Tensor]) -> Tensor | None:
        """Take steps.

        Parameters
        ----------
        before : sequence of Tensor
            For each of the tensors that training changes, where it is written as it is before
            each step: shape (n_steps, ...).

        Returns
        -------
        Tensor of shape (n_steps, n_networks) or None
            The losses before each step; ``None`` if a step failed, and all is as it was.
        """
        # As little as possible is done here: another thread may hold Python's lock each time.
        n_steps = len(before[0])
        losses = self._like.new_empty((n_steps, len(self._like)))
        state = self._state, self._kept
        try:
            # The setting is a thread's own. What optimizes does not see all that is written to.
            with inference(True), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                self._function(n_steps, losses, *state, *before, *self._given)
        except (RuntimeError, torch.jit.Error):
            # The step from Python, which fails too, says it better.
            restore_tensors(*state)
            return None
        return losses


def write_script(
    step: Callable[[], Tensor],
    tensors: Sequence[Tensor],
    rule: Stateful,
) -> Script | None:
    """Note a step, write it down as a loop, and hold that against the step.

    Parameters
    ----------
    step : callable
        Takes a step in place, not for the first time, and gives the losses before it, of shape
        (n_networks,).
    tensors : sequence of Tensor
        What training changes.
    rule : Stateful
        Holds what else a step leaves to the next one.

    Returns
    -------
    Script or None
        ``None`` where it cannot be written down, or does not give what the step gives. All is
        as it was.

    Examples
    --------
    >>> from torchreg.optim.flat_optimizers import SGD
    >>> theta, rule = torch.ones(1), SGD(lr=0.25)
    >>> def step():
    ...     loss = theta.square()
    ...     rule.step(theta, 2 * theta)
    ...     return loss
    >>> script = write_script(step, [theta], rule)
    >>> script.run([torch.empty(3, 1)]), theta
    (tensor([[1.0000],
            [0.2500],
            [0.0625]]), tensor([0.1250]))
    """
    memory = rule.state_dict()
    state = [*tensors, *iter_tensors([*memory.values()])]
    before = [tensor.clone() for tensor in state]
    try:
        with inference(True), Recorder() as recorder:
            first = step()
        losses = torch.stack([first, step()])
        after = [tensor.clone() for tensor in state]
        remembered = iter_tensors([*rule.state_dict().values()])
        stays = [id(t) for t in state[len(tensors) :]] == [id(t) for t in remembered]
        if not stays or recorder.read_values or any(call.uses_rng for call in recorder.calls):
            return None
        writer = _CodeGenerator(recorder.calls)
        source = writer.source(tensors, first)
        script = Script(_compiled(source), writer.given, first, state)
        places = [tensor.new_empty((2, *tensor.shape)) for tensor in tensors]
        for _ in range(2):
            restore_tensors(state, before)
            begin = time.perf_counter()
            found = script.run(places)
            took = time.perf_counter() - begin
            if found is None or not all_close([found, *state], [losses, *after]):
                return None
        # The first time it was made ready, too.
        script.n_at_once = max(1, int(2 * _AT_ONCE_S / took))
    except (_WordlessError, RuntimeError):
        return None
    finally:
        rule.load_state_dict(memory)
        restore_tensors(state, before)
    return script


class _CodeGenerator:
    """Writes calls down in TorchScript.

    Attributes
    ----------
    given : list of Tensor
        What is there before the first step, in the order of the function's last parameters.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.given: list[Tensor | list[Tensor]] = []
        #: By identity; the calls keep all tensors alive.
        self.names: dict[int, str] = {}
        self.numbers = itertools.count()

    def source(self, tensors: Sequence[Tensor], losses: Tensor) -> str:
        """Write the function."""
        places = [f"before{i}" for i in range(len(tensors))]
        body = [f"{p}[i].copy_({self._name(t)})" for p, t in zip(places, tensors, strict=True)]
        body += [self._statement(call) for call in self.calls]
        body.append(f"losses[i].copy_({self._name(losses)})")
        given = [
            f"given{i}: List[Tensor]" if isinstance(value, list) else f"given{i}"
            for i, value in enumerate(self.given)
        ]
        always = ["n: int", "losses", "state: List[Tensor]", "kept: List[Tensor]"]
        lines = [
            f"def steps({', '.join([*always, *places, *given])}):",
            "    torch.ops.aten._foreach_copy_(kept, state)",
            "    for i in range(n):",
            *(f"        {line}" for line in body),
        ]
        return "\n".join([*lines, ""])

    def _statement(self, call: Call) -> str:
        # What only checks, TorchScript leaves out.
        if call.func.namespace != "aten" or not (call.outputs or call.mutated):
            raise _WordlessError
        arguments = [self._literal(argument) for argument in call.args]
        arguments += [f"{key}={self._literal(value)}" for key, value in call.kwargs.items()]
        line = f"torch.ops.aten.{call.name}({', '.join(arguments)})"
        # What works in place gives what it was given.
        if all(id(tensor) in self.names for tensor in call.outputs):
            return line
        several = isinstance(call.result, list | tuple)
        results = [*call.result] if several else [call.result]
        labels = [f"made{next(self.numbers)}" for _ in results]
        # Of several results some may be none.
        self.names |= {
            id(result): label
            for result, label in zip(results, labels, strict=True)
            if result is not None
        }
        return f"{', '.join(labels)} = {line}"

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self.names:
            self.names[id(tensor)] = f"given{len(self.given)}"
            self.given.append(tensor)
        return self.names[id(tensor)]

    def _is_given(self, value: Any) -> bool:
        """Whether it is a tensor that was there before the first step."""
        known = self.names.get(id(value), "given")
        return isinstance(value, Tensor) and known.startswith("given")

    def _literal(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self._name(value)
        if isinstance(value, list) and value and all(map(self._is_given, value)):
            # TorchScript leaves out what only writes to the elements of a list that it has made.
            self.given.append(value)
            return f"given{len(self.given) - 1}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._literal(item) for item in value)}]"
        if isinstance(value, torch.dtype | torch.memory_format | torch.layout) or value is None:
            return str(value)
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        if isinstance(value, bool | int | str) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            return repr(value)
        raise _WordlessError


@lru_cache(maxsize=64)
def _compiled(source: str) -> _Function:
    """Compile a function; stacks of the same kind write down the same one."""
    function: _Function = torch.jit.CompilationUnit(source).steps
    return function
