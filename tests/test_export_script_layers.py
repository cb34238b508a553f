"""Layers are written as calls with all their arguments, and come back as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchreg.export.script.layers import (
    OWN,
    LayerSource,
    as_layers,
    check_written_once,
    state_of,
)
from torchreg.export.script.layout import flat
from torchreg.export.script.source import NotWritableError
from torchreg.nn import MLP, AddConstant

LAYERS = {
    "nn.Linear(1, 5)": nn.Linear(1, 5),
    "nn.Linear(3, 2, bias=False)": nn.Linear(3, 2, bias=False),
    "nn.Dropout(p=0.5)": nn.Dropout(),
    "nn.AlphaDropout(p=0.1)": nn.AlphaDropout(0.1),
    "nn.ReLU()": nn.ReLU(),
    "nn.ReLU(inplace=True)": nn.ReLU(inplace=True),
    "nn.LeakyReLU(negative_slope=0.2)": nn.LeakyReLU(0.2),
    "nn.ELU(alpha=0.5)": nn.ELU(0.5),
    'nn.GELU(approximate="tanh")': nn.GELU(approximate="tanh"),
    "nn.PReLU(num_parameters=4)": nn.PReLU(4),
    "nn.Softplus(beta=2)": nn.Softplus(2),
    "nn.Softmax(dim=1)": nn.Softmax(dim=1),
    "nn.BatchNorm1d(4, eps=0.001, affine=False)": nn.BatchNorm1d(4, eps=0.001, affine=False),
    "nn.LayerNorm((4,), bias=False)": nn.LayerNorm(4, bias=False),
    "nn.GroupNorm(2, 4)": nn.GroupNorm(2, 4),
    "nn.Bilinear(2, 3, 4)": nn.Bilinear(2, 3, 4),
    "nn.Flatten()": nn.Flatten(),
    "nn.Unflatten(1, (1, 4))": nn.Unflatten(1, (1, 4)),
    "nn.Conv1d(1, 4, (3,), padding=(1,), bias=False)": nn.Conv1d(1, 4, 3, padding=1, bias=False),
    "nn.AvgPool1d((2,))": nn.AvgPool1d(2),
    "nn.MaxPool1d(2, stride=1)": nn.MaxPool1d(2, stride=1),
    "nn.Embedding(5, 2, padding_idx=0)": nn.Embedding(5, 2, padding_idx=0),
    "nn.LSTM(3, 4, bias=False, batch_first=True)": nn.LSTM(3, 4, bias=False, batch_first=True),
    "nn.Identity()": nn.Identity(),
    "AddConstant(-200.0)": AddConstant(-200),
    "nn.Sequential(nn.Linear(1, 2), nn.Tanh())": nn.Sequential(nn.Linear(1, 2), nn.Tanh()),
    "nn.ModuleList([nn.Linear(1, 2)])": nn.ModuleList([nn.Linear(1, 2)]),
    "assembled(nn.Sequential, only=nn.Linear(1, 2))": nn.Sequential(),
}
LAYERS["assembled(nn.Sequential, only=nn.Linear(1, 2))"].add_module("only", nn.Linear(1, 2))


def source() -> LayerSource:
    empty = LayerSource(OWN)
    empty.with_values = False
    return empty


@pytest.mark.parametrize("written", LAYERS)
def test_a_layer_is_the_call_that_made_it(written: str) -> None:
    assert flat(source().module(LAYERS[written])) == written


def assembled(cls: type[nn.Module], **parts: Any) -> nn.Module:
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, part in parts.items():
        setattr(module, name, part)
    return module


class SelectedModel(nn.Module):
    """Keeps its argument under another name, a buffer in the state and one beside it."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.width = n
        self.weight = nn.Parameter(torch.randn(n), requires_grad=False)
        self.register_buffer("count", torch.tensor(float(n)))
        self.register_buffer("grid", torch.arange(float(n)), persistent=False)
        self.register_parameter("bias", None)


@pytest.mark.parametrize(
    "module",
    [
        SelectedModel(3),
        nn.MultiheadAttention(4, 2, bias=False),
        nn.TransformerEncoderLayer(4, 2, 8),
        nn.Sequential(MLP(2, hidden_sizes=[3]), nn.ReLU()),
        nn.ModuleDict({"1st": nn.Linear(1, 1), "2nd": nn.ReLU()}),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_does_not_tell_how_it_was_called_is_put_together_from_its_parts(
    module: nn.Module,
) -> None:
    layers = source()
    written = flat(layers.module(module))
    names: dict[str, Any] = {"assembled": assembled}
    exec("\n".join([*layers.imports.values(), *layers.definitions.values()]), names)
    again = eval(written, names)
    again.load_state_dict(module.state_dict())
    state, expected = again.state_dict(), module.state_dict()
    assert list(state) == list(expected)
    assert all(map(torch.equal, state.values(), expected.values()))
    for (name, p), (other, q) in zip(
        again.named_parameters(), module.named_parameters(), strict=True
    ):
        assert (name, p.requires_grad) == (other, q.requires_grad)
    for p, q in zip(again.buffers(), module.buffers(), strict=True):
        assert torch.equal(p, q)


def test_a_loss_is_written_with_the_values_of_its_tensors() -> None:
    layers = LayerSource(OWN)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.5]))
    again = eval(flat(layers.module(loss)), {"nn": nn, "torch": torch, "assembled": assembled})
    assert torch.equal(again.weight, loss.weight)


def test_a_sequence_is_its_layers_and_anything_else_is_one() -> None:
    assert [type(layer) for layer in as_layers(MLP(1, hidden_sizes=[2]))] == [
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]
    assert len(as_layers(nn.Linear(1, 1))) == 1


def test_the_state_has_the_scripts_names_and_no_constants() -> None:
    layers = nn.Sequential(AddConstant(1.0), nn.Sequential(nn.Linear(1, 1), AddConstant(2.0)))
    state = state_of(layers, first=2)
    assert list(state) == ["3.0.weight", "3.0.bias"]
    state["3.0.bias"].fill_(9)
    assert layers[1][0].bias.item() != 9


def test_a_layer_in_two_places_is_refused_unless_it_has_no_parameters() -> None:
    relu, linear = nn.ReLU(), nn.Linear(1, 1)
    check_written_once(nn.Sequential(relu, linear, relu))
    with pytest.raises(NotWritableError, match="the same parameters in two places"):
        check_written_once(nn.Sequential(linear, relu, linear))


def test_what_cannot_be_named_is_refused() -> None:
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(1, 1))
    with pytest.raises(NotWritableError):
        source().module(parametrized)
