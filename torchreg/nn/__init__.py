"""Torch modules: constants, scaling, networks and their layers, links, ensembles.

Each can be used in any ``nn.Sequential``, with or without :class:`torchreg.TorchRegressor`.
"""

from torchreg.nn.affine import AddConstant, MultiplyByConstant, Standardize, Unstandardize
from torchreg.nn.embeddings import BinEmbedding, PeriodicEmbedding
from torchreg.nn.ensemble import Ensemble
from torchreg.nn.linear_path import LinearPath
from torchreg.nn.links import Exponential, Link, Normal, Quantiles
from torchreg.nn.members import AverageMembers, MemberLinear
from torchreg.nn.mlp import MLP
from torchreg.nn.robust import RobustStandardize, ScaledAndClipped
from torchreg.nn.scale import Scale
from torchreg.nn.tabular import FrozenLinear, TabularMLP

__all__ = [
    "MLP",
    "AddConstant",
    "AverageMembers",
    "BinEmbedding",
    "Ensemble",
    "Exponential",
    "FrozenLinear",
    "LinearPath",
    "Link",
    "MemberLinear",
    "MultiplyByConstant",
    "Normal",
    "PeriodicEmbedding",
    "Quantiles",
    "RobustStandardize",
    "Scale",
    "ScaledAndClipped",
    "Standardize",
    "TabularMLP",
    "Unstandardize",
]
