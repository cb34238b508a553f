"""A file may name objects of torch and torchreg, and others only if the caller allows them."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import torchreg
from torchreg import FileError, UntrustedError
from torchreg._serialization import ImportAllowlist, builtin_objects, import_path
from torchreg.losses import HuberLoss


class Outer:
    class Inner(nn.Module):
        pass

    def method(self) -> None:
        pass


def loss(prediction: Any, target: Any) -> Any:
    return prediction - target


HERE = __name__


def test_objects_of_torch_and_torchreg_are_resolved_by_their_public_names() -> None:
    named = {
        nn.Linear: "torch.nn.Linear",
        nn.HuberLoss: "torch.nn.HuberLoss",
        torch.optim.AdamW: "torch.optim.AdamW",
        torch.optim.lr_scheduler.StepLR: "torch.optim.lr_scheduler.StepLR",
        functional.silu: "torch.nn.functional.silu",
        torch.tanh: "torch.tanh",
        torchreg.nn.MLP: "torchreg.nn.MLP",
        HuberLoss: "torchreg.losses.huber",
    }
    for value, name in named.items():
        assert import_path(value) == name
        assert ImportAllowlist().resolve(name) is value


def test_the_table_holds_only_layers_losses_and_optimizers() -> None:
    modules = {name.rpartition(".")[0] for name in builtin_objects()}
    assert modules == {
        *("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.optim.lr_scheduler"),
        *("torchreg.nn", "torchreg.losses"),
    }
    assert not {"torch.load", "torch.nn.functional.handle_torch_function"} & set(builtin_objects())


def test_importable_objects_are_resolved_if_they_or_their_package_are_trusted() -> None:
    for value, path in (
        (Outer, "Outer"),
        (Outer.Inner, "Outer.Inner"),
        (Outer.method, "Outer.method"),
        (loss, "loss"),
    ):
        assert import_path(value) == f"{HERE}:{path}"
        assert ImportAllowlist([value]).resolve(f"{HERE}:{path}") is value
        assert ImportAllowlist([HERE]).resolve(f"{HERE}:{path}") is value
        assert ImportAllowlist([f"{HERE}.{path}"]).resolve(f"{HERE}:{path}") is value


def test_objects_that_cannot_be_imported_have_no_path() -> None:
    class Local:
        pass

    for value in (Local, lambda: 0, Outer().method, nn.ReLU(), 3, [], len):
        assert import_path(value) is None


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:run",
        "torch:load",
        "torch.hub:load",
        "torch.nn.modules.linear:Linear.__init__",
        "missing:anything",
        "torchreg.regressor:TorchRegressor",
        f"{HERE}:loss",
    ],
)
def test_untrusted_code_is_not_imported(name: str) -> None:
    before = set(sys.modules)
    dotted = name.replace(":", ".")
    with pytest.raises(
        UntrustedError, match=rf"names {dotted}, .*trusted=\['{dotted.split('.')[0]}"
    ):
        ImportAllowlist().resolve(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Module.__init__.__globals__",
        "torch.load",
        "..:x",
        "os.path:..",
        "os/path:join",
        ":x",
        "x:",
        "",
        "a:b:c",
        "a b:c",
        "mypackage:nets.<locals>.Net",
        "os:système.",
    ],
)
def test_an_invalid_import_path_is_refused_whatever_is_trusted(name: str) -> None:
    with pytest.raises(FileError, match="is not an import path"):
        ImportAllowlist(["torch", "os", "a", "x", "mypackage"]).resolve(name)


@pytest.mark.parametrize("name", [None, 3, ["os", "system"], {"a": 1}])
def test_a_name_must_be_a_string(name: Any) -> None:
    with pytest.raises(FileError, match="expected the name of a class"):
        ImportAllowlist().resolve(name)


def test_a_package_is_trusted_by_its_whole_name() -> None:
    start = HERE[:-2]
    for trusted in ((), "torch", [start], [f"{HERE}.Outer.Inne"], [f"{HERE}.loss.more"]):
        with pytest.raises(UntrustedError):
            ImportAllowlist(trusted).resolve(f"{HERE}:loss")
    assert ImportAllowlist(HERE.partition(".")[0]).resolve(f"{HERE}:loss") is loss


def test_objects_that_a_trusted_module_imports_are_not_trusted() -> None:
    for path in ("OrderedDict", "nn", "sys", "HERE", "Path", "nothing"):
        assert path == "nothing" or path in globals()
        with pytest.raises(FileError, match=f"but {HERE} defines no such class or function"):
            ImportAllowlist([HERE]).resolve(f"{HERE}:{path}")
    assert OrderedDict and Path


def test_a_trusted_package_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(FileError, match=r"my_package\.nets\.Net, whose module cannot be imported"):
        ImportAllowlist(["my_package"]).resolve("my_package.nets:Net")


def test_a_trusted_package_is_imported_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_allowed_package").mkdir()
    (tmp_path / "my_allowed_package" / "nets.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    allowlist = ImportAllowlist(["my_allowed_package"])
    assert "my_allowed_package" not in sys.modules
    try:
        assert allowlist.resolve("my_allowed_package.nets:Net").__name__ == "Net"
    finally:
        for name in ("my_allowed_package.nets", "my_allowed_package"):
            sys.modules.pop(name, None)


def test_trusted_must_be_names_classes_or_functions() -> None:
    for wrong in (3, nn.ReLU(), None):
        with pytest.raises(TypeError, match="trusted expects names of packages, classes and func"):
            ImportAllowlist([wrong])
