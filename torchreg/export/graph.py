"""A fitted module as a graph: one ``torch.export`` program, held against ``predict``."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchreg.exceptions import ExportError
from torchreg.export.agreement import SAMPLE_RANGE, ReferenceOutputs, rows_within
from torchreg.nn import Ensemble

#: torch.export changes what belongs to the whole process, and so do filters of warnings.
_ONE_AT_A_TIME = threading.RLock()
_TALKATIVE = ("torch", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Source:
    """A fitted module, and what a graph of it is held against.

    Parameters
    ----------
    module : nn.Sequential or Ensemble
        Raw units to raw units, with the child ``network`` and perhaps ``standardize`` and
        ``unstandardize``; or several such. It is copied, never touched.
    n_features, n_outputs : int
        Widths of X and y.
    dtype : torch.dtype
        In which the network computes.
    predict : callable
        Rows (n, n_features) in float64 to predictions (n, n_outputs), both in raw units.
    rows : Tensor of shape (n, n_features) or None, default=None
        Rows to compare on, in raw units. ``None`` makes them up within three standard
        deviations of the means that the module holds.
    """

    module: nn.Module
    n_features: int
    n_outputs: int
    dtype: torch.dtype
    predict: Callable[[Tensor], Tensor]
    rows: Tensor | None = None

    def yardstick(self) -> ReferenceOutputs:
        """Predict the rows to compare on: many at once, and one alone.

        Raises
        ------
        ExportError
            If there are no rows to compare on, or rows that were made up have no prediction.
        """
        first = self.module.members[0] if isinstance(self.module, Ensemble) else self.module
        standardize = getattr(first, "standardize", None)
        unstandardize = getattr(first, "unstandardize", None)
        rows = self.rows
        if rows is None:
            if standardize is None:
                raise ExportError(
                    "A graph is checked on rows within the range of the training rows, but this "
                    "network does not standardize X and so does not know it: give X, some rows "
                    "of the training data."
                )
            rows = rows_within(standardize.mean, standardize.scale, self.n_features)
        rows = rows.to("cpu", torch.float64)
        try:
            batches = [(some, self.predict(some).cpu()) for some in (rows, rows[:1])]
        except (ValueError, RuntimeError, IndexError) as error:
            if self.rows is not None:
                raise
            raise ExportError(
                f"The rows that a graph is checked on, {SAMPLE_RANGE:g} standard deviations around "
                f"the mean of the training rows, cannot be predicted: {error} Give X, some rows of "
                "the training data, to check it on those."
            ) from error
        scale = None if unstandardize is None else unstandardize.scale.cpu()
        return ReferenceOutputs(batches, scale)


def checked_program(source: Source) -> torch.export.ExportedProgram:
    """Write a module as a program of ``torch.export``, and hold it against ``predict``.

    Parameters
    ----------
    source : Source

    Returns
    -------
    torch.export.ExportedProgram
        From X of shape (n, n_features) in float64 to y of shape (n, n_outputs), in raw
        units, for any number of rows n of 1 or more. It needs torch alone.

    Raises
    ------
    ExportError
        If the module cannot be written as a graph, or the graph gives other predictions.
    """
    yardstick = source.yardstick()
    program = trace(source, yardstick.rows)
    compute = program.module()
    with torch.no_grad():
        yardstick.hold([compute(rows) for rows, _ in yardstick.batches], by="The program")
    return program


def trace(
    source: Source, rows: Tensor, *, core: torch.dtype | None = None
) -> torch.export.ExportedProgram:
    """Write a module as a program, unchecked.

    Parameters
    ----------
    source : Source
    rows : Tensor of shape (n, n_features)
        Rows that the module can predict, float64.
    core : torch.dtype or None, default=None
        Another dtype for the network between the scaling layers.

    Returns
    -------
    torch.export.ExportedProgram

    Raises
    ------
    ExportError
        If the module cannot be written as a graph; why is in the message.
    """
    module = _standing_alone(source, core or source.dtype)
    # (1, n_features) -> (3, n_features): a program traced with one row would be for one row.
    example = rows[:1].repeat(3, 1)
    n_rows = torch.export.Dim("n_samples")
    try:
        # A graph that it cannot finish it prints.
        with undisturbed(), contextlib.redirect_stderr(io.StringIO()):
            program = torch.export.export(
                module, (example,), dynamic_shapes=({0: n_rows},), strict=False
            )
    except Exception as error:
        raise ExportError(
            f"The module cannot be written as a graph: {_reason(error)} (torch.export: "
            f"{first_line(error)})"
        ) from error
    # What torch noted beside the graph, and would save: a row of data, lines of source code.
    program.example_inputs = None
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _standing_alone(source: Source, core: torch.dtype) -> nn.Module:
    """Copy a module to the CPU, for float64 rows in and predictions (n, n_outputs) out."""
    copied = copy.deepcopy(source.module).cpu().eval()
    if isinstance(copied, Ensemble):
        return Ensemble(_in_float64(member, source, core) for member in copied.members)
    return _in_float64(copied, source, core)


def _in_float64(module: nn.Module, source: Source, core: torch.dtype) -> nn.Sequential:
    """Make a module of one network ready for rows in float64."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(module.named_children())
    if core != source.dtype:
        layers["network"].to(core)
    if "standardize" in layers:
        layers["standardize"].dtype = core  # type: ignore[assignment]
    else:
        layers["cast"] = _Cast(core)
        layers.move_to_end("cast", last=False)
    layers["rows"] = _Rows(source.n_outputs)
    return nn.Sequential(layers)


class _Cast(nn.Module):
    """Bring rows to the dtype of a network that does not standardize them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, copy=True)


class _Rows(nn.Module):
    """Give predictions one row each, in float64."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def forward(self, y: Tensor) -> Tensor:
        # (n,) -> (n, 1)
        return (y if y.ndim == 2 else y.reshape(-1, self.n_outputs)).to(torch.float64)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let torch write a graph without a word, and without a trace in this process."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("torch.")]
    with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in (*_TALKATIVE, *names)]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            "it decides by the values of its input (if, while, int() or .item() of a tensor), "
            "which a graph cannot. torch.where chooses by value."
        )
    if "Constraints violated" in str(error):
        return "it depends on the number of rows, and a graph is for any number."
    return "it does something that torch.export does not follow."


def first_line(error: BaseException) -> str:
    """Give the first line of the error that all others came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
