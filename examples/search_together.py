"""How long does a grid search take if all its networks train together?

Inside ``joblib.parallel_config(backend="torchreg")``, the fits of a scikit-learn search train
together: networks of the same architecture become one batched computation, and the results of the
search stay the same.
"""

# %% The data
import time
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, KFold

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
X = penguins[["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]]
mass_g = penguins["body_mass_g"]

# %% The search
# 24 settings times five folds are 120 networks of two architectures.
regressor = TorchRegressor(
    module=MLP,
    optimizer="adamw",
    module__activation="tanh",
    batch_size=None,
    max_epochs=150,
    random_state=0,
)
grid = {
    "module__hidden_sizes": [[5], [10]],
    "lr": [0.003, 0.01, 0.03, 0.1],
    "optimizer__weight_decay": [0, 0.1, 1],
}
search = GridSearchCV(
    regressor,
    grid,
    scoring="neg_root_mean_squared_error",
    cv=KFold(5, shuffle=True, random_state=0),
)
regressor.fit(X, mass_g)  # imports of the first fit are in neither time

# %% One after another
start = time.perf_counter()
search.fit(X, mass_g)
alone_s = time.perf_counter() - start
alone = pd.DataFrame(search.cv_results_)

# %% Together
start = time.perf_counter()
with joblib.parallel_config(backend="torchreg"):
    search.fit(X, mass_g)
together_s = time.perf_counter() - start
together = pd.DataFrame(search.cv_results_)


# %% The best settings of both searches
def best_settings(results):
    rows = results.sort_values("rank_test_score", kind="stable").head(5)
    lines = [f"{'hidden':>6} {'lr':>6} {'weight decay':>12} {'RMSE (g)':>9}"]
    for _, row in rows.iterrows():
        hidden, decay = row["param_module__hidden_sizes"], row["param_optimizer__weight_decay"]
        rmse_g = -row["mean_test_score"]
        lines.append(f"{hidden[0]:>6} {row['param_lr']:>6} {decay:>12} {rmse_g:>9.2f}")
    return "\n".join(lines)


for name, results, seconds in [
    ("one after another", alone, alone_s),
    ("together", together, together_s),
]:
    print(f"{name}: {seconds:.2f} s\n{best_settings(results)}\n")

# %% The figure
alone_g, together_g = -alone["mean_test_score"], -together["mean_test_score"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), width_ratios=[2, 1])
left.axline((alone_g.min(), alone_g.min()), slope=1, color="0.6", linewidth=1, zorder=0)
left.plot(alone_g, together_g, "o", color="C1", markerfacecolor="white")
left.set_xlabel("RMSE (g) of a setting, one after another")
left.set_ylabel("together")
right.bar(["one after\nanother", "together"], [alone_s, together_s], color=["0.6", "C1"], width=0.6)
right.set_ylabel("seconds of the search")
right.grid(axis="x", visible=False)
fig.savefig(FIGURES / "search_together.png")

# %% The answer
difference = np.max(np.abs(alone_g / together_g - 1))
same = best_settings(alone) == best_settings(together)
print(
    f"All {len(alone) * 5} networks took {alone_s:.1f} s one after another and {together_s:.1f} s "
    f"together; the best settings are {'the same' if same else 'not the same'}, and the largest "
    f"relative difference of an RMSE is {difference:.0e}."
)
