"""1,500 forged files: each is refused, or loads what it says; none runs code or takes memory.

They have the right digest, and reach the code behind it. The digest reveals random damage, as
test_container.py shows for every bit.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchreg
from torchreg import FileError, TorchRegressor
from torchreg._serialization import pack, unpack
from torchreg.nn import MLP

FORGED = 1500
X = np.linspace(-1, 1, 60).reshape(20, 3)

#: Audit events of running code, loading libraries and accessing the system.
AUDITED = {
    *("exec", "compile", "import", "pickle.find_class", "marshal.loads", "code.__new__"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"),
    *("socket.connect", "urllib.Request", "os.remove", "os.rename", "shutil.rmtree"),
}


class Net(nn.Module):
    """A user's module."""

    def __init__(self, in_features: int, out_features: int, width: int = 3) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.output(self.hidden(x).tanh())
        return outputs


class Audit:
    """Records audit events of the process while it is enabled."""

    def __init__(self) -> None:
        self.enabled = False
        self.events: list[Any] = []
        sys.addaudithook(self.record)

    def record(self, event: str, arguments: Any) -> None:
        if self.enabled and event in AUDITED:
            self.events.append((event, arguments))


AUDIT = Audit()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, dict[str, Any]]]:
    """Small files, with the arguments that load them."""
    template = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(), nn.Linear(4, 2))
    y = X[:, 0]
    fits: list[tuple[TorchRegressor, Any, dict[str, Any]]] = [
        (TorchRegressor(module=MLP, module__hidden_sizes=[4], optimizer=torch.optim.AdamW), y, {}),
        (
            TorchRegressor(template, loss=nn.HuberLoss(), random_state=np.random.RandomState(0)),
            np.column_stack([y, y]),
            {},
        ),
        (TorchRegressor(Net, module__width=2, early_stopping=True), y, {"trusted": [Net]}),
    ]
    file = tmp_path_factory.mktemp("originals") / "reg"
    saved = []
    for reg, target, options in fits:
        if reg.random_state is None:
            reg.set_params(random_state=0)
        reg.set_params(max_epochs=17).fit(X, target).save(file)
        # Modules that torch imports on first use are imported here.
        repr(torchreg.load(file, **options).module_.state_dict())
        saved.append((file.read_bytes(), options))
    return saved


def load(data: bytes, file: Path, options: dict[str, Any]) -> Any:
    """Load bytes as a file; ``None`` if they are refused."""
    file.touch()
    with open(file, "r+b") as stream:  # Truncating it first would wait for the disk.
        stream.write(data)
        stream.truncate()
    AUDIT.enabled = True
    try:
        return torchreg.load(file, **options)
    except FileError:
        return None
    finally:
        AUDIT.enabled = False


#: Replacements for values in a file.
REPLACEMENTS: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -1, 17, 2**31, 2**63, 10**12, 10**30, 0.5, -0.0, 1e308),
    *("", "a", "\ud800", "0", "network", "torch.nn.Linear", "torch.nn.ReLU", "torch.nn.GRU"),
    *("os:system", "builtins:eval", "torch.hub:load", "torch.load", "torch.nn.Module.__init__"),
    *("../../etc/passwd", "__class__", "__dict__", "_nested", "module_", "forward", "x" * 10_000),
    *([], [[]], [None] * 20, ["a", "b", "c"], {}, {"a": 1}, {"": {}}, {"given": True}),
    *({"same": ""}, {"same": "network"}, {"dict": []}, {"tuple": []}, {"tuple": [1, 2, 3]}),
    *({"dict": [["a", 1], ["b", {"float": "nan"}]]}, {"float": "inf"}, {"rows": []}),
    *({"name": "os:system"}, {"name": "torch.nn.Linear"}, {"name": "torch.nn.functional.pad"}),
    *({"dtype": "float32"}, {"dtype": "load"}, {"device": "cuda:7"}, {"device": "meta"}),
    *({"unwritten": "<lambda>"}, {"scalar": ["int64", 3]}, {"texts": ["O", ["a", "b", "c"]]}),
    {"partial": [{"name": "torch.nn.Linear"}, {"tuple": [10**6, 10**6]}, {"dict": []}]},
    {"partial": [{"name": "torch.nn.GRU"}, {"tuple": [1, 1, 10**9]}, {"dict": []}]},
    {"layer": "torch.nn.Tanh", "arguments": {}},
    {"layer": "torch.nn.Flatten", "arguments": {"start_dim": 0, "end_dim": -1}},
    {"layer": "torch.nn.Softmax", "arguments": {"dim": 0}},
    {"layer": "torch.nn.Sequential", "children": []},
    {"layer": "torch.nn.GRU", "arguments": {"input_size": 1, "num_layers": 10**9}},
]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a record."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def forge_record(rng: random.Random, record: dict[str, Any]) -> str:
    """Change one value in a record, and return the part that it belongs to."""
    paths = [path for path in nodes(record) if path[0] != "versions"]
    path = rng.choice(paths)
    place, key = at(record, path[:-1]), path[-1]
    match rng.randrange(6):
        case 0 | 1 | 2:
            place[key] = copy.deepcopy(rng.choice(REPLACEMENTS))
        case 3:
            place[key] = copy.deepcopy(at(record, rng.choice(paths)))
        case 4:
            del place[key]
        case 5 if isinstance(place, list):
            place.insert(key, copy.deepcopy(rng.choice([*place, *REPLACEMENTS])))
        case 5:
            place[rng.choice(["", "a", "lr", "module", "arguments", "0"])] = place.pop(key)
            return "two places"
    return ".".join(map(str, path[:2]))


