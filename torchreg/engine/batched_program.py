"""The arithmetic of networks for tables that are computed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchreg.nn import Standardize, TabularMLP, Unstandardize
from torchreg.nn.robust import LIMIT, MAX_SCALED

Array = NDArray[Any]

#: Multiplications of one product up to which NumPy's OpenBLAS is faster than torch and uses one
#: thread, so that results do not depend on the number of threads.
_SMALL_PRODUCT = 2**18
#: Rows at a time: their intermediate results stay in a processor's cache.
_MAX_ROWS, _MIN_ROWS = 128, 32


class BatchedProgram:
    """Compute the mean of the networks, by NumPy, whose calls on few numbers take less time.

    The scaled columns, their bins and the skip connection, which the networks share, are computed
    once. Features come before rows: products of few columns with many rows are faster so.

    Parameters
    ----------
    before, after : sequence of nn.Module
        The scaling layers.
    first : TabularMLP
        The first network, whose buffers all share.
    layers : sequence of sequences of nn.Module
        For each layer of the multilayer perceptron, those of all networks.
    values : dict of int to array of shape (n_networks, ...)
        For each parameter of the first network, by identity, those of all networks; the weights
        of hidden layers are used in place.
    """

    def __init__(
        self,
        before: Sequence[Standardize],
        first: TabularMLP,
        layers: Sequence[Sequence[nn.Module]],
        values: dict[int, Array],
        after: Sequence[nn.Module],
    ) -> None:
        m = self.n_networks = len(layers[0])
        #: Functions from (m, n_in, n) to (m, n_out, n).
        self.steps: list[Callable[[Array], Array]] = []
        largest = 1
        for layer, *others in layers[:-1]:
            if isinstance(layer, nn.Linear):
                weights = [
                    part.get_parameter("weight").detach().numpy() for part in (layer, *others)
                ]
                bias = None if layer.bias is None else values[id(layer.bias)][:, :, np.newaxis]
                self.steps.append(partial(_linear, weights, bias))
                largest = max(largest, weights[0].size)
            else:
                self.steps.append(partial(_activation, layer))
        n_rows = _SMALL_PRODUCT // largest
        self.n_rows = min(n_rows, _MAX_ROWS) if n_rows >= _MIN_ROWS else _MAX_ROWS
        # The mean is part of the last layer: (m, n_out, n_units) -> (n_out, m * n_units)
        last: Any = layers[-1][0]
        self.last_weight = np.concatenate(values[id(last.weight)], axis=1) / m
        line = first.line
        self.line_weight, self.bias = line.weight.detach().numpy(), _column(line.bias)
        if last.bias is not None:
            self.bias = self.bias + values[id(last.bias)].mean(0)[:, np.newaxis]
        scale = first.scale
        self.center, self.divisor = _column(scale.center), _divisor(scale.scale)
        self.low, self.high = _column(scale.low), _column(scale.high)
        self.binary = np.flatnonzero(scale.binary.numpy())
        self.dtype = self.last_weight.dtype
        self.before = [(_column(layer.mean), _divisor(layer.scale)) for layer in before]
        self.after = [
            _unstandardizing(layer) if type(layer) is Unstandardize else layer for layer in after
        ]
        self.embeds = bool(first.bins.out_features)
        if self.embeds:
            waves, bins = first.waves, first.bins
            self.index = None if bins.index is None else bins.index.numpy()
            # (m, n_columns, n_frequencies) -> (m, n_columns, n_frequencies, 1)
            frequency = 2 * math.pi * values[id(waves.frequency)]
            self.frequency = torch.from_numpy(frequency[..., np.newaxis])
            self.phase = torch.from_numpy(values[id(waves.phase)][..., np.newaxis])
            self.wave_weight = values[id(waves.weight)]
            self.bin_low, self.slope = bins.low.unsqueeze(2), bins.slope.unsqueeze(2)
            # (m, n_columns, n_out, n_bins) -> (n_columns, m * n_out, n_bins)
            weight = values[id(bins.weight)]
            self.bin_weight = np.concatenate(weight, axis=1)
            # (m, n_columns, n_out) -> (m, n_columns, n_out, 1)
            constant = (
                values[id(waves.bias)]
                - (weight @ bins.mean.detach().numpy()[..., np.newaxis])[..., 0]
            )
            self.constant = constant[..., np.newaxis]

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the outputs: (n, n_in) to (n, n_out)."""
        rows = x.numpy()
        with np.errstate(all="ignore"):
            if len(rows) <= self.n_rows:
                output = self._compute(rows)
            else:
                output = np.empty((len(rows), len(self.bias)), self.dtype)
                for start in range(0, len(rows), self.n_rows):
                    some = slice(start, start + self.n_rows)
                    output[some] = self._compute(rows[some])
            y = torch.from_numpy(output)
            for layer in self.after:
                y = layer(y)
        return y

    def _compute(self, x: Array) -> Array:
        """Compute the mean of the networks: (n, n_in) to (n, n_out)."""
        # (n, n_in) -> (n_in, n)
        x = x.T
        for mean, scale in self.before:
            x = ((x - mean) / scale).astype(self.dtype, copy=False)
        # (2 * n_in, n)
        both = self._scale(x)
        hidden = self._embed(both[len(x) :])
        for step in self.steps:
            hidden = step(hidden)
        # (m, n_units, n) -> (m * n_units, n)
        output: Array = self.last_weight @ hidden.reshape(-1, hidden.shape[2])
        output += self.line_weight @ both
        output += self.bias
        return output.T

    def _scale(self, x: Array) -> Array:
        """Scale columns as :class:`ScaledAndClipped`: (n_in, n) to (2 * n_in, n)."""
        x = np.minimum(np.maximum(x, self.low), self.high)
        x -= self.center
        x /= self.divisor
        np.minimum(np.maximum(x, -MAX_SCALED, out=x), MAX_SCALED, out=x)
        both = np.empty((2, *x.shape), self.dtype)
        both[0] = x
        x = both[0]
        np.square(x / LIMIT, out=both[1])
        both[1] += 1
        np.sqrt(both[1], out=both[1])
        np.divide(x, both[1], out=both[1])
        both[1, self.binary] = x[self.binary]
        return both.reshape(-1, x.shape[1])

    def _embed(self, z: Array) -> Array:
        """Append embeddings to columns: (n_in, n) to (m, n_in + n_embedded, n)."""
        m, (n_in, n) = self.n_networks, z.shape
        if not self.embeds:
            return np.broadcast_to(z, (m, n_in, n))
        # Elementwise operations of torch take less time on many numbers.
        columns = torch.from_numpy(z if self.index is None else z[self.index]).unsqueeze(1)
        # (n_columns, n_bins, n)
        encoded = (columns - self.bin_low).mul_(self.slope).clamp_(0, 1).numpy()
        # (m, n_columns, n_frequencies, n)
        cosines = (columns * self.frequency).add_(self.phase).cos_().numpy()
        embedded = self.wave_weight @ cosines
        # (n_columns, m * n_out, n) -> (m, n_columns, n_out, n)
        bins = (self.bin_weight @ encoded).reshape(len(columns), m, -1, n)
        embedded += bins.swapaxes(0, 1)
        embedded += self.constant
        inputs = np.empty((m, n_in + embedded[0, ..., 0].size, n), self.dtype)
        inputs[:, :n_in] = z
        inputs[:, n_in:] = embedded.reshape(m, -1, n)
        return inputs


