"""What is inside a fitted regressor?

A network, two numbers in front of it, two behind, and a loop that moved its parameters. Here a
regressor writes all of that down as a plain PyTorch script, in which every line can be changed,
and the script is run where torchreg cannot be imported.
"""

# %% The data, and a fit
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from torchreg import TorchRegressor

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
flipper_mm, mass_g = penguins[["flipper_length_mm"]], penguins["body_mass_g"]

reg = TorchRegressor(module__hidden_sizes=[5], optimizer="rprop", max_epochs=1000, random_state=0)
reg.fit(flipper_mm, mass_g)

# %% The script
# With X and y, the rows are written beside it, so that it can train at once; the fitted
# parameters always are, as a state dict. What stands between these two lines is the network.
script = FIGURES / "take_apart.py"
reg.to_script(script, flipper_mm, mass_g)

text = script.read_text(encoding="utf-8")
print("def build_network" + text.partition("def build_network")[2].partition("\n\n\n")[0])

# %% The script, run
# `None` in the place of a module is how Python is told that it must not be imported. The script
# predicts with the fitted parameters, trains the same network again from the same seed, and
# draws both into the figure. matplotlib takes its style from a file that is named to it.
WITHOUT_TORCHREG = """
import runpy, sys
sys.modules["torchreg"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(*rows):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHREG, script, *rows],
        env={**os.environ, "MATPLOTLIBRC": str(HERE / "figures.mplstyle")},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


print(run_script())

# %% Penguins that it has not seen
# Rows without masses are answered with masses.
new_mm = pd.DataFrame({"flipper_length_mm": [175, 200, 225]})
new_mm.to_csv(FIGURES / "take_apart_new.csv", index=False)
_, *lines = run_script(FIGURES / "take_apart_new.csv").split()
script_g, reg_g = np.array(lines, dtype=float), reg.predict(new_mm)
print(pd.DataFrame({"flipper (mm)": [175, 200, 225], "script (g)": script_g, "reg (g)": reg_g}))

# %% The answer
n_parameters = sum(p.numel() for p in reg.module_.parameters())
difference_g = np.abs(script_g - reg_g).max()
agreement = "to the last bit" if difference_g == 0 else f"within {difference_g:.0e} g"
print(
    f"\nInside is a network of {n_parameters} parameters between four constants: written down in "
    f"{len(text.splitlines())} lines of plain PyTorch, it predicts what the regressor predicts, "
    f"{agreement}."
)