def forge_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> str:
    """Change one tensor."""
    key, other = rng.choice([*tensors]), rng.choice([*tensors])
    tensor = tensors[key]
    match rng.randrange(8):
        case 0:
            del tensors[key]
        case 1:
            tensors[key], tensors[other] = tensors[other], tensor
        case 2:
            tensors[rng.choice(["", "a", ":a", "network.", f"{key}.0", ":lr"])] = tensors.pop(key)
        case 3:
            dtypes = [torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.uint8]
            tensors[key] = tensor.to(rng.choice(dtypes))
        case 4:
            shapes: list[tuple[int, ...]] = [(), (0,), (0, 10**12), (1, -1), (-1,), (-1, 1)]
            shape = rng.choice(shapes)
            size = 1 if shape == () else 0 if 0 in shape else tensor.numel()
            tensors[key] = tensor.flatten()[:size].reshape(shape)
        case 5:
            tensors[key] = torch.full_like(tensor, rng.choice([0, -1, 100]))
        case 6 if tensor.is_floating_point():
            tensors[key] = torch.full_like(tensor, rng.choice([torch.nan, torch.inf, 1e38]))
        case 6 | 7:
            tensors[key] = torch.cat([tensor, tensor]) if tensor.ndim else tensor[None]
    return key


def settings(reg: Any, but: str) -> dict[str, str]:
    """Return the repr of every parameter and attribute but one, and those with addresses."""
    values = {**vars(reg), **reg.get_params()}
    left_out = {but, "module_", "random_state", "_nested"}
    return {name: repr(value) for name, value in values.items() if name not in left_out}


def test_a_forged_file_is_refused_or_loads_what_it_says(
    originals: list[tuple[bytes, dict[str, Any]]], tmp_path: Path
) -> None:
    rng = random.Random(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = [
        (unpack(data), options, load(data, tmp_path / "file", options))
        for data, options in originals
    ]
    n_loaded = 0
    for _ in range(FORGED):
        (record, tensors), options, original = rng.choice(opened)
        record, tensors = json.loads(json.dumps(record)), dict(tensors)
        in_record = rng.random() < 0.7
        changed = forge_record(rng, record) if in_record else forge_tensors(rng, tensors)
        loaded = load(pack(record, tensors), tmp_path / "file", options)
        if loaded is None:
            continue
        n_loaded += 1
        # Everything else is unchanged.
        assert type(loaded) is TorchRegressor
        if in_record and changed.startswith(("params.", "attributes.")):
            name = changed.partition(".")[2]
            assert settings(loaded, but=name) == settings(original, but=name)
        for key, number in loaded.module_.state_dict().items():
            given = tensors[record["module"]["ties"].get(key, key)]
            assert torch.equal(number.nan_to_num(), given.nan_to_num())
        # It predicts, or raises a ValueError.
        with contextlib.suppress(ValueError):
            assert len(loaded.predict(X)) == len(X)
    assert 0 < n_loaded < FORGED / 2
    assert AUDIT.events == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
