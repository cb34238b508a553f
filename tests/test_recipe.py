"""A script says what it cannot repeat, and refuses rows that do not fit."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from torchreg import TorchRegressor
from torchreg.engine.spec import spawn_seeds
from torchreg.nn import MLP

Array = np.ndarray
Data = tuple[Array, Array]


def fit_of(data: Data, **parameters: Any) -> TorchRegressor:
    defaults = {"module__hidden_sizes": [3], "max_epochs": 3, "random_state": 0}
    return TorchRegressor(module=MLP, **defaults | parameters).fit(*data)


def text_of(reg: TorchRegressor, folder: Path, *rows: Any, **more: Any) -> str:
    """The script, its comments without line ends."""
    reg.to_script(folder / "script.py", *rows, **more)
    return re.sub(r"\n *# (?!%%)", " ", (folder / "script.py").read_text(encoding="utf-8"))


def test_a_script_that_repeats_all_has_nothing_to_say(kink: Data, tmp_path: Path) -> None:
    text = text_of(fit_of(kink), tmp_path, *kink)
    assert "from the seed\ndef train(X, y):" in text


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(3)], ids=["None", "state"])
def test_a_seed_that_was_drawn_is_written_down(
    random_state: Any, kink: Data, tmp_path: Path
) -> None:
    reg = fit_of(kink, random_state=random_state)
    seed = re.search(r"SEED = (\d+)", text_of(reg, tmp_path))
    assert seed is not None
    again = fit_of(kink, random_state=int(seed[1]))
    assert np.array_equal(again.predict(kink[0]), reg.predict(kink[0]))


def test_a_seed_that_nobody_knows_is_said(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, random_state=None)
    del reg._origin  # as in a file of an earlier version
    assert "The seed of the fit is not known, so the training below is another draw" in text_of(
        reg, tmp_path
    )


def test_callbacks_are_said_to_be_missing(kink: Data, tmp_path: Path) -> None:
    from skorch.callbacks import EpochTimer

    reg = fit_of(kink, callbacks=[EpochTimer()])
    assert "The fit had callbacks, which are not repeated here" in text_of(reg, tmp_path)


def test_a_script_of_the_best_of_several_starts_trains_that_one_alone_and_says_so(
    kink: Data, tmp_path: Path
) -> None:
    reg = fit_of(kink, n_init=4, early_stopping=True, random_state=1)
    text = text_of(reg, tmp_path)
    assert "The fit trained 4 networks from different seeds and kept the one with" in text
    best = int(np.argmin(reg.init_losses_))
    assert best > 0
    assert f"SEED = {spawn_seeds(1, 4)[best]}\n" in text
    assert "SPLIT_SEED = 1  # of the rows held out" in text
    assert "draw their random numbers in turn" not in text
    drawn = fit_of(kink, n_init=2, module__dropout=0.1)
    assert "train side by side draw their random numbers in turn" in text_of(drawn, tmp_path)


def test_a_warm_start_is_said_and_as_many_epochs_are_run(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, warm_start=True).fit(*kink)
    text = text_of(reg, tmp_path, *kink)
    assert "The fitted parameters come from several fits" in text
    assert "EPOCHS = 6" in text
    assert "not those of the fit" not in text


def test_validation_rows_that_are_not_there_are_said(kink: Data, tmp_path: Path) -> None:
    X, y = kink
    reg = TorchRegressor(
        module=MLP, early_stopping=True, n_iter_no_change=2, lr=0.1, random_state=0
    )
    reg.fit(X, y, X_val=X[::3], y_val=-y[::3])
    assert 0 < reg.best_epoch_ < reg.n_iter_
    text = text_of(reg, tmp_path, X, y)
    assert "The fit stopped by validation rows that are not here" in text
    assert f"EPOCHS = {reg.best_epoch_}\n" in text
    assert "PATIENCE" not in text
    with_rows = text_of(reg, tmp_path, X, y, X_val=X[::3], y_val=-y[::3])
    assert "PATIENCE = 2" in with_rows
    assert (tmp_path / "script_validation.csv").is_file()


def test_a_plateau_of_validation_rows_that_are_not_there_is_said(
    kink: Data, tmp_path: Path
) -> None:
    X, y = kink
    reg = TorchRegressor(module=MLP, schedule="reduce_on_plateau", max_epochs=3, random_state=0)
    reg.fit(X, y, X_val=X[::3], y_val=y[::3])
    said = "The fit lowered its learning rate by validation rows that are not here"
    assert said in text_of(reg, tmp_path, X, y)
    with_rows = text_of(reg, tmp_path, X, y, X_val=X[::3], y_val=y[::3])
    assert said not in with_rows and "scheduler.step(loss)" in with_rows


def test_a_schedule_goes_over_the_epochs_that_were_planned(kink: Data, tmp_path: Path) -> None:
    from skorch.callbacks import EarlyStopping

    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10)
    reg = fit_of(kink, schedule="cosine", max_epochs=9, batch_size=None, callbacks=[stop])
    assert reg.n_iter_ < 9
    text = text_of(reg, tmp_path)
    assert f"EPOCHS = {reg.n_iter_}\nPLANNED_EPOCHS = 9  # of the schedule\n" in text
    assert "T_max=PLANNED_EPOCHS," in text


def test_a_schedule_without_a_name_cannot_be_written(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9))
    with pytest.raises(ValueError, match="schedule: a lambda has no name by which a script"):
        reg.to_script(tmp_path / "script.py")


@pytest.mark.parametrize("change", ["fewer", "other y", "other x", "weights"])
def test_rows_of_another_fit_are_noticed(change: str, kink: Data, tmp_path: Path) -> None:
    X, y = kink[0].copy(), kink[1].copy()
    reg = fit_of((X, y))
    weight = None
    match change:
        case "fewer":
            X, y = X[1:], y[1:]
        case "other y":
            y[0] += 1e-3
        case "other x":
            X[0] += 1e-3
        case _:
            weight = np.linspace(1, 2, len(y))
    assert "The rows beside this script are not those of the fit" in text_of(
        reg, tmp_path, X, y, weight
    )
    assert "not those of the fit" not in text_of(reg, tmp_path, *kink)


def test_rows_that_early_stopping_held_out_belong_to_the_fit(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink, early_stopping=True)
    assert "not those of the fit" not in text_of(reg, tmp_path, *kink)


def test_what_amplifies_rounding_is_said(kink: Data, tmp_path: Path) -> None:
    text = text_of(fit_of(kink, optimizer="lbfgs", max_epochs=1), tmp_path, *kink)
    assert "A line search amplifies rounding" in text


def test_another_device_is_said(kink: Data, tmp_path: Path) -> None:
    reg = fit_of(kink)
    reg.set_params(device="cuda")
    assert "The fit ran on cuda; here it runs on the CPU" in text_of(reg, tmp_path)


def test_rows_must_have_the_columns_of_the_fit(penguins: pd.DataFrame, tmp_path: Path) -> None:
    X, y = penguins[["flipper_length_mm", "bill_length_mm"]], penguins["body_mass_g"]
    reg = fit_of((X, y))
    file = tmp_path / "script.py"
    with pytest.raises(
        ValueError,
        match=r"expects the X and y of fit, 2 features and 1 outputs named .* got 1 and 1",
    ):
        reg.to_script(file, X[["flipper_length_mm"]], y)
    with pytest.raises(ValueError, match=r"got 2 and 1 named \['bill_length_mm', 'flip"):
        reg.to_script(file, X[["bill_length_mm", "flipper_length_mm"]], y)
    with pytest.raises(ValueError, match=r"2 features and 1 outputs .* got 2 and 2"):
        reg.to_script(file, X, X)
    assert not list(tmp_path.iterdir())


def test_rows_come_in_pairs(kink: Data, tmp_path: Path) -> None:
    reg, file = fit_of(kink), tmp_path / "script.py"
    with pytest.raises(ValueError, match="X and y belong together; y is missing"):
        reg.to_script(file, kink[0])
    with pytest.raises(ValueError, match="X and y belong together; X is missing"):
        reg.to_script(file, y=kink[1])
    with pytest.raises(ValueError, match="weights or validation rows without X and y"):
        reg.to_script(file, sample_weight=np.ones(len(kink[1])))


def test_columns_of_one_name_are_kept_apart(kink: Data, tmp_path: Path) -> None:
    X = pd.DataFrame({"y": kink[0][:, 0], "sample_weight": kink[1]})
    reg = TorchRegressor(module=MLP, max_epochs=2, random_state=0).fit(
        X, kink[1], np.arange(1.0, 121)
    )
    text = text_of(reg, tmp_path, X, kink[1], np.arange(1.0, 121))
    assert 'FEATURES = ["y", "sample_weight"]' in text
    assert 'TARGETS = ["y_"]' in text
    header = (tmp_path / "script_data.csv").read_text().splitlines()[0]
    assert header == "y,sample_weight,y_,sample_weight_"


def test_without_rows_a_script_knows_how_many_there_were(
    penguins: pd.DataFrame, tmp_path: Path
) -> None:
    X, y = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
    for parameters, expected in (
        ({}, "BATCH_SIZE = 128"),
        ({"batch_size": 333}, None),
        ({"batch_size": 332}, "batch_sizes(len(x))"),
        ({"optimizer": "rprop"}, None),
    ):
        text = text_of(fit_of((X, y), **parameters), tmp_path)
        assert ("BATCH_SIZE" in text) == (expected is not None)
        assert expected is None or expected in text


def test_what_a_fit_notes_for_scripts_is_kept_by_copies_and_pickles(kink: Data) -> None:
    reg = fit_of(kink)
    for other in (copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        assert other._origin == reg._origin
    assert reg._origin == {
        "seed": 0,
        "start_seed": 0,
        "n_rows": 120,
        "weighted": False,
        "own_validation": False,
        "epochs_before": 0,
    }
