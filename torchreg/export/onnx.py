"""A fitted module as an ONNX file, compared with ``predict`` before it is written."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchreg._serialization import write_atomically
from torchreg._utils import __version__, did_you_mean, installed_versions
from torchreg.exceptions import ExportError
from torchreg.export.graph import Source, first_line, silenced, trace

#: The oldest operator set that torch exports without a conversion: onnxruntime 1.14 (2023).
OPSET = 18
#: The largest size of a file in bytes: the limit of protocol buffers.
MAX_FILE_BYTES = 2**31 - 1
#: Names of the input, the output and their first dimension.
INPUT, OUTPUT, N_ROWS = "X", "y", "n_samples"

_PACKAGES = ("torch", "scikit-learn", "onnx")


@dataclass(frozen=True)
class Labels:
    """Names and units of the columns.

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
        """Repeat the units of y for modules with several columns per output."""
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
    """Assign names and units to the columns.

    Raises
    ------
    ValueError
        If the number of units is not that of columns, or a name is not a column of X.

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
                    f"feature_units has a unit for {name!r}, which is not a column of X."
                    f"{did_you_mean(str(name), names or [])}"
                )
        # A column without a unit has None.
        feature_units = [feature_units.get(name) for name in names or []]  # type: ignore[misc]
    return Labels(
        names,
        _check_units(feature_units, n_features, name="feature_units", of="features"),
        _check_units(target_units, n_outputs, name="target_units", of="outputs"),
    )


def _check_units(
    units: str | Sequence[str | None] | None, count: int, *, name: str, of: str
) -> list[str | None] | None:
    if units is None:
        return None
    listed: list[str | None] = [units] if isinstance(units, str) else list(units)
    if len(listed) != count:
        raise ValueError(f"{name} expects one unit for each of {count} {of}, got {listed}.")
    return listed


def write_onnx(source: Source, path: str | os.PathLike[str], labels: Labels) -> None:
    """Write a module to an ONNX file, if onnxruntime gives the predictions of ``predict``.

    Parameters
    ----------
    source : Source
    path : str or path-like
        Replaced atomically.
    labels : Labels

    Raises
    ------
    ExportError
        If the module cannot be converted, or onnxruntime cannot run the graph or gives other
        predictions.
    ImportError
        If onnx, onnxruntime or onnxscript is missing.
    """
    with silenced():
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _require(package)
    size = sum(t.numel() * t.element_size() for t in source.module.state_dict().values())
    if size > MAX_FILE_BYTES:
        raise ExportError(
            f"The network has {size:,} bytes; an ONNX file at most {MAX_FILE_BYTES:,}. "
            "Use to_exported_program instead."
        )
    reference = source.reference_outputs()
    # onnxruntime lacks float64 kernels of some operators (Elu, Erf, Conv, GRU).
    cores = [source.dtype, *([torch.float32] if source.dtype != torch.float32 else [])]
    for core in cores:
        model = _convert(source, reference.rows, core)
        _set_metadata(model, source, labels, core)
        content: bytes = model.SerializeToString()
        try:
            found = _run(content, [rows for rows, _ in reference.batches])
            break
        except Exception as error:
            if core == torch.float32:
                raise ExportError(
                    f"onnxruntime cannot run the graph: {first_line(error)}"
                ) from error
    reference.check(found, name="onnxruntime")
    write_atomically(path, content)


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f'{package} is needed to write ONNX files: pip install "torch-regressor[onnx]"'
        ) from error


def _convert(source: Source, rows: Tensor, core: torch.dtype) -> Any:
    """Convert a program to an ``onnx.ModelProto`` of standard operators."""
    program = trace(source, rows, core=core)
    rrelu = torch.ops.aten.rrelu.default
    try:
        with silenced():
            if any(node.target is rrelu for node in program.graph.nodes):
                program = program.run_decompositions({rrelu: _rrelu})
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
            )
            assert converted is not None  # It is None only with dynamo=False.
            return converted.model_proto
    except Exception as error:
        raise ExportError(
            "The module cannot be converted to ONNX: torch.onnx does not support one of its "
            f"operations. (torch.onnx: {first_line(error)})"
        ) from error


def _rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: object, **__: object
) -> Tensor:
    """Compute RReLU in evaluation mode, with the mean slope."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def _set_metadata(model: Any, source: Source, labels: Labels, core: torch.dtype) -> None:
    """Replace the metadata of torch, which contain source code, by names, units and versions."""
    import onnx

    graph = model.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = N_ROWS
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.producer_version = "torchreg", __version__
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
    metadata: dict[str, Any] = {
        "versions": installed_versions(*_PACKAGES),
        "core_dtype": str(core).removeprefix("torch."),
    }
    for key in ("feature_names", "feature_units", "target_units"):
        if getattr(labels, key) is not None:
            metadata[key] = getattr(labels, key)
    onnx.helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in metadata.items()
        },
    )
    onnx.checker.check_model(model, full_check=True)


def _columns(
    names: Sequence[str] | None, units: Sequence[str | None] | None, count: int, limit: int = 50
) -> str:
    columns = [
        f"{names[i] if names else i}{f' [{units[i]}]' if units and units[i] else ''}"
        for i in range(min(count, limit))
    ]
    return ", ".join(columns) + (f", ... {count} in all" if count > limit else "")


def _run(content: bytes, batches: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors are raised as exceptions.
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0]) for x in batches]
