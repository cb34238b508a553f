"""Can five ReLU units fit a bent line to 333 penguins?

The body mass of a penguin (about 4200 g) increases with its flipper length (about 200 mm), but not
along a straight line. A network with five ReLU units can fit the bends, *if* its inputs and outputs
are of order 1. This example compares five models:

1. linear regression,
2. scikit-learn's ``MLPRegressor`` on millimetres and grams,
3. a plain PyTorch loop on millimetres and grams,
4. the same loop with four constants, chosen by hand, inside the network,
5. ``TorchRegressor``, which computes these constants.

At the end, ``diagnose`` reports what went wrong with the third model.
"""

# %% The data
import warnings
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from torch import nn

from torchreg import TorchRegressor
from torchreg.nn import MLP, AddConstant, MultiplyByConstant

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
flipper_mm = penguins[["flipper_length_mm"]].to_numpy(dtype=float)  # (333, 1)
mass_g = penguins["body_mass_g"].to_numpy(dtype=float)  # (333,)


# %% The network, and a loop to train it
# A plain PyTorch network and training loop. Rprop needs no tuning: every parameter has its own
# step size, which grows while the gradient keeps its sign.
class NeuralNetworkWithReLU(nn.Module):
    def __init__(self, hidden_layer_size):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, hidden_layer_size), nn.ReLU(), nn.Linear(hidden_layer_size, 1)
        )

    def forward(self, x):
        return self.layers(x)


EPOCHS = 1000
x = torch.tensor(flipper_mm, dtype=torch.float32)
t = torch.tensor(mass_g, dtype=torch.float32).reshape(-1, 1)  # (333,) -> (333, 1)


def train(network, epochs=EPOCHS):
    optimizer = torch.optim.Rprop(network.parameters())
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def predict_with(network):
    def predict(length_mm):
        with torch.no_grad():
            mass = network(torch.tensor(length_mm, dtype=torch.float32))
        return mass[:, 0].double().numpy()  # (n, 1) -> (n,)

    return predict


# %% The five models
# All networks use seed 0; models 3, 4 and 5 start from the same weights. Other seeds give similar
# results. For seeds 0 to 49,
#
#   (375 to 392 g). It uses "lbfgs", its solver for small data; with its default, "adam", it is
#   worse than the straight line after 1000 epochs (580 g or more for every seed);
straight_line = LinearRegression()
mlp = MLPRegressor(hidden_layer_sizes=[5], solver="lbfgs", max_iter=EPOCHS, random_state=0)

torch.manual_seed(0)
raw_network = NeuralNetworkWithReLU(5)

torch.manual_seed(0)
network_with_constants = nn.Sequential(
    AddConstant(-200),
    MultiplyByConstant(1 / 10),  # mm to order 1
    NeuralNetworkWithReLU(5),
    MultiplyByConstant(800),
    AddConstant(4200),  # order 1 to g
)

reg = TorchRegressor(
    NeuralNetworkWithReLU,
    module__hidden_layer_size=5,
    optimizer="rprop",
    max_epochs=EPOCHS,
    random_state=0,
)

# %% Fit them
# The first step of a torch optimizer in a process imports a large part of torch, which takes about
# a second. A short fit of each model keeps this time out of the measurement.
train(NeuralNetworkWithReLU(5), epochs=1)
TorchRegressor(module=MLP, optimizer="rprop", max_epochs=1).fit(flipper_mm, mass_g)
straight_line.fit(flipper_mm, mass_g)
mlp.fit(flipper_mm, mass_g)


def timed(function, *arguments):
    start = perf_counter()
    result = function(*arguments)
    return result, perf_counter() - start


_, line_seconds = timed(straight_line.fit, flipper_mm, mass_g)
_, mlp_seconds = timed(mlp.fit, flipper_mm, mass_g)
raw_losses, raw_seconds = timed(train, raw_network)
constants_losses, constants_seconds = timed(train, network_with_constants)
_, reg_seconds = timed(reg.fit, flipper_mm, mass_g)

models = {
    "LinearRegression": (straight_line.predict, line_seconds),
    "MLPRegressor, raw units": (mlp.predict, mlp_seconds),
    "PyTorch loop, raw units": (predict_with(raw_network), raw_seconds),
    "PyTorch loop, constants by hand": (predict_with(network_with_constants), constants_seconds),
    "TorchRegressor": (reg.predict, reg_seconds),
}


# %% Count the bends
# A ReLU network is piecewise linear: its slope is constant between bends. A bend is where the slope
# between neighbours on a fine grid, from the shortest to the longest flipper, changes by more than
# 1 g/mm, which is 2 % of the slope of the straight line and much more than rounding in float32. A
# bend between two grid points changes the slope twice in a row and counts once.
grid_mm = np.arange(flipper_mm.min(), flipper_mm.max() + 0.05, 0.1).reshape(-1, 1)  # (n, 1)


