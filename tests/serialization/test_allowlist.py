"""Which code a file may name: torch's and ours always, anything else by the caller's word alone."""

from __future__ import annotations

import subprocess
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
from torchreg._serialization.allowlist import ImportAllowlist, built_in, name_of
from torchreg.losses import HuberLoss


class Outer:
    class Inner(nn.Module):
        pass

    def method(self) -> None:
        pass


def loss(prediction: Any, target: Any) -> Any:
    return prediction - target


HERE = __name__


def test_torchs_own_and_ours_have_public_names_and_are_found_by_them() -> None:
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
        assert name_of(value) == name
        assert ImportAllowlist().find(name) is value


def test_nothing_in_the_table_does_more_than_compute() -> None:
    modules = {name.rpartition(".")[0] for name in built_in()}
    assert modules == {
        *("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.optim.lr_scheduler"),
        *("torchreg.nn", "torchreg.losses"),
    }
    assert not {"torch.load", "torch.nn.functional.handle_torch_function"} & set(built_in())


def test_what_can_be_imported_has_a_path() -> None:
    for value, path in (
        (Outer, "Outer"),
        (Outer.Inner, "Outer.Inner"),
        (Outer.method, "Outer.method"),
        (loss, "loss"),
    ):
        assert name_of(value) == f"{HERE}:{path}"
        assert ImportAllowlist([value]).find(f"{HERE}:{path}") is value
        assert ImportAllowlist([HERE]).find(f"{HERE}:{path}") is value
        assert ImportAllowlist([f"{HERE}.{path}"]).find(f"{HERE}:{path}") is value


def test_what_cannot_be_imported_has_no_name() -> None:
    class Local:
        pass

    for value in (Local, lambda: 0, Outer().method, nn.ReLU(), 3, [], len):
        assert name_of(value) is None


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:run",
        "torch:load",
        "torch.hub:load",
        "torch.nn.modules.linear:Linear.__init__",
        "not_there:anything",
        "torchreg.regressor:TorchRegressor",
        f"{HERE}:loss",
    ],
)
def test_code_that_nobody_allowed_is_not_even_imported(name: str) -> None:
    before = set(sys.modules)
    dotted = name.replace(":", ".")
    with pytest.raises(
        UntrustedError, match=rf"names {dotted}, .*trusted=\['{dotted.split('.')[0]}"
    ):
        ImportAllowlist().find(name)
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
def test_what_is_no_import_path_is_refused_whatever_is_trusted(name: str) -> None:
    with pytest.raises(FileError, match="which is no import path"):
        ImportAllowlist(["torch", "os", "a", "x", "mypackage"]).find(name)


@pytest.mark.parametrize("name", [None, 3, ["os", "system"], {"a": 1}])
def test_a_name_is_text(name: Any) -> None:
    with pytest.raises(FileError, match="where the name of a class is expected"):
        ImportAllowlist().find(name)


def test_a_package_is_trusted_by_its_whole_name() -> None:
    start = HERE[:-2]
    for trusted in ((), "torch", [start], [f"{HERE}.Outer.Inne"], [f"{HERE}.loss.more"]):
        with pytest.raises(UntrustedError):
            ImportAllowlist(trusted).find(f"{HERE}:loss")
    assert ImportAllowlist(HERE.partition(".")[0]).find(f"{HERE}:loss") is loss


def test_what_a_trusted_module_only_imported_is_not_its_own() -> None:
    for path in ("OrderedDict", "nn", "sys", "HERE", "Path", "subprocess.run", "nothing"):
        assert path in ("nothing", "subprocess.run") or path in globals()
        with pytest.raises(FileError, match=f"but {HERE} defines no such class or function"):
            ImportAllowlist([HERE]).find(f"{HERE}:{path}")
    assert OrderedDict and Path


def test_a_trusted_package_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(FileError, match=r"names my_package\.nets\.Net, whose module cannot be im"):
        ImportAllowlist(["my_package"]).find("my_package.nets:Net")


def test_a_trusted_package_is_imported_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text("class Net: pass\n")
    script = (
        "import sys\n"
        "from torchreg._serialization.allowlist import ImportAllowlist\n"
        "names = ImportAllowlist(['my_package'])\n"
        "assert 'my_package' not in sys.modules\n"
        "print(names.find('my_package.nets:Net'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "<class 'my_package.nets.Net'>\n", done.stderr


def test_trust_is_given_by_name_or_by_the_thing_itself() -> None:
    for wrong in (3, nn.ReLU(), None):
        with pytest.raises(TypeError, match="trusted expects names of packages, classes and func"):
            ImportAllowlist([wrong])
