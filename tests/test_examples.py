"""Every example runs by itself, draws its figure and ends with its answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
FIGURES = {"penguins.py": ["penguins_fit.png", "penguins_loss.png"]}
Runner = Callable[[str], tuple[Path, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Run a script once, in a copy of examples/ and data/ without figures and far from here."""
    finished: dict[str, tuple[Path, subprocess.CompletedProcess[str]]] = {}

    def run_script(script: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        if script not in finished:
            folder = tmp_path_factory.mktemp(Path(script).stem)
            figures = shutil.ignore_patterns("figures")
            shutil.copytree(ROOT / "examples", folder / "examples", ignore=figures)
            shutil.copytree(ROOT / "data", folder / "data")
            finished[script] = (
                folder / "examples" / "figures",
                subprocess.run(
                    [sys.executable, "-W", "error", f"examples/{script}"],
                    cwd=folder,
                    env={**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"},
                    capture_output=True,
                    encoding="utf-8",
                    timeout=120,
                ),
            )
        return finished[script]

    return run_script


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_example_draws_its_figure_without_a_warning_and_ends_with_a_sentence(
    script: str, run: Runner
) -> None:
    figures, process = run(script)
    assert process.returncode == 0, process.stdout + process.stderr
    expected = FIGURES.get(script, [script.replace(".py", ".png")])
    assert sorted(path.name for path in figures.glob("*.png")) == expected
    assert all(2_000 < (figures / name).stat().st_size < 150_000 for name in expected)
    assert re.fullmatch(r"[A-Z].* .*\.", process.stdout.rstrip().splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_readme_of_the_examples_shows_every_script_with_its_figures(script: str) -> None:
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"[{script}]({script})" in text
    for name in FIGURES.get(script, [script.replace(".py", ".png")]):
        assert f'src="figures/{name}"' in text
        assert (ROOT / "examples" / "figures" / name).is_file()


def test_penguins_raw_units_give_a_straight_line_and_scaled_units_bend_it(run: Runner) -> None:
    figures, process = run("penguins.py")
    table = (figures / "penguins.txt").read_text(encoding="utf-8")
    assert process.stdout.startswith(table)
    rows = {}
    for line in table.splitlines()[2:]:
        name, rmse_g, _, bends, _ = re.split(r" {2,}", line)
        rows[name] = float(rmse_g), int(bends)
    assert len(rows) == 5
    straight_g = 392.16
    assert rows["LinearRegression"] == (straight_g, 0)
    raw_g, raw_bends = rows["PyTorch loop, raw units"]
    assert raw_g > straight_g - 0.05
    assert raw_bends == 0
    for scaled in ("PyTorch loop, constants by hand", "TorchRegressor"):
        rmse_g, bends = rows[scaled]
        assert 369.6 < rmse_g < 380
        assert bends >= 1


def test_take_apart_the_script_in_the_repository_is_the_one_that_is_written(run: Runner) -> None:
    figures, _ = run("take_apart.py")
    folders = ROOT / "examples" / "figures", figures
    texts = [(folder / "take_apart.py").read_text(encoding="utf-8") for folder in folders]
    # The last digits of means and scales depend on the machine.
    kept, written = (re.sub(r"(\d+\.\d{9})\d+", r"\1", text) for text in texts)
    assert kept == written


def test_take_apart_the_script_and_the_regressor_agree(run: Runner) -> None:
    _, process = run("take_apart.py")
    difference_g = re.search(r"predictions differ by (\S+) at most", process.stdout)
    assert difference_g is not None
    assert float(difference_g[1]) < 1e-6


def test_penguins_are_told_what_went_wrong_with_raw_units(run: Runner) -> None:
    _, process = run("penguins.py")
    text = " ".join(process.stdout.split())
    for words in (
        "EffectivelyLinearWarning",
        "The network is effectively linear because of scale",
        "flipper_length_mm is about 201 ± 14 and body_mass_g is about 4210 ± 800",
        "Scaled: Nothing to worry about",
    ):
        assert words in text


def test_search_together_finds_the_table_of_one_after_another(run: Runner) -> None:
    _, process = run("search_together.py")
    _, alone, together, answer = re.split(
        r"^.*: \d+\.\d\d s$|^All \d+ networks", process.stdout, flags=re.M
    )
    assert alone == together
    assert "the best settings are the same" in answer
