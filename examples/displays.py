"""What does a fitted network look like, from outside and inside?

A network with five ReLU units predicts a penguin's body mass from the length of its flippers.
Four displays show what it learned, how, how well, and what its layers do; one page holds them all.
"""

# %% The data: 233 penguins to train on, 100 to hold it against
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
# Early stopping watches the 100 penguins, and keeps the weights that suited them best.
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

# %% Four looks
# Displays are made as scikit-learn's are, and draw on any axes. They take names from the
# DataFrame; units are what a DataFrame does not know.
units = {"flipper_length_mm": "mm", "body_mass_g": "g"}
fig, axes = plt.subplots(2, 2, figsize=(10, 7))

# What it learned: a broken line, with a circle at each bend.
fit = FitDisplay.from_estimator(reg, X, mass_g, units=units, ax=axes[0, 0])

# How it learned: the loss of standardized masses on the left, in grams on the right.
losses = LossCurveDisplay.from_estimator(reg, units=units, ax=axes[0, 1])

# How well it predicts penguins that it did not learn from.
prediction = PredictionDisplay.from_estimator(
    reg, X_new, mass_g_new, kind="actual_vs_predicted", units=units, ax=axes[1, 0]
)

# What its layers give, before the fit and after: what a ReLU sets to 0 is half of them or so.
activations = ActivationDisplay.from_estimator(reg, X, ax=axes[1, 1])

fig.savefig(FIGURES / "displays.png", dpi=100)

# %% One page
# The same figures, what torchreg finds to say about the fit, the network, the data and the
# settings, in one file that needs nothing but a browser: figures/displays.html.
page = reg.report(
    FIGURES / "displays.html", X_new, mass_g_new, units=units, title="Flippers and body mass"
)
print(f"{page.name}: {page.stat().st_size / 1000:.0f} kB")

# %% The answer
((rmse_g, r2),) = prediction.scores_
bends_mm = ", ".join(f"{bend:.0f}" for bend in fit.bends)
print(
    f"The fit is a line that bends at {bends_mm} mm. It predicts 100 other penguins with an RMSE "
    f"of {rmse_g:.0f} g, R2 = {r2:.2f}."
)