def find_bends(curve_g):
    slope = np.diff(curve_g) / np.diff(grid_mm[:, 0])  # g/mm
    bent = np.abs(np.diff(slope)) > 1
    first = bent & ~np.append(False, bent[:-1])
    return np.flatnonzero(first) + 1  # where on the grid


def root_mean_squared_error(prediction_g):
    return np.sqrt(np.mean((prediction_g - mass_g) ** 2))


rows = {}
for name, (predict, seconds) in models.items():
    rmse_g = root_mean_squared_error(predict(flipper_mm))
    r2 = 1 - rmse_g**2 / mass_g.var()
    rows[name] = (rmse_g, r2, len(find_bends(predict(grid_mm))), seconds)

table = [f"{'model':<32} {'RMSE (g)':>9} {'R2':>6} {'bends':>6} {'seconds':>8}", "-" * 65]
for name, (rmse_g, r2, bends, seconds) in rows.items():
    table.append(f"{name:<32} {rmse_g:9.2f} {r2:6.3f} {bends:6d} {seconds:8.2f}")
print("\n".join(table))
(FIGURES / "penguins.txt").write_text("\n".join(table) + "\n")

# %% The figure: the penguins and the five curves
# Models 1, 2 and 3 give the same line, and models 4 and 5 nearly the same curve; dashes and widths
# keep them visible. Circles mark the bends of TorchRegressor.
styles = {
    "LinearRegression": {"color": "0.65", "linewidth": 5},
    "MLPRegressor, raw units": {"color": "C3", "linestyle": (0, (3, 3))},
    "PyTorch loop, raw units": {"color": "C1", "linestyle": (3, (3, 3))},
    "PyTorch loop, constants by hand": {"color": "C5", "linewidth": 5},
    "TorchRegressor": {"color": "C0"},
}
fig, ax = plt.subplots()
ax.scatter(flipper_mm, mass_g, s=14, color="0.3", alpha=0.45, linewidths=0)
for name, (predict, _) in models.items():
    ax.plot(grid_mm, predict(grid_mm), label=f"{name}: {rows[name][0]:.0f} g", **styles[name])
curve_g = reg.predict(grid_mm)
bends = find_bends(curve_g)
ax.plot(grid_mm[bends], curve_g[bends], "o", color="C0", markerfacecolor="white", markersize=7)
ax.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
ax.legend(title="training RMSE", alignment="left", loc="upper left", handlelength=3)
fig.savefig(FIGURES / "penguins_fit.png")

# %% The figure: training curves
# The best known fit of five ReLU units has an RMSE of 369.64 g. The difference to it, on a
# logarithmic axis, shows both the thousands of grams at the start and the few at the end. The loss
# of TorchRegressor is in units of the standard deviation of y, which is a buffer of the network.
# MLPRegressor records no curve with "lbfgs", so only its final value is drawn.
BEST_KNOWN_G = 369.64
std_g = reg.module_.unstandardize.scale.item()
curves_g = {
    "PyTorch loop, raw units": np.sqrt(raw_losses),
    "PyTorch loop, constants by hand": np.sqrt(constants_losses),
    "TorchRegressor": np.sqrt(reg.loss_curve_) * std_g,
}
fig, ax = plt.subplots()
epochs = np.arange(1, EPOCHS + 1)
for name, curve_g in curves_g.items():
    ax.plot(epochs, curve_g - BEST_KNOWN_G, label=name, **styles[name] | {"linestyle": "-"})
end_g = rows["MLPRegressor, raw units"][0] - BEST_KNOWN_G
ax.plot(mlp.n_iter_, end_g, "o", color="C3", label="MLPRegressor, raw units: final value")
line_g = rows["LinearRegression"][0] - BEST_KNOWN_G
ax.axhline(line_g, color="0.65", zorder=0, label="LinearRegression")
ax.set(xscale="log", yscale="log", xlabel="epoch")
ax.set_ylabel(f"training RMSE above the best known, {BEST_KNOWN_G} g (g)")
ax.legend(loc="upper right", fontsize=9)
fig.savefig(FIGURES / "penguins_loss.png")

# %% The diagnosis
# Nothing reported that the ReLUs of the third model had no effect. The same fit with TorchRegressor
# and without its scaling does: `fit` warns, and `diagnose` explains. The scaled fit has no finding.
raw_reg = clone(reg).set_params(standardize=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    raw_reg.fit(penguins[["flipper_length_mm"]], penguins["body_mass_g"])
print(f"\nRaw units, with a warning ({caught[0].category.__name__}) and this diagnosis:\n")
print(raw_reg.diagnose())
print(f"\nScaled:\n\n{reg.diagnose()}")

# %% The answer
rmse_g = rows["TorchRegressor"][0]
print(
    "\nOn raw units five ReLU units end as a straight line; TorchRegressor fits "
    f"{len(bends)} bends, to {rmse_g - BEST_KNOWN_G:.0f} g above the best known fit."
)
