"""How uncertain are predictions outside the training data?

A network predicts for every input, also for flippers longer than all training rows. The predictions
of twenty networks agree within the training data and differ outside; their standard deviation
measures this uncertainty. Here they are trained on penguins with flippers of up to 205 mm and
predict the others.
"""

# %% The data: 207 penguins with short flippers for training, 126 with long flippers for testing
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from torchreg import TorchEnsembleRegressor, TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
short = penguins[penguins["flipper_length_mm"] <= 205]
long = penguins[penguins["flipper_length_mm"] > 205]

# %% Twenty networks, trained together
# They differ in initial weights and the order of batches; with `bootstrap=True` also in the
# training rows, which are drawn with replacement.
network = TorchRegressor(module=MLP, max_epochs=300)
ensembles = {
    "the same rows": TorchEnsembleRegressor(network, 20, random_state=0),
    "bootstrap rows": TorchEnsembleRegressor(network, 20, bootstrap=True, random_state=0),
}
start = perf_counter()
for ensemble in ensembles.values():
    ensemble.fit(short[["flipper_length_mm"]], short["body_mass_g"])
seconds = perf_counter() - start

# %% Mean and standard deviation of the predictions
length_mm = pd.DataFrame({"flipper_length_mm": np.linspace(165, 235, 281)})
x = length_mm["flipper_length_mm"]
fig, axes = plt.subplots(1, 2, sharex=True, sharey=True)
for ax, (title, ensemble) in zip(axes, ensembles.items(), strict=True):
    mean_g, std_g = ensemble.predict(length_mm, return_std=True)
    low, high = mean_g - 2 * std_g, mean_g + 2 * std_g
    ax.plot(short["flipper_length_mm"], short["body_mass_g"], ".", color="0.55", label="training")
    ax.plot(long["flipper_length_mm"], long["body_mass_g"], ".", color="C1", label="test")
    ax.fill_between(x, low, high, color="C0", alpha=0.25, linewidth=0, label="± 2 std of the 20")
    ax.plot(x, mean_g, color="C0", label="mean of 20 networks")
    ax.set(title=f"20 networks with {title}", xlabel="flipper length (mm)")
axes[0].set(ylabel="body mass (g)", ylim=(2000, 9000))
axes[0].legend(loc="upper left")
fig.savefig(FIGURES / "ensemble.png")

# %% One of the networks
# Each member is a fitted `TorchRegressor`. The ensemble is one module, which `ensemble.save` and
# `to_onnx` store as a whole.
bagged = ensembles["bootstrap rows"]
print(bagged.estimators_[0].diagnose())
print(f"{len(bagged.module_.state_dict())} tensors; both ensembles took {seconds:.1f} s to fit")

# %% The answer
longest = penguins[penguins["flipper_length_mm"].between(228, 232)]
asked = pd.DataFrame({"flipper_length_mm": [190.0, 230.0]})
spread = {title: e.predict(asked, return_std=True)[1] for title, e in ensembles.items()}
(_, alike_g), (near_g, far_g) = spread.values()
error_g = bagged.predict(asked)[1] - longest["body_mass_g"].mean()
print(
    f"At 230 mm, 25 mm beyond the training data, the mean of twenty networks is {error_g:.0f} g "
    f"too high, and their standard deviation is {far_g:.0f} g ({alike_g:.0f} g without bootstrap); "
    f"at 190 mm it is {near_g:.0f} g."
)
