"""What is inside a fitted regressor?

A network, two scaling constants before it, two after it, and a training loop. ``to_script`` writes
all of it as a plain PyTorch script, which can be edited. This example runs the script in a process
in which torchreg cannot be imported.
"""

# %% The data, and a fit
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
flipper_mm, mass_g = penguins[["flipper_length_mm"]], penguins["body_mass_g"]

reg = TorchRegressor(
    module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=1000, random_state=0
)
reg.fit(flipper_mm, mass_g)

# %% The script
# With X and y, the rows are written to a file next to the script, so that it can train; the fitted
# parameters are always written, as a state dict. The example prints the network of the script.
script = FIGURES / "take_apart.py"
reg.to_script(script, flipper_mm, mass_g)

text = script.read_text(encoding="utf-8")
print("def build_network" + text.partition("def build_network")[2].partition("\n\n\n")[0])

# %% The script, run
# `sys.modules["torchreg"] = None` makes the import of torchreg fail. The script runs twice: without
# arguments it predicts with the fitted parameters, trains the same network again from the same
# seed, and draws both (the environment variable sets the style of the figure); with a file of new
# rows it prints predictions.
new_mm = pd.DataFrame({"flipper_length_mm": [175, 200, 225]})
new_rows = FIGURES / "take_apart_new.csv"
new_mm.to_csv(new_rows, index=False)

WITHOUT_TORCHREG = """
import runpy, sys
sys.modules["torchreg"] = None
script, new_rows = sys.argv[1:]
for sys.argv in [script], [script, new_rows]:
    runpy.run_path(script, run_name="__main__")
"""
done = subprocess.run(
    [sys.executable, "-c", WITHOUT_TORCHREG, script, new_rows],
    env={**os.environ, "MATPLOTLIBRC": str(HERE / "figures.mplstyle")},
    stdout=subprocess.PIPE,
    encoding="utf-8",
    check=True,
)
print(f"\n{done.stdout}")

# %% The answer
n_parameters = sum(p.numel() for p in reg.module_.parameters())
answers_g = np.array(done.stdout.split()[-3:], dtype=float)
difference_g = np.abs(answers_g - reg.predict(new_mm)).max()
agreement = "exactly" if difference_g == 0 else f"within {difference_g:.0e} g"
print(
    f"\nThe regressor is a network of {n_parameters} parameters and four constants: as a script of "
    f"{len(text.splitlines())} lines of plain PyTorch, its predictions agree {agreement}."
)
