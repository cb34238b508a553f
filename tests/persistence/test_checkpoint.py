"""A killed fit is resumed from its checkpoint, and the checkpoint of another fit is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skorch.callbacks import EpochScoring
from torch import nn

import torchreg
from tests._resources import resources
from torchreg import CheckpointError, TorchRegressor
from torchreg._persistence.checkpoint import Checkpoint
from torchreg._serialization import ImportAllowlist, Reader, Writer, read_file, write_file
from torchreg.nn import MLP

Array = np.ndarray


@pytest.fixture
def table() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2)) + 200
    return X, X[:, 0] * 30 + rng.normal(size=40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fit.checkpoint"


def small(**params: Any) -> TorchRegressor:
    return TorchRegressor(**{"module": MLP, "max_epochs": 4, "random_state": 0, **params})


def weights_of(reg: TorchRegressor) -> list[torch.Tensor]:
    return list(reg.module_.state_dict().values())


def same_bits(a: TorchRegressor, b: TorchRegressor) -> bool:
    return all(map(torch.equal, weights_of(a), weights_of(b))) and a.history_ == b.history_


def test_fits_killed_at_twenty_random_moments_give_the_bits_of_uninterrupted_fits() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "_killed.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(case["kills"] for case in cases) == 20
    for case in cases:
        assert case["same"], case
        # No temporary files of killed writes, and no lock file.
        assert case["files"] == ["fit.checkpoint", "once", "result.json"]


def test_a_fit_is_the_same_with_and_without_a_checkpoint(
    table: tuple[Array, Array], path: Path
) -> None:
    assert same_bits(small().fit(*table, checkpoint=path), small().fit(*table))


def test_the_same_call_after_the_end_returns_the_same_fit(
    table: tuple[Array, Array], path: Path
) -> None:
    # Without random_state, the checkpoint holds the seed of the first call.
    first = small(random_state=None, early_stopping=True).fit(*table, checkpoint=path)
    again = small(random_state=None, early_stopping=True, verbose=0).fit(*table, checkpoint=path)
    assert same_bits(first, again)


def test_a_module_instance_and_validation_data_are_recognized(
    table: tuple[Array, Array], path: Path
) -> None:
    X, y = table

    def fit() -> TorchRegressor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        weight = np.arange(1.0, 41.0)
        reg = small(module=network, loss=nn.functional.smooth_l1_loss)
        return reg.fit(X, y, weight, X_val=X[:5], y_val=y[:5], checkpoint=str(path))

    assert same_bits(fit(), fit())


def test_a_warm_start_can_use_a_checkpoint(table: tuple[Array, Array], path: Path) -> None:
    fits = [small(warm_start=True).fit(*table) for _ in range(3)]
    for reg in fits[:2]:
        reg.fit(*table, checkpoint=path)
    fits[2].fit(*table)
    assert same_bits(fits[0], fits[1])
    assert same_bits(fits[0], fits[2])
    assert fits[0].n_iter_ == 8
    other = small(warm_start=True, random_state=1).fit(*table).set_params(random_state=0)
    with pytest.raises(CheckpointError, match="another fit: module_ differs"):
        other.fit(*table, checkpoint=path)


@pytest.mark.parametrize(
    ("params", "changed"),
    [
        ({"lr": 0.1}, "lr differs"),
        ({"random_state": 1, "max_epochs": 5}, "max_epochs, random_state differ"),
        ({"module__hidden_sizes": [3]}, "module__hidden_sizes differs"),
        ({"module": nn.Linear}, "module differs"),
        ({"loss": "huber"}, "loss differs"),
    ],
)
def test_the_checkpoint_of_other_parameters_is_refused(
    params: dict[str, Any], changed: str, table: tuple[Array, Array], path: Path
) -> None:
    small().fit(*table, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"was written by another fit: {changed}. To resume"):
        small(**params).fit(*table, checkpoint=path)
    assert path.read_bytes() == before


def test_the_checkpoint_of_other_rows_is_refused(table: tuple[Array, Array], path: Path) -> None:
    X, y = table
    small().fit(X, y, checkpoint=path)
    for changed, args, given in [
        ("X differs", (X + 1e-9, y), {}),
        ("y differs", (X, y + 1e-9), {}),
        ("sample_weight differs", (X, y, np.arange(1.0, 41.0)), {}),
        ("X_val, y_val differ", (X, y), {"X_val": X, "y_val": y}),
    ]:
        with pytest.raises(CheckpointError, match=f"another fit: {changed}"):
            small().fit(*args, **given, checkpoint=path)


def test_two_fits_cannot_use_one_checkpoint_at_a_time(
    table: tuple[Array, Array], path: Path
) -> None:
    refused = []

    class FitsAgain(nn.Module):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__()
            self.linear = nn.Linear(in_features, out_features)
            # During the first fit, as another process might.
            with pytest.raises(CheckpointError, match="in use by another fit") as error:
                small().fit(*table, checkpoint=path)
            refused.append(error)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    reg = small(module=FitsAgain).fit(*table, checkpoint=path)
    assert len(refused) == 1
    assert same_bits(reg, small(module=nn.Linear).fit(*table))
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_is_an_error_that_keeps_the_fit_and_the_checkpoint(
    table: tuple[Array, Array], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reg = small().fit(*table)
    before = weights_of(reg)
    monkeypatch.setattr(Checkpoint, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(Checkpoint, "MIN_INTERVAL_WRITES", 0.0)
    with monkeypatch.context() as patch:
        written = []

        def no_room(descriptor: int) -> None:
            written.append(descriptor)
            # The folder is synchronized after each file.
            if len(written) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", no_room)
        with pytest.raises(
            CheckpointError,
            match=r"cannot be written: .*No space left on device.*Free some space or pass",
        ):
            reg.set_params(max_epochs=6).fit(*table, checkpoint=path)
    assert all(map(torch.equal, weights_of(reg), before))
    assert os.listdir(path.parent) == [path.name]
    resumed_from: list[dict[str, Any] | None] = []
    kept = Checkpoint.load
    monkeypatch.setattr(
        Checkpoint, "load", lambda self: resumed_from.append(kept(self)) or kept(self)
    )
    reg.fit(*table, checkpoint=path)
    assert resumed_from[0] is not None
    assert len(resumed_from[0]["losses"]) == 1
    assert same_bits(reg, small(max_epochs=6).fit(*table))


@pytest.mark.parametrize("folder", ["missing", "/sys"])
def test_a_folder_that_cannot_be_written_to_is_an_error_before_the_training(
    folder: str, table: tuple[Array, Array], tmp_path: Path
) -> None:
    class NeverBuilt(nn.Module):
        def __init__(self) -> None:
            pytest.fail("the training began")

    place = tmp_path / folder / "fit.checkpoint"
    with pytest.raises(CheckpointError, match=r"cannot be written: .*Pass the path of a file in a"):
        small(module=NeverBuilt).fit(*table, checkpoint=place)


def test_a_file_that_is_not_a_checkpoint_is_refused_and_unchanged(
    table: tuple[Array, Array], path: Path
) -> None:
    reg = small().fit(*table, checkpoint=path)
    whole = path.read_bytes()
    saved = path.with_name("saved.safetensors")
    reg.save(saved)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content, why in [
        (b"", "header of 0 bytes"),
        (b"a,b\n1,2\n", "not written by torchreg"),
        (whole[:-1], "is damaged"),
        (bytes(flipped), ""),
        (saved.read_bytes(), "The file is not a checkpoint"),
    ]:
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=f"The checkpoint cannot be read: .*{why}.*start a new fit"
        ):
            small().fit(*table, checkpoint=path)
        assert path.read_bytes() == content


def content_of(path: Path) -> dict[str, Any]:
    record, tensors = read_file(path)
    content: dict[str, Any] = Reader(tensors, ImportAllowlist()).read(record["checkpoint"])
    return content


@pytest.mark.parametrize("layout", [None, 3])
def test_a_checkpoint_of_another_layout_is_refused_and_unchanged(
    layout: int | None, table: tuple[Array, Array], path: Path
) -> None:
    reg = small().fit(*table, checkpoint=path)
    content, weights = content_of(path), weights_of(reg)
    del content["layout"], content["state"]["losses"]
    writer = Writer()
    written = writer.write(content | ({"layout": layout} if layout else {}), path="")
    write_file(path, {"checkpoint": written}, writer.tensors)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"with layout {layout or 1}; .* reads layout 2\."):
        reg.fit(*table, checkpoint=path)
    assert path.read_bytes() == whole
    assert all(map(torch.equal, weights_of(reg), weights))


def test_the_layout_of_a_checkpoint_is_the_one_of_its_number(
    table: tuple[Array, Array], path: Path
) -> None:
    small(early_stopping=True).fit(*table, checkpoint=path)
    content = content_of(path)
    # If the keys change, the number of the layout must, too: a later version may read the file.
    assert content["layout"] == 2
    assert content["state"].keys() == {
        *("batches", "draws", "losses", "patience", "rates", "reason"),
        *("snapshot", "stepper", "validation_losses"),
    }
    assert content["state"]["snapshot"].keys() == {"kept", "tensors", "loss", "epoch"}


def test_a_checkpoint_cannot_be_loaded_as_a_regressor(
    table: tuple[Array, Array], path: Path
) -> None:
    small().fit(*table, checkpoint=path)
    with pytest.raises(torchreg.FileError):
        torchreg.load(path)


def test_callbacks_cannot_be_combined_with_a_checkpoint(
    table: tuple[Array, Array], path: Path
) -> None:
    reg = small(callbacks=[EpochScoring("r2")])
    with pytest.raises(ValueError, match="expects callbacks=None"):
        reg.fit(*table, checkpoint=path)


def test_a_checkpoint_must_be_a_path(table: tuple[Array, Array]) -> None:
    with pytest.raises(TypeError, match="checkpoint expects the path of a file, or None, got 3"):
        small().fit(*table, checkpoint=3)


def test_an_optimizer_whose_state_cannot_be_written_is_refused(
    table: tuple[Array, Array], path: Path
) -> None:
    class Stateful(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.state[self.param_groups[0]["params"][0]]["secret"] = object()
            return super().step(closure)

    with pytest.raises(
        CheckpointError, match=r"cannot hold the state of the optimizer: .*Choose another"
    ):
        small(optimizer=Stateful, lr=0.01).fit(*table, checkpoint=path)


def test_after_a_slow_write_the_next_comes_no_sooner_than_fifty_times_its_time(
    table: tuple[Array, Array], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []

    def sync(descriptor: int) -> None:
        # The file, then its folder: a write takes a second.
        written.append(now[0])
        now[0] += 0.5

    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            now[0] += 1.0
            return super().step(closure)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    small(optimizer=Slow, lr=0.01, max_epochs=120).fit(*table, checkpoint=path)
    # Before the training; after the shortest time of 10 s; 50 s after the end of a write; at last.
    assert np.diff(written[::2])[:-1].tolist() == [10, 51, 51]


def test_many_fits_with_checkpoints_leave_no_open_file(
    table: tuple[Array, Array], tmp_path: Path
) -> None:
    small().fit(*table, checkpoint=tmp_path / "0")
    before = resources().files
    for number in range(5):
        small(max_epochs=1).fit(*table, checkpoint=tmp_path / str(number // 2 + 1))
    assert resources().files == before


def test_a_lock_file_that_is_removed_before_it_is_locked_is_opened_again(
    table: tuple[Array, Array], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock_file, flock, n_inodes = path.with_name(f"{path.name}.lock"), fcntl.flock, []

    def removing(descriptor: int, operation: int) -> None:
        # Another fit ends now, and removes its lock file.
        if operation & fcntl.LOCK_EX and not n_inodes:
            lock_file.unlink()
        flock(descriptor, operation)
        if operation & fcntl.LOCK_EX:
            n_inodes.append(os.fstat(descriptor).st_nlink)

    class Locked(nn.Linear):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__(in_features, out_features)
            assert lock_file.exists()

    monkeypatch.setattr(fcntl, "flock", removing)
    small(module=Locked).fit(*table, checkpoint=path)
    # The first one has no name: another fit would not find it locked.
    assert n_inodes == [0, 1]


def test_a_short_fit_writes_when_it_begins_and_when_it_ends(
    table: tuple[Array, Array], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Any] = []
    write = Checkpoint.write
    monkeypatch.setattr(
        Checkpoint, "write", lambda self, state: states.append(state) or write(self, state)
    )
    small(max_epochs=50).fit(*table, checkpoint=path)
    assert states[0] is None
    assert [len(state["losses"]) for state in states[1:]] == [50]