def _linear(weights: list[Array], bias: Array | None, x: Array) -> Array:
    """Apply a layer of each network: (m, n_in, n) to (m, n_out, n)."""
    output = np.empty((len(weights), len(weights[0]), x.shape[2]), x.dtype)
    for weight, some, out in zip(weights, x, output, strict=True):
        np.dot(weight, some, out)
    if bias is not None:
        output += bias
    return output


def _column(values: Tensor) -> Array:
    """Return values as a column, (n,) to (n, 1), or a number as (1, 1)."""
    return values.detach().numpy().reshape(-1, 1)


def _divisor(scale: Tensor) -> Array:
    """Return scales as a column; values of a constant column become 0."""
    return _column(scale.masked_fill(scale == 0, math.inf))


def _unstandardizing(layer: Unstandardize) -> Callable[[Tensor], Tensor]:
    """Return the function of a layer that is called without the layer."""
    mean, scale = layer.mean, layer.scale
    return lambda z: torch.addcmul(mean, scale, z.to(mean.dtype))


def _activation(layer: nn.Module, x: Array) -> Array:
    """Apply an activation to an array, which may be overwritten."""
    if type(layer) is nn.ReLU:
        return np.maximum(x, 0, out=x)
    output: Tensor = layer(torch.from_numpy(x))
    return output.numpy()
