"""Are sixteen networks in one better than one network, for the mass of a penguin?

TabM (Gorishniy, Kotelnikov and Babenko, 2025) is many networks that share most of their weights.
Its output has the shape (rows, members, outputs): `TorchRegressor` trains on the mean of the
members' losses and predicts their mean. Needs `pip install "torchreg[tabular]"`.
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
# `in_features` and `out_features` are filled in from the data, the rest is `module__*`.
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

# %% What unseen penguins say
folds = KFold(5, shuffle=True, random_state=0)
rmse_g = {
    name: -cross_val_score(model, X, mass_g, cv=folds, scoring="neg_root_mean_squared_error")
    for name, model in models.items()
}

# %% A fitted one, with raw units outside
module = models["TabM, 16 members"].fit(X, mass_g).module_
print(f"{module.network.k} members, then {module.average}, then {module.unstandardize}.")

# %% The figure
fig, ax = plt.subplots()
for place, values in enumerate(rmse_g.values()):
    ax.scatter(values, np.full(len(values), place), color=f"C{place}", alpha=0.5, linewidths=0)
    ax.scatter(values.mean(), place, color=f"C{place}", marker="|", s=600)
ax.set_yticks(range(len(models)), list(models))
ax.set_ylim(-0.5, len(models) - 0.5)
ax.set(xlabel="RMSE of unseen penguins (g): five folds, and their mean")
fig.savefig(FIGURES / "members.png")

# %% The answer
means = {name: values.mean() for name, values in rmse_g.items()}
print(
    f"Sixteen networks in one are wrong by {means['TabM, 16 members']:.0f} g, one network by "
    f"{means['one network']:.0f} g, and a straight line by {means['straight line']:.0f} g."
)
