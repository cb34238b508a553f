"""How can a fitted network be inspected?

A network with five ReLU units predicts the body mass of penguins from their flipper length. Four
displays show the fitted curve, the losses, the predictions and the activations; a report collects
them on one page.
"""

# %% The data: 233 penguins for training, 100 for validation
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.model_selection import train_test_split

from torchreg import TorchRegressor
from torchreg.nn import MLP
from torchreg.plotting import ActivationDisplay, FitDisplay, LossCurveDisplay, PredictionDisplay

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
X, X_new, mass_g, mass_g_new = train_test_split(
    penguins[["flipper_length_mm"]], penguins["body_mass_g"], test_size=100, random_state=0
)

# %% The network
# Early stopping keeps the weights with the lowest loss on the 100 validation penguins.
reg = TorchRegressor(
    module=MLP,
    module__hidden_sizes=[5],
    optimizer="rprop",
    max_epochs=1000,
    early_stopping=True,
    n_iter_no_change=100,
    random_state=0,
)
reg.fit(X, mass_g, X_val=X_new, y_val=mass_g_new)

# %% Four displays
# Displays have the interface of scikit-learn's displays. Names come from the DataFrame; units are
# given separately.
units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
fig, axes = plt.subplots(2, 2, figsize=(10, 7))

# The fitted curve, with a circle at each bend.
fit = FitDisplay.from_estimator(reg, X, mass_g, units=units, ax=axes[0, 0])

# The losses: in standardized units on the left axis, in grams on the right.
losses = LossCurveDisplay.from_estimator(reg, units=units, ax=axes[0, 1])

# Predictions of the validation penguins.
prediction = PredictionDisplay.from_estimator(
    reg, X_new, mass_g_new, kind="actual_vs_predicted", units=units, ax=axes[1, 0]
)

# Activations of the layers, before and after the fit: ReLUs set about half of them to 0.
activations = ActivationDisplay.from_estimator(reg, X, ax=axes[1, 1])

fig.savefig(FIGURES / "displays.png", dpi=100)

# %% The report
# The same figures with findings, network, data and settings, in one HTML file:
# figures/displays.html.
page = reg.report(
    FIGURES / "displays.html", X_new, mass_g_new, units=units, title="Flippers and body mass"
)
print(f"{page.name}: {page.stat().st_size / 1000:.0f} kB")

# %% The answer
((rmse_g, r2),) = prediction.scores_
bends_mm = ", ".join(f"{bend:.0f}" for bend in fit.bends)
print(
    f"The fitted curve bends at {bends_mm} mm. It predicts 100 validation penguins with an RMSE of "
    f"{rmse_g:.0f} g, R2 = {r2:.2f}."
)
