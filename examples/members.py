"""Does TabM with sixteen members predict the mass of a penguin better than one network?

TabM (Gorishniy, Kotelnikov and Babenko, 2025) is an ensemble whose networks share most weights.
Its output has shape (n_rows, n_members, n_outputs): `TorchRegressor` trains on the mean of the
members' losses and predicts their mean. This needs `pip install "torch-regressor[tabular]"`.
"""

# %% The data: 333 penguins, three lengths in millimetres, species and sex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from tabm import TabM

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
lengths = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
X = pd.get_dummies(penguins[[*lengths, "species", "sex"]], drop_first=True, dtype=float)
mass_g = penguins["body_mass_g"]


# %% A function that builds TabM
# `in_features` and `out_features` come from the data, other arguments from `module__*`.
def build_tabm(in_features, out_features, members=16, width=32):
    return TabM.make(
        n_num_features=in_features,
        d_out=out_features,
        k=members,
        n_blocks=2,
        d_block=width,
        dropout=0.1,
    )


settings = {"optimizer": "adamw", "lr": 3e-3, "max_epochs": 100, "random_state": 0}
models = {
    "straight line": LinearRegression(),
    "one network": TorchRegressor(module=MLP, module__hidden_sizes=(32, 32), **settings),
    "TabM, 16 members": TorchRegressor(build_tabm, **settings),
}

# %% Cross-validation
folds = KFold(5, shuffle=True, random_state=0)
rmse_g = {
    name: -cross_val_score(model, X, mass_g, cv=folds, scoring="neg_root_mean_squared_error")
    for name, model in models.items()
}

# %% A fitted TabM: raw units to raw units
module = models["TabM, 16 members"].fit(X, mass_g).module_
print(f"{module.network.k} members, then {module.average}, then {module.unstandardize}.")

# %% The figure
fig, ax = plt.subplots()
for place, values in enumerate(rmse_g.values()):
    ax.scatter(values, np.full(len(values), place), color=f"C{place}", alpha=0.5, linewidths=0)
    ax.scatter(values.mean(), place, color=f"C{place}", marker="|", s=600)
ax.set_yticks(range(len(models)), list(models))
ax.set_ylim(-0.5, len(models) - 0.5)
ax.set(xlabel="cross-validated RMSE (g): five folds and their mean")
fig.savefig(FIGURES / "members.png")

# %% The answer
means = {name: values.mean() for name, values in rmse_g.items()}
print(
    f"The RMSE of TabM is {means['TabM, 16 members']:.0f} g, that of one network "
    f"{means['one network']:.0f} g, and that of a straight line {means['straight line']:.0f} g."
)
