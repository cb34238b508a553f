"""The networks of the default as one module, so that their graph is as small as that of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchreg.engine.batched_network import can_batch
from torchreg.nn import Ensemble, TabularMLP
from torchreg.nn.mlp import sequential_layers


def batch_ensemble(network: nn.Module) -> nn.Module:
    """Return a module with the mean of an ensemble of :class:`TabularMLP` of one fit.

    Parameters
    ----------
    network : nn.Module
        On the CPU, in evaluation mode. Any other network is returned as it is.
    """
    if not isinstance(network, Ensemble):
        return network
    networks = [member for member in network.members if type(member) is TabularMLP]
    if len(networks) < len(network.members) or not can_batch(networks):
        return network
    first, *others = [_shared_buffers(member) for member in networks]
    if not all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True)):
        return network
    return _BatchedTabularMLP(networks)


def _shared_buffers(network: TabularMLP) -> list[Tensor]:
    return [t for part in (network.scale, network.line, network.bins) for t in part.buffers()]


class _BatchedTabularMLP(nn.Module):
    """The mean of several :class:`TabularMLP`; each layer is one product for all of them."""

    frequency: Tensor
    phase: Tensor
    wave_weight: Tensor
    bin_weight: Tensor
    constant: Tensor

    def __init__(self, networks: Sequence[TabularMLP]) -> None:
        super().__init__()
        first = networks[0]
        self.n_networks = len(networks)
        self.scale, self.line, self.bins = first.scale, first.line, first.bins
        self.embeds = bool(first.bins.out_features)
        if self.embeds:
            stacked = {
                name: torch.stack([network.get_parameter(name).detach() for network in networks])
                for name, _ in first.named_parameters()
                if not name.startswith("mlp")
            }
            # (m, n_columns, n_frequencies) -> (m, n_columns, n_frequencies, 1)
            frequency = 2 * math.pi * stacked["waves.frequency"]
            self.register_buffer("frequency", frequency.unsqueeze(3))
            self.register_buffer("phase", stacked["waves.phase"].unsqueeze(3))
            self.register_buffer("wave_weight", stacked["waves.weight"])
            weight = stacked["bins.weight"]
            # (m, n_columns, n_out, n_bins) -> (n_columns, m * n_out, n_bins)
            self.register_buffer("bin_weight", weight.transpose(0, 1).flatten(1, 2))
            constant = stacked["waves.bias"].unsqueeze(3) - weight @ first.bins.mean.unsqueeze(2)
            self.register_buffer("constant", constant)
        layers = [sequential_layers(network.mlp) or [] for network in networks]
        self.layers = nn.ModuleList(_batch_layers(same) for same in zip(*layers, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.scale(x)
        # (n, 2 * n_in) -> (n_in, n)
        z = both[:, both.shape[1] // 2 :].t()
        hidden = z.unsqueeze(0).expand(self.n_networks, -1, -1)
        if self.embeds:
            hidden = torch.cat([hidden, self._embed(z)], dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        # (m, n_out, n) -> (n, n_out)
        output: Tensor = self.line(both) + hidden.mean(dim=0).t()
        return output

    def _embed(self, z: Tensor) -> Tensor:
        """Embed columns: (n_in, n) to (m, n_columns * n_out, n)."""
        bins = self.bins
        columns = z if bins.index is None else z.index_select(0, bins.index)
        # (n_columns, m * n_out, n) -> (m, n_columns, n_out, n)
        encoded = torch.bmm(self.bin_weight, bins._encode(columns))
        encoded = encoded.unflatten(1, (self.n_networks, -1)).transpose(0, 1)
        cosines = torch.cos(columns.unsqueeze(1) * self.frequency + self.phase)
        embedded: Tensor = torch.matmul(self.wave_weight, cosines) + encoded + self.constant
        # (m, n_columns, n_out, n) -> (m, n_columns * n_out, n)
        return embedded.flatten(1, 2)


def _batch_layers(layers: Sequence[nn.Module]) -> nn.Module:
    first = layers[0]
    return _BatchedLinear(layers) if isinstance(first, nn.Linear) else first


class _BatchedLinear(nn.Module):
    """Linear layers of several networks: (m, n_in, n) to (m, n_out, n)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, p in layers[0].named_parameters():
            stacked = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            self.register_buffer(name, stacked if p.ndim == 2 else stacked.unsqueeze(2))

    def forward(self, x: Tensor) -> Tensor:
        product = torch.bmm(self.weight, x)
        bias = self._buffers.get("bias")
        return product if bias is None else product + bias
