"""A fitted module as an ONNX file, checked by onnxruntime before it is there."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from torchreg._serialization import write_atomically
from torchreg._utils import did_you_mean
from torchreg.exceptions import ExportError
from torchreg.export.graph import Source, first_line, trace, undisturbed

#: The oldest operator set that torch writes without converting, so the most runtimes read it:
#: onnxruntime 1.14 (2023) and later.
OPSET = 18
#: Of a file in bytes: the limit of protocol buffers.
LARGEST_FILE = 2**31 - 1
#: Names of the graph's input, output and its first dimension.
INPUT, OUTPUT, N_ROWS = "X", "y", "n_samples"

_PACKAGES = ("torchreg", "torch", "scikit-learn", "onnx")


@dataclass(frozen=True)
class Labels:
    """What the columns are called and measured in.

    Parameters
    ----------
    feature_names : sequence of str or None
    feature_units : sequence of str or None, one each, or None
    target_units : sequence of str or None, one each, or None
    """

    feature_names: Sequence[str] | None = None
    feature_units: Sequence[str | None] | None = None
    target_units: Sequence[str | None] | None = None

    def for_columns(self, n_columns: int) -> Labels:
        """Repeat the units of the outputs, where the module gives several columns for each."""
        if not self.target_units:
            return self
        times = n_columns // len(self.target_units)
        return replace(self, target_units=[u for u in self.target_units for _ in range(times)])


def label(
    n_features: int,
    n_outputs: int,
    feature_names: Sequence[str] | None,
    feature_units: Mapping[str, str] | Sequence[str] | None,
    target_units: str | Sequence[str] | None,
) -> Labels:
    """Put names and units beside the columns.

    Raises
    ------
    ValueError
        If there are more or fewer units than columns, or one is for an unknown column.

    Examples
    --------
    >>> label(2, 1, ["flipper", "year"], {"flipper": "mm"}, "g")
    Labels(feature_names=['flipper', 'year'], feature_units=['mm', None], target_units=['g'])
    """
    names = None if feature_names is None else [str(name) for name in feature_names]
    if isinstance(feature_units, Mapping):
        for name in feature_units:
            if name not in (names or []):
                raise ValueError(
                    f"feature_units has a unit for {name!r}, which X has no column for."
                    f"{did_you_mean(str(name), names or [])}"
                )
        feature_units = [feature_units.get(name) for name in names or []]  # type: ignore[misc]
    return Labels(
        names,
        _one_each(feature_units, n_features, name="feature_units", of="features"),
        _one_each(target_units, n_outputs, name="target_units", of="outputs"),
    )


def _one_each(
    units: str | Sequence[str | None] | None, count: int, *, name: str, of: str
) -> list[str | None] | None:
    if units is None:
        return None
    listed: list[str | None] = [units] if isinstance(units, str) else list(units)
    if len(listed) != count:
        raise ValueError(f"{name} expects one unit for each of {count} {of}, got {listed}.")
    return listed


def write_onnx(source: Source, path: str | os.PathLike[str], labels: Labels) -> None:
    """Write a module as an ONNX file, if onnxruntime computes what ``predict`` does.

    Parameters
    ----------
    source : Source
    path : str or path-like
        A file that is there already is replaced when the new one is whole.
    labels : Labels

    Raises
    ------
    ExportError
        If the module cannot be written as a graph, onnxruntime cannot compute it, or it
        gives other predictions.
    ImportError
        If onnx, onnxruntime or onnxscript is missing.
    """
    with undisturbed():
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _require(package)
    size = sum(t.numel() * t.element_size() for t in source.module.state_dict().values())
    if size > LARGEST_FILE:
        raise ExportError(
            f"The network holds {size:,} bytes, and an ONNX file at most {LARGEST_FILE:,}. "
            "to_exported_program has no limit."
        )
    yardstick = source.yardstick()
    # onnxruntime has no kernels in float64 for many an operator (Elu, Erf, Conv, GRU ...).
    cores = [source.dtype, *([torch.float32] if source.dtype != torch.float32 else [])]
    for core in cores:
        model = _translate(source, yardstick.rows, core)
        _describe(model, source, labels, core)
        content: bytes = model.SerializeToString()
        try:
            found = _compute(content, [rows for rows, _ in yardstick.batches])
            break
        except Exception as error:
            if core == torch.float32:
                raise ExportError(
                    f"onnxruntime cannot compute the graph: {first_line(error)}"
                ) from error
    yardstick.hold(found, by="onnxruntime")
    write_atomically(path, content)


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f'An ONNX file cannot be written without {package}: pip install "torchreg[onnx]"'
        ) from error


def _translate(source: Source, rows: Tensor, core: torch.dtype) -> Any:
    """Translate a program into an ``onnx.ModelProto`` of standard operators."""
    program = trace(source, rows, core=core)
    rrelu = torch.ops.aten.rrelu.default
    try:
        with undisturbed():
            if any(node.target is rrelu for node in program.graph.nodes):
                program = program.run_decompositions({rrelu: _rrelu})
            translated = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
            )
            assert translated is not None  # With dynamo=True it never is.
            return translated.model_proto
    except Exception as error:
        raise ExportError(
            "The module cannot be written as an ONNX graph: it uses an operation that has no "
            f"translation. (torch.onnx: {first_line(error)})"
        ) from error


def _rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: object, **__: object
) -> Tensor:
    """Compute RReLU as it is when nothing is trained: with the mean slope."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def _describe(model: Any, source: Source, labels: Labels, core: torch.dtype) -> None:
    """Say what goes in and out, and drop what torch noted: names, and lines of source code."""
    import onnx

    graph = model.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = N_ROWS
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.producer_version = "torchreg", version("torchreg")
    graph.name = "torchreg"
    features = _columns(labels.feature_names, labels.feature_units, source.n_features)
    targets = _columns(None, labels.target_units, source.n_outputs)
    graph.input[0].doc_string = f"Raw units, one row per sample; columns: {features}."
    graph.output[0].doc_string = f"Raw units, one row per sample; columns: {targets}."
    model.doc_string = (
        f"A regressor by torchreg, raw units in and out: {INPUT} of shape ({N_ROWS}, "
        f"{source.n_features}) in float64 gives {OUTPUT} of shape ({N_ROWS}, {source.n_outputs}) "
        "in float64."
    )
    facts: dict[str, Any] = {
        "versions": {package: version(package) for package in _PACKAGES},
        "core_dtype": str(core).removeprefix("torch."),
    }
    for key in ("feature_names", "feature_units", "target_units"):
        if getattr(labels, key) is not None:
            facts[key] = getattr(labels, key)
    onnx.helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in facts.items()
        },
    )
    onnx.checker.check_model(model, full_check=True)


def _columns(
    names: Sequence[str] | None, units: Sequence[str | None] | None, count: int, at_most: int = 50
) -> str:
    words = [
        f"{names[i] if names else i}{f' [{units[i]}]' if units and units[i] else ''}"
        for i in range(min(count, at_most))
    ]
    return ", ".join(words) + (f", ... {count} in all" if count > at_most else "")


def _compute(content: bytes, batches: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What is wrong comes as an exception.
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0]) for x in batches]
