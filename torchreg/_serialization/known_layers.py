"""Modules that a file describes in full, so that loading them needs no code of the user's.

To add a module, add an entry to :data:`LAYERS`: its class, and the arguments of its constructor,
which must be attributes of the same names. Layers that do not map one tensor to one (recurrent
layers, attention), or that can make a small input large (transposed convolutions, upsampling),
are left out; a network with such a layer is treated as a module of the user's.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from torch import nn

from torchreg.nn import (
    MLP,
    AddConstant,
    AverageMembers,
    BinEmbedding,
    Ensemble,
    Exponential,
    FrozenLinear,
    LinearPath,
    Link,
    MemberLinear,
    MultiplyByConstant,
    Normal,
    PeriodicEmbedding,
    Quantiles,
    RobustStandardize,
    Scale,
    ScaledAndClipped,
    Standardize,
    TabularMLP,
    Unstandardize,
)

_INPLACE = ("inplace",)
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_POOL = ("kernel_size", "stride", "padding")

#: Layers and losses, and their arguments. ``bias`` is whether the layer has one.
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    # Weights.
    nn.Linear: ("in_features", "out_features", "bias"),
    MemberLinear: ("n_members", "in_features", "out_features", "bias"),
    PeriodicEmbedding: (
        "in_features",
        "columns",
        "n_frequencies",
        "n_outputs",
        "frequency_scale",
    ),
    BinEmbedding: ("in_features", "columns", "n_bins", "n_outputs"),
    Scale: ("n_features",),
    nn.Conv1d: _CONV,
    nn.Conv2d: _CONV,
    # Normalization.
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
    nn.InstanceNorm1d: _NORM,
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    # Activations.
    nn.CELU: ("alpha", "inplace"),
    nn.ELU: ("alpha", "inplace"),
    nn.GELU: ("approximate",),
    nn.GLU: ("dim",),
    nn.Hardshrink: ("lambd",),
    nn.Hardsigmoid: _INPLACE,
    nn.Hardswish: _INPLACE,
    nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.LogSigmoid: (),
    nn.LogSoftmax: ("dim",),
    nn.Mish: _INPLACE,
    nn.PReLU: ("num_parameters", "init"),
    nn.RReLU: ("lower", "upper", "inplace"),
    nn.ReLU: _INPLACE,
    nn.ReLU6: _INPLACE,
    nn.SELU: _INPLACE,
    nn.SiLU: _INPLACE,
    nn.Sigmoid: (),
    nn.Softmax: ("dim",),
    nn.Softmin: ("dim",),
    nn.Softplus: ("beta", "threshold"),
    nn.Softshrink: ("lambd",),
    nn.Softsign: (),
    nn.Tanh: (),
    nn.Tanhshrink: (),
    nn.Threshold: ("threshold", "value", "inplace"),
    # Dropout.
    nn.AlphaDropout: ("p", "inplace"),
    nn.Dropout: ("p", "inplace"),
    nn.Dropout1d: ("p", "inplace"),
    nn.Dropout2d: ("p", "inplace"),
    nn.FeatureAlphaDropout: ("p", "inplace"),
    # Shapes.
    AverageMembers: (),
    nn.AvgPool1d: (*_POOL, "ceil_mode", "count_include_pad"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Identity: (),
    nn.MaxPool1d: (*_POOL, "dilation", "return_indices", "ceil_mode"),
    nn.Unflatten: ("dim", "unflattened_size"),
    # Links.
    Exponential: (),
    Normal: (),
    Quantiles: ("levels",),
    # Losses.
    nn.HuberLoss: ("reduction", "delta"),
    nn.KLDivLoss: ("reduction", "log_target"),
    nn.L1Loss: ("reduction",),
    nn.MSELoss: ("reduction",),
    nn.PoissonNLLLoss: ("log_input", "full", "eps", "reduction"),
    nn.SmoothL1Loss: ("reduction", "beta"),
    nn.SoftMarginLoss: ("reduction",),
}

#: Modules built from their buffers: the names of these, in order, and of other arguments.
CONSTANTS: dict[type[nn.Module], tuple[tuple[str, ...], tuple[str, ...]]] = {
    AddConstant: (("constant",), ()),
    FrozenLinear: (("weight", "bias"), ()),
    MultiplyByConstant: (("constant",), ()),
    RobustStandardize: (("center", "scale", "binary"), ("dtype",)),
    ScaledAndClipped: (("center", "scale", "binary", "low", "high"), ("dtype",)),
    Standardize: (("mean", "scale"), ("dtype",)),
    Unstandardize: (("mean", "scale"), ()),
}

#: Layers that may follow a network, before its outputs are unscaled.
LINKS: tuple[type[Link], ...] = (Exponential, Normal, Quantiles)

#: Modules that are described by their children.
CONTAINERS: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    MLP,
    TabularMLP,
    nn.ModuleList,
    Ensemble,
    LinearPath,
)


def layer_arguments(layer: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments of a layer."""
    return {
        name: layer._parameters.get("bias") is not None if name == "bias" else getattr(layer, name)
        for name in LAYERS[type(layer)]
    }


def build_layer(kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Build a layer without memory for its parameters.

    Raises
    ------
    ValueError
        If an argument is unknown, or would make a small input large.
    Exception
        Any error of the constructor.
    """
    unknown = sorted(arguments.keys() - set(LAYERS[kind]))
    if unknown:
        raise ValueError(f"{kind.__name__} has no arguments {unknown}")
    if kind in (nn.Conv1d, nn.Conv2d):
        _check_padding(**arguments)
    device = {"device": "meta"} if kind in _kinds_with_device() else {}
    layer = kind(**arguments, **device)
    # A link computes buffers from its arguments; the file's buffers replace them.
    return layer.to("meta") if kind in LINKS else layer


@cache
def _kinds_with_device() -> set[type[nn.Module]]:
    return {kind for kind in LAYERS if "device" in inspect.signature(kind).parameters}


def _check_padding(*, padding: Any, kernel_size: Any, dilation: Any, **others: Any) -> None:
    """Require that padding adds at most what the kernel removes."""
    if isinstance(padding, str):
        return
    for added, size, step in zip(padding, kernel_size, dilation, strict=True):
        if not 0 <= added <= step * size:
            raise ValueError(f"padding={added} with kernel_size={size}")
