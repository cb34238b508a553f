"""Can a network run without Python, from millimetres to grams?

A fitted ``TorchRegressor`` is a network that includes its scaling. As an ONNX file it runs with any
ONNX runtime, in C++, in a browser or on a phone, without separate preprocessing.
"""

# %% The regressor
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import pandas as pd
import torch

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
flipper_mm, mass_g = penguins[["flipper_length_mm"]], penguins["body_mass_g"]
reg = TorchRegressor(
    module=MLP, module__hidden_sizes=[5], optimizer="rprop", max_epochs=1000, random_state=0
)
reg.fit(flipper_mm, mass_g)

# %% An ONNX file
# ``to_onnx`` checks that onnxruntime and ``predict`` agree to 1e-5 standard deviations of y over
# the range of the training rows. The file contains the names of the columns.
grid_mm = np.linspace(170, 235, 300).reshape(-1, 1)  # (n, 1)
folder = tempfile.TemporaryDirectory()
onnx_file = Path(folder.name, "penguins.onnx")
reg.to_onnx(onnx_file, feature_units={"flipper_length_mm": "mm"}, target_units="g")

# From here on, only onnxruntime and numpy are needed. X and y are float64 of shape (n, 1).
session = onnxruntime.InferenceSession(onnx_file)
facts = session.get_modelmeta().custom_metadata_map
names, units = json.loads(facts["feature_names"]), json.loads(facts["feature_units"])
onnx_g = session.run(["y"], {"X": grid_mm})[0][:, 0]
print(f"{onnx_file.stat().st_size} bytes that take {names[0]} in {units[0]}")

# %% A program of torch.export
# For environments with torch, but without torchreg or the code of the module.
program_file = Path(folder.name, "penguins.pt2")
torch.export.save(reg.to_exported_program(), program_file)
compute = torch.export.load(program_file).module()
with torch.no_grad():
    program_g = compute(torch.from_numpy(grid_mm)).numpy()[:, 0]

# %% Precision of Unix times
# 333 times within ten minutes are about 1.76e9 s; float32 resolves only steps of 128 s there. The
# graph subtracts the mean in float64 before it casts.
rng = np.random.default_rng(0)
time_s = 1.76e9 + rng.uniform(0, 600, size=(333, 1))
drift_g = 4200 + 30 * np.sin((time_s[:, 0] - 1.76e9) / 60)
clock = TorchRegressor(module=MLP, module__hidden_sizes=[50, 50], max_epochs=300, random_state=0)
clock.fit(time_s, drift_g)
clock_file = Path(folder.name, "clock.onnx")
clock.to_onnx(clock_file)

grid_s = np.linspace(0, 600, 600)
clock_session = onnxruntime.InferenceSession(clock_file)
rows = 1.76e9 + grid_s.reshape(-1, 1)  # (n,) -> (n, 1)
clock_g = clock_session.run(["y"], {"X": rows})[0][:, 0]
rounded_g = clock_session.run(["y"], {"X": rows.astype(np.float32).astype(np.float64)})[0][:, 0]

# %% The figure
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
left.scatter(flipper_mm, mass_g, s=14, color="0.3", alpha=0.45, linewidths=0)
named = pd.DataFrame(grid_mm, columns=flipper_mm.columns)
left.plot(grid_mm, reg.predict(named), color="C0", linewidth=5, alpha=0.4, label="predict")
left.plot(grid_mm, onnx_g, color="C3", linestyle="--", label="onnxruntime")
left.plot(grid_mm, program_g, color="C1", linestyle=":", label="torch.export")
left.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
left.legend()
right.scatter(time_s - 1.76e9, drift_g, s=14, color="0.3", alpha=0.45, linewidths=0)
right.plot(grid_s, clock_g, color="C3", label="onnxruntime")
right.plot(grid_s, rounded_g, color="0.6", label="X in float32")
right.set(xlabel="Unix time − 1.76e9 (s)", ylabel="reading (g)", ylim=(4150, 4235))
right.legend(loc="lower left", ncols=2)
fig.savefig(FIGURES / "shipping.png")
folder.cleanup()

# %% The answer
apart_g = max(np.abs(way_g - reg.predict(named)).max() for way_g in (onnx_g, program_g))
bound_g = 1e-5 * mass_g.std()
print(
    "\nONNX Runtime and torch.export compute grams from millimetres without torchreg, "
    f"{'less' if apart_g < bound_g else 'more'} than {bound_g:.2g} g from predict."
)
