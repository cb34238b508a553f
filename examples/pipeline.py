"""How much do species, island and sex improve the prediction of a penguin's mass?

A ``ColumnTransformer`` encodes the categories. No other step is needed: ``TorchRegressor`` takes
millimetres, zeros and ones, and the pipeline predicts grams.
"""

# %% The data
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
mass_g = penguins["body_mass_g"]

# %% One pipeline, five sets of columns
# Every set has the three measurements, in mm. The score is the RMSE on each of five
# cross-validation folds.
MEASUREMENTS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
categories_of = {
    "measurements alone": [],
    "+ island": ["island"],
    "+ species": ["species"],
    "+ sex": ["sex"],
    "+ island, species, sex": ["island", "species", "sex"],
}
folds = KFold(5, shuffle=True, random_state=0)


def rmse_of_folds(regressor, categories):
    columns = ColumnTransformer([("one_hot", OneHotEncoder(), categories)], remainder="passthrough")
    pipeline = Pipeline([("columns", columns), ("regressor", regressor)])
    X = penguins[MEASUREMENTS + categories]
    scores = cross_val_score(pipeline, X, mass_g, cv=folds, scoring="neg_root_mean_squared_error")
    return -scores


regressors = {
    "LinearRegression": LinearRegression(),
    "TorchRegressor": TorchRegressor(
        module=MLP, module__hidden_sizes=[50, 50], max_epochs=50, random_state=0
    ),
}
rmse_g = {
    name: {
        columns: rmse_of_folds(regressor, categories)
        for columns, categories in categories_of.items()
    }
    for name, regressor in regressors.items()
}

# %% The table
print(f"{'cross-validated RMSE (g)':<28}" + "".join(f"{name:>18}" for name in regressors))
for columns in categories_of:
    means = "".join(f"{rmse_g[name][columns].mean():18.0f}" for name in regressors)
    print(f"{columns:<28}{means}")

# %% The figure
fig, ax = plt.subplots(figsize=(7, 3.6))
rows = np.arange(len(categories_of))[::-1]  # the first on top
for (name, of_columns), color, shift in zip(
    rmse_g.items(), ["0.5", "C0"], [0.14, -0.14], strict=True
):
    of_folds = np.array(list(of_columns.values()))  # (columns, folds)
    ax.plot(of_folds, rows + shift, "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
    ax.plot(of_folds.mean(axis=1), rows + shift, "D", color=color, label=name)
ax.set(
    yticks=rows,
    yticklabels=list(categories_of),
    xlabel="cross-validated RMSE (g); dots: one fold, diamonds: mean",
)
ax.grid(axis="y", visible=False)
ax.legend(loc="lower right")
fig.savefig(FIGURES / "pipeline.png")

# %% The answer
without, with_all = (
    (rmse_g["TorchRegressor"][columns] ** 2).mean()
    for columns in ["measurements alone", "+ island, species, sex"]
)
print(
    f"\nSpecies, island and sex explain {1 - with_all / without:.0%} of the variance that the "
    "measurements alone leave unexplained."
)
