"""Does a tuned network predict a penguin's mass better than linear regression?

``GridSearchCV`` tunes arguments of the network (``module__*``) and of the optimizer
(``optimizer__*``) by name. The example compares it with ``LinearRegression`` and with
``MLPRegressor`` tuned over the same grid, with and without scaling of X and y.
"""

# %% The data
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
X = penguins[["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]]
mass_g = penguins["body_mass_g"]

# %% The candidates
# All networks have the same widths, two values of weight decay, Adam with the same learning rate,
# and 100 epochs. `alpha` of MLPRegressor and `weight_decay` of AdamW are defined differently, so
# their values differ.
SIZES = [[5], [50], [50, 50]]

torch_regressor = TorchRegressor(
    module=MLP, optimizer="adamw", lr=0.01, max_epochs=100, random_state=0
)
mlp = MLPRegressor(learning_rate_init=0.01, max_iter=100, random_state=0)
scaled_mlp = TransformedTargetRegressor(
    make_pipeline(StandardScaler(), mlp), transformer=StandardScaler()
)
candidates = {
    "LinearRegression": (LinearRegression(), {}),
    "MLPRegressor, raw units": (
        mlp,
        {"hidden_layer_sizes": SIZES, "alpha": [1e-4, 1]},
    ),
    "MLPRegressor, scaled": (
        scaled_mlp,
        {
            "regressor__mlpregressor__hidden_layer_sizes": SIZES,
            "regressor__mlpregressor__alpha": [1e-4, 1],
        },
    ),
    "TorchRegressor": (
        torch_regressor,
        {"module__hidden_sizes": SIZES, "optimizer__weight_decay": [0, 1]},
    ),
}

# %% The searches
# Since scikit-learn 1.9, a search passes callbacks on to estimators that support them: the progress
# bar of the search is followed by one for every fit of TorchRegressor.
folds = KFold(3, shuffle=True, random_state=0)
searches = {
    name: GridSearchCV(regressor, grid, cv=folds, scoring="neg_root_mean_squared_error")
    for name, (regressor, grid) in candidates.items()
}
if hasattr(GridSearchCV, "set_callbacks"):
    from sklearn.callback import ProgressBar

    searches["TorchRegressor"].set_callbacks(ProgressBar())

with warnings.catch_warnings():
    # MLPRegressor warns if 100 epochs are not enough for its `tol`; the budget is the same for all
    # networks on purpose.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for search in searches.values():
        search.fit(X, mass_g)


# %% The table
def rmse_of_folds(search, candidate):
    results = search.cv_results_
    return np.array([-results[f"split{fold}_test_score"][candidate] for fold in range(3)])


print(f"{'best of each search':<32} {'RMSE (g)':>9}")
for name, search in searches.items():
    best = ", ".join(f"{key.split('__')[-1]}={v}" for key, v in search.best_params_.items())
    print(f"{name:<32} {-search.best_score_:9.0f}  {best}")

# %% The figure
fig, ax = plt.subplots(figsize=(7, 3.6))
names = list(searches)[::-1]  # the first on top
for row, (name, color) in enumerate(zip(names, ["C0", "C2", "C1", "0.4"], strict=True)):
    search = searches[name]
    means = -search.cv_results_["mean_test_score"]
    best = search.best_index_
    of_best = rmse_of_folds(search, best)
    labels = ["candidate, mean of three folds", "best candidate", "its three folds"]
    if name != "LinearRegression":  # one row is enough for the legend
        labels = [None] * 3
    style = {"color": color, "markersize": 7}
    ax.plot(means, [row] * len(means), "o", markerfacecolor="white", label=labels[0], **style)
    ax.plot(means[best], row, "o", label=labels[1], **style)
    ax.plot(of_best, [row - 0.22] * 3, "|", markeredgewidth=2, label=labels[2], **style)
    ax.text(means[best], row + 0.2, f"{means[best]:.0f} g", color=color, ha="center")
ax.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.5, len(names) - 0.4))
ax.set_xlabel("cross-validated RMSE (g)")
ax.grid(axis="y", visible=False)
ax.legend(loc="lower right")
fig.savefig(FIGURES / "grid_search.png")

# %% The answer
line_g, network_g = (-searches[n].best_score_ for n in ["LinearRegression", "TorchRegressor"])
print(
    f"\nThe RMSE of a tuned network is {network_g:.0f} g, that of linear regression "
    f"{line_g:.0f} g; TorchRegressor needs no scaler."
)
