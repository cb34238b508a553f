"""A description builds an equal module, and modules that it cannot build are refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from torchreg._serialization import (
    CONSTANTS,
    CONTAINERS,
    LAYERS,
    ImportAllowlist,
    Reader,
    UnwritableError,
    Writer,
    describe,
    read_module,
    write_module,
    write_network,
)
from torchreg.exceptions import FileError
from torchreg.nn import (
    MLP,
    AddConstant,
    AverageMembers,
    Ensemble,
    Exponential,
    LinearPath,
    MemberLinear,
    MultiplyByConstant,
    Normal,
    PeriodicEmbedding,
    Quantiles,
    RobustStandardize,
    Scale,
    Standardize,
    TabularMLP,
    Unstandardize,
)

#: Every layer of the table, with settings that are not the defaults, and an input.
X = torch.linspace(-2, 2, 24).reshape(4, 6)
IMAGE = X.reshape(2, 2, 6)
PLANE = X.reshape(1, 2, 3, 4)
ZOO: list[tuple[nn.Module, torch.Tensor]] = [
    (nn.Linear(6, 3, bias=False), X),
    (nn.Linear(6, 3), X),
    (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2, bias=False, padding_mode="circular"), IMAGE),
    (nn.Conv1d(2, 4, 3, padding="same", dilation=2), IMAGE),
    (nn.Conv2d(2, 3, (2, 3), padding=(1, 0)), PLANE),
    (nn.BatchNorm1d(6, eps=1e-3, momentum=None), X),
    (nn.BatchNorm1d(6, affine=False, track_running_stats=False), X),
    (nn.BatchNorm2d(2, momentum=0.3), PLANE),
    (nn.InstanceNorm1d(2, affine=True), IMAGE),
    (nn.LayerNorm(6, eps=1e-3, bias=False), X),
    (nn.LayerNorm((2, 6), elementwise_affine=False), IMAGE),
    (nn.RMSNorm(6, eps=0.1), X),
    (nn.GroupNorm(2, 6, eps=0.1, affine=False), X),
    (nn.CELU(0.5), X),
    (nn.ELU(0.5), X),
    (nn.GELU("tanh"), X),
    (nn.GLU(-1), X),
    (nn.Hardshrink(0.2), X),
    (nn.Hardsigmoid(), X),
    (nn.Hardswish(), X),
    (nn.Hardtanh(-0.5, 0.7), X),
    (nn.LeakyReLU(0.3), X),
    (nn.LogSigmoid(), X),
    (nn.LogSoftmax(1), X),
    (nn.Mish(), X),
    (nn.PReLU(6, init=0.1), X),
    (nn.RReLU(0.1, 0.2), X),
    (nn.ReLU(inplace=True), X),
    (nn.ReLU6(), X),
    (nn.SELU(), X),
    (nn.SiLU(), X),
    (nn.Sigmoid(), X),
    (nn.Softmax(-1), X),
    (nn.Softmin(1), X),
    (nn.Softplus(2, 10), X),
    (nn.Softshrink(0.1), X),
    (nn.Softsign(), X),
    (nn.Tanh(), X),
    (nn.Tanhshrink(), X),
    (nn.Threshold(0.1, -1.0), X),
    (nn.AlphaDropout(0.2), X),
    (nn.Dropout(0.2), X),
    (nn.Dropout1d(0.2), IMAGE),
    (nn.Dropout2d(0.2), PLANE),
    (nn.FeatureAlphaDropout(0.2), IMAGE),
    (nn.AvgPool1d(2, stride=1, padding=1, ceil_mode=True, count_include_pad=False), IMAGE),
    (nn.Flatten(-2), IMAGE),
    (nn.Identity(), X),
    (nn.MaxPool1d(2, padding=1, dilation=2), IMAGE),
    (nn.Unflatten(1, (2, 3)), X),
    (AddConstant([1.0, 2, 3, 4, 5, 6]), X),
    (MultiplyByConstant(0.1), X),
    (Standardize([200.0] * 6, [3.0] * 6, dtype=torch.float64), X),
    (Unstandardize(200.0, 3.0), X),
    (RobustStandardize([1.0] * 6, [2.0] * 6, [True, False] * 3, dtype=torch.float64), X),
    (RobustStandardize(1.0, 2.0, True), X),
    (Scale(6), X),
    (PeriodicEmbedding(6, [4, 0], 5, 2, 0.3), X),
    (PeriodicEmbedding(6), X),
    (PeriodicEmbedding(6, []), X),
    (MemberLinear(3, 6, 2, bias=False), X),
    (MemberLinear(2, 6, 4), IMAGE),
    (AverageMembers(), IMAGE),
    (Exponential(), X),
    (Normal(), X),
    (Quantiles([0.1, 0.5, 0.9]), X),
    (LinearPath(MLP(6, 2, (3,)), 6, 2), X),
    (TabularMLP(6, 2, (3,)), X),
    (Ensemble([MLP(6, 2, (3,)), MLP(6, 2, (4,))]), X),
    (MLP(6, 2, (3, 4), activation="silu", dropout=0.1), X),
    (MLP(6, hidden_sizes=()), X),
    (nn.Sequential(nn.Sequential(nn.Linear(6, 3), nn.ReLU()), nn.Linear(3, 1)), X),
    (nn.Sequential(), X),
]
LOSSES = [
    nn.HuberLoss(delta=0.5),
    nn.KLDivLoss(reduction="sum", log_target=True),
    nn.L1Loss(reduction="sum"),
    nn.MSELoss(reduction="none"),
    nn.PoissonNLLLoss(log_input=False, full=True),
    nn.SmoothL1Loss(beta=0.3),
    nn.SoftMarginLoss(),
]


def round_trip(module: nn.Module) -> nn.Module:
    """Write a module, and read it from JSON."""
    writer = Writer(write_module)
    written = json.loads(json.dumps(write_module(writer, module, "m")))
    reader = Reader({key: t.clone() for key, t in writer.tensors.items()}, ImportAllowlist())
    built = read_module(reader, written)
    assert reader.tensors == {}
    return built


def name(case: Any) -> str:
    return type(case).__name__ if isinstance(case, nn.Module) else ""


@pytest.mark.parametrize(("module", "x"), ZOO, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_module_of_the_table_is_read_as_written(
    module: nn.Module, x: torch.Tensor, dtype: torch.dtype
) -> None:
    module = copy.deepcopy(module).to(dtype)
    for parameter in module.parameters():
        parameter.data.uniform_(-1, 1)
    built = round_trip(module)
    assert repr(built) == repr(module)
    before, after = module.state_dict(), built.state_dict()
    assert list(before) == list(after)
    for key in before:
        assert before[key].dtype == after[key].dtype and torch.equal(before[key], after[key])
    for training in (False, True):
        torch.manual_seed(0)
        expected = module.train(training)(x.to(dtype, copy=True))
        torch.manual_seed(0)
        assert torch.equal(built.train(training)(x.to(dtype, copy=True)), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_a_loss_of_the_table_is_read_as_written(loss: nn.Module) -> None:
    target = X.sigmoid()
    assert torch.equal(round_trip(loss)(target, target.flip(0)), loss(target, target.flip(0)))


def test_every_entry_of_the_table_is_tested() -> None:
    seen = {type(part) for module, _ in ZOO for part in module.modules()} | {
        type(loss) for loss in LOSSES
    }
    assert {*LAYERS, *CONSTANTS, *CONTAINERS} <= seen


def test_modes_and_frozen_parameters_are_kept() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 1)).eval()
    module[0].weight.requires_grad_(False)
    module[1].train()
    built = round_trip(module)
    assert [p.requires_grad for p in built.parameters()] == [False, True, True, True]
    assert [m.training for m in built.modules()] == [m.training for m in module.modules()]


def test_shared_layers_and_parameters_stay_shared() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 3, bias=False))
    module[3].weight = layer.weight
    built: Any = round_trip(module)
    assert built[0] is built[2]
    assert built[3].weight is built[0].weight
    assert len(list(built.parameters())) == 2
    assert torch.equal(built(X[:, :3]), module(X[:, :3]))


def test_a_module_that_a_description_cannot_build_is_refused() -> None:
    class Mine(nn.Linear):
        pass

    noted, hooked, larger, other = nn.Linear(2, 1), nn.ReLU(), nn.Linear(2, 1), nn.Linear(2, 1)
    noted.note = "something of the user's"
    hooked.register_forward_hook(lambda *_: None)
    larger.register_parameter("more", nn.Parameter(torch.zeros(2)))
    other.in_features = 7
    replaced = nn.ReLU()
    replaced.forward = lambda x: x
    extended = nn.ReLU()
    extended.add_module("more", nn.ReLU())
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
    reasons = {
        "was changed after its construction": (noted, hooked, larger, other, replaced, extended),
        "is not in the table of layers": (weighted, Mine(2, 1), nn.GRU(2, 1)),
    }
    for reason, modules in reasons.items():
        for module in modules:
            for whole in (module, nn.Sequential(module)):
                with pytest.raises(UnwritableError, match=reason):
                    describe(whole)


def test_a_module_that_fit_did_not_build_is_not_written_as_a_fitted_one() -> None:
    for module in (nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1))):
        with pytest.raises(UnwritableError, match="fit did not build"):
            write_network(Writer(), module)
    strange = nn.Sequential()
    strange.add_module("network", nn.Linear(1, 1))
    strange.add_module("after", nn.GRU(1, 1))
    with pytest.raises(UnwritableError, match="GRU is not in the table"):
        write_network(Writer(), strange)


def read(description: Any, **tensors: torch.Tensor) -> nn.Module:
    rest = {"prefix": "", "ties": {}, "frozen": [], "training": [], "extra": {}}
    return read_module(Reader(tensors, ImportAllowlist()), {"layers": description, **rest})


def linear(**arguments: Any) -> dict[str, Any]:
    sizes = {"in_features": 2, "out_features": 3, "bias": False}
    return {"layer": "torch.nn.Linear", "arguments": {**sizes, **arguments}}


def test_shapes_are_checked_before_memory_is_allocated() -> None:
    # The described layer would take 8 TB.
    with pytest.raises(FileError, match=r"shape \(3, 2\).*shape \(1000000, 1000000\)"):
        read(linear(in_features=10**6, out_features=10**6), weight=torch.zeros(3, 2))


def test_tensors_must_match_the_layers() -> None:
    weight = torch.zeros(3, 2)
    assert isinstance(read(linear(), weight=weight), nn.Linear)
    with pytest.raises(FileError, match="no tensor 'weight', which the module needs"):
        read(linear())
    with pytest.raises(FileError, match=r"tensors that the module does not have: \['bias'\]"):
        read(linear(), weight=weight, bias=torch.zeros(3))
    with pytest.raises(
        FileError,
        match=r"^The file's tensor 'weight' has shape \(2, 3\) and torch\.float32, the module's "
        r"has shape \(3, 2\) and torch\.float32\.$",
    ):
        read(linear(), weight=weight.T)
    with pytest.raises(FileError, match=r"torch\.int64, the module's"):
        read(linear(), weight=weight.long())


def test_only_layers_of_the_table_are_built() -> None:
    for layer in ("torch.nn.GRU", "torch.optim.Adam", "os:system", "torch.nn.Module.__init__", 3):
        with pytest.raises(FileError, match="does not build"):
            read({"layer": layer, "arguments": {}})
    with pytest.raises(FileError, match=r"wrong arguments for torchreg\.nn\.Standardize"):
        read(
            {"layer": "torchreg.nn.Standardize", "arguments": {}},
            mean=torch.zeros(1),
            scale=torch.ones(1),
        )
    with pytest.raises(ValueError, match=r"no arguments \['device'\]"):
        read(linear(device="cuda"), weight=torch.zeros(3, 2))
    conv = describe(nn.Conv1d(1, 1, 3))
    conv["arguments"]["padding"] = {"tuple": [10**12]}
    with pytest.raises(ValueError, match="padding=1000000000000 with kernel_size=3"):
        read(conv, weight=torch.zeros(1, 1, 3), bias=torch.zeros(1))
