"""A fitted module as a program of ``torch.export``, compared with ``predict``."""

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
from torchreg.export.agreement import SAMPLE_RANGE, ReferenceOutputs, sample_rows
from torchreg.export.batched import batch_ensemble
from torchreg.nn import Ensemble

#: torch.export and filters of warnings change the state of the process.
_EXPORT_LOCK = threading.RLock()
_LOGGERS = ("torch", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Source:
    """A fitted module, and the predictions that a graph of it must give.

    Parameters
    ----------
    module : nn.Sequential or Ensemble
        Maps raw units to raw units, with the child ``network`` and optionally ``standardize`` and
        ``unstandardize``, or an ensemble of such modules. It is copied and not changed.
    n_features, n_outputs : int
        The numbers of columns of X and y.
    dtype : torch.dtype
        The dtype of the network.
    predict : callable
        Maps rows (n, n_features) in float64 to predictions (n, n_outputs), both in raw units.
    rows : Tensor of shape (n, n_features) or None, default=None
        Rows to compare on, in raw units. ``None`` samples them within three standard
        deviations of the means in ``standardize``.
    """

    module: nn.Module
    n_features: int
    n_outputs: int
    dtype: torch.dtype
    predict: Callable[[Tensor], Tensor]
    rows: Tensor | None = None

    def reference_outputs(self) -> ReferenceOutputs:
        """Predict the rows to compare on: all at once, and the first alone.

        Raises
        ------
        ExportError
            If there are no rows to compare on, or sampled rows cannot be predicted.
        """
        first = self.module.members[0] if isinstance(self.module, Ensemble) else self.module
        standardize = getattr(first, "standardize", None)
        unstandardize = getattr(first, "unstandardize", None)
        rows = self.rows
        if rows is None:
            if standardize is None:
                raise ExportError(
                    "A graph is checked on rows in the range of the training data, which this "
                    "network does not contain, because it does not standardize X: pass X, some "
                    "rows of the training data."
                )
            rows = sample_rows(standardize.mean, standardize.scale, self.n_features)
        rows = rows.to("cpu", torch.float64)
        try:
            batches = [(some, self.predict(some).cpu()) for some in (rows, rows[:1])]
        except (ValueError, RuntimeError, IndexError) as error:
            if self.rows is not None:
                raise
            raise ExportError(
                f"The rows to check a graph on, within {SAMPLE_RANGE:g} standard deviations "
                f"of the mean of the training data, cannot be predicted: {error} Pass X, some rows "
                "of the training data, to check it on these."
            ) from error
        scale = None if unstandardize is None else unstandardize.scale.cpu()
        return ReferenceOutputs(batches, scale)


def checked_program(source: Source) -> torch.export.ExportedProgram:
    """Convert a module to a program of ``torch.export``, and compare it with ``predict``.

    Parameters
    ----------
    source : Source

    Returns
    -------
    torch.export.ExportedProgram
        Maps X of shape (n, n_features) in float64 to y of shape (n, n_outputs), in raw
        units, for any n of 1 or more. It needs only torch.

    Raises
    ------
    ExportError
        If the module cannot be converted, or the program gives other predictions.
    """
    reference = source.reference_outputs()
    program = trace(source, reference.rows)
    compute = program.module()
    with torch.no_grad():
        reference.check([compute(rows) for rows, _ in reference.batches], name="The program")
    return program


def trace(
    source: Source, rows: Tensor, *, core: torch.dtype | None = None
) -> torch.export.ExportedProgram:
    """Convert a module to a program without comparing it.

    Parameters
    ----------
    source : Source
    rows : Tensor of shape (n, n_features)
        Rows that the module can predict, float64.
    core : torch.dtype or None, default=None
        The dtype of the network between the scaling layers, if not that of ``source``.

    Returns
    -------
    torch.export.ExportedProgram

    Raises
    ------
    ExportError
        If the module cannot be converted, with the reason.
    """
    module = _prepare_module(source, core or source.dtype)
    # (1, n_features) -> (3, n_features): a program traced with one row would be for one row.
    example = rows[:1].repeat(3, 1)
    n_rows = torch.export.Dim("n_samples")
    try:
        # torch prints an incomplete graph to stderr.
        with silenced(), contextlib.redirect_stderr(io.StringIO()):
            program = torch.export.export(
                module, (example,), dynamic_shapes=({0: n_rows},), strict=False
            )
    except Exception as error:
        raise ExportError(
            f"The module cannot be converted to a graph: {_reason(error)} (torch.export: "
            f"{first_line(error)})"
        ) from error
    # Saved programs would contain a row of data and lines of source code.
    program.example_inputs = None
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _prepare_module(source: Source, core: torch.dtype) -> nn.Module:
    """Copy a module to the CPU, with float64 input and output of shape (n, n_outputs)."""
    copied = copy.deepcopy(source.module).cpu().eval()
    if isinstance(copied, Ensemble):
        return Ensemble(_with_float64_io(member, source, core) for member in copied.members)
    return _with_float64_io(copied, source, core)


def _with_float64_io(module: nn.Module, source: Source, core: torch.dtype) -> nn.Sequential:
    """Add the conversions from and to float64 to the module of one network."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(module.named_children())
    if core != source.dtype:
        layers["network"].to(core)
    layers["network"] = batch_ensemble(layers["network"])
    if "standardize" in layers:
        layers["standardize"].dtype = core  # type: ignore[assignment]  # not a submodule
    else:
        layers["cast"] = _Cast(core)
        layers.move_to_end("cast", last=False)
    layers["outputs"] = _Outputs(source.n_outputs)
    return nn.Sequential(layers)


class _Cast(nn.Module):
    """Convert rows to the dtype of a network that does not standardize them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, copy=True)


class _Outputs(nn.Module):
    """Convert predictions to two dimensions and float64."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def forward(self, y: Tensor) -> Tensor:
        # (n,) -> (n, 1)
        return (y if y.ndim == 2 else y.reshape(-1, self.n_outputs)).to(torch.float64)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence warnings and loggers of torch, and restore them."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("torch.")]
    with _EXPORT_LOCK, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in (*_LOGGERS, *names)]
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
            "its control flow depends on the values of its input (if, while, int() or .item() of a "
            "tensor), which a graph does not support. Use torch.where instead."
        )
    if "Constraints violated" in str(error):
        return "it depends on the number of rows, which a graph must not."
    return "torch.export does not support one of its operations."


def first_line(error: BaseException) -> str:
    """Return the first line of the error that caused the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
