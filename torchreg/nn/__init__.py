"""Plain modules: fixed numbers, standardization, the default network, links, and several as one.

Each one is complete by itself and works in any ``nn.Sequential``, with or without
:class:`torchreg.TorchRegressor`.
"""

from torchreg.nn.constants import AddConstant, MultiplyByConstant
from torchreg.nn.ensemble import Ensemble
from torchreg.nn.links import Exponential, Link, Normal, Quantiles
from torchreg.nn.mlp import MLP
from torchreg.nn.standardize import Standardize, Unstandardize

__all__ = [
    "MLP",
    "AddConstant",
    "Ensemble",
    "Exponential",
    "Link",
    "MultiplyByConstant",
    "Normal",
    "Quantiles",
    "Standardize",
    "Unstandardize",
]
