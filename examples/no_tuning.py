"""How well does an untuned network predict the mass of a penguin?

The example compares ``MLPRegressor()`` and ``TorchRegressor()`` with their default parameters on
millimetres and grams, with linear regression, gradient boosting, and ``MLPRegressor`` on
standardized data. ``TorchRegressor`` scales the data itself and chooses its settings from the
number of rows.
"""

# %% The data
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchRegressor

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
X = pd.get_dummies(penguins.drop(columns=["body_mass_g", "year"]), dtype=float)
mass_g = penguins["body_mass_g"]

# %% Five regressors, none of them tuned
regressors = {
    "LinearRegression()": LinearRegression(),
    "HistGradientBoostingRegressor()": HistGradientBoostingRegressor(random_state=0),
    "MLPRegressor()": MLPRegressor(random_state=0),
    "MLPRegressor, standardized": make_pipeline(
        StandardScaler(),
        TransformedTargetRegressor(MLPRegressor(random_state=0), transformer=StandardScaler()),
    ),
    "TorchRegressor()": TorchRegressor(random_state=0),
}
folds = KFold(5, shuffle=True, random_state=0)

rmse_g, seconds = {}, {}
for name, regressor in regressors.items():
    started = time.perf_counter()
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        scores = cross_val_score(
            regressor, X, mass_g, cv=folds, scoring="neg_root_mean_squared_error"
        )
    seconds[name] = (time.perf_counter() - started) / folds.get_n_splits()
    rmse_g[name] = -scores

# %% The table
print(f"{'':<33}{'cross-validated RMSE (g)':>27}{'seconds a fit':>15}")
for name, of_folds in rmse_g.items():
    print(f"{name:<33}{of_folds.mean():27.0f}{seconds[name]:15.2f}")

# %% The chosen settings
# Each network holds out another fold of the rows and keeps the weights with the lowest loss on it;
# the prediction is their mean.
reg = TorchRegressor(random_state=0).fit(X, mass_g)
print(f"\n{reg}\nchose", *(f"{key}={value!r}" for key, value in reg.chosen_params_.items()))
print(f"\n{reg.diagnose()}")

# %% The figure
fig, ax = plt.subplots(figsize=(7, 3.0))
rows = np.arange(len(regressors))[::-1]  # the first on top
for name, row in zip(regressors, rows, strict=True):
    color = "C0" if name == "TorchRegressor()" else "0.5"
    ax.plot(rmse_g[name], np.full(5, row), "o", color=color, alpha=0.35, markersize=4)
    ax.plot(rmse_g[name].mean(), row, "D", color=color)
ax.set(
    xscale="log",
    xticks=[250, 500, 1000],
    xticklabels=["250", "500", "1000"],
    yticks=rows,
    yticklabels=list(regressors),
    xlabel="cross-validated RMSE (g); dots: one fold, diamonds: mean",
)
ax.minorticks_off()
ax.grid(axis="y", visible=False)
fig.savefig(FIGURES / "no_tuning.png")

# %% The answer
mean_g = {name: values.mean() for name, values in rmse_g.items()}
print(
    f"\nThe RMSE of TorchRegressor() is {mean_g['TorchRegressor()']:.0f} g, that of MLPRegressor() "
    f"{mean_g['MLPRegressor, standardized']:.0f} g on standardized data and "
    f"{mean_g['MLPRegressor()']:.0f} g on raw data."
)
