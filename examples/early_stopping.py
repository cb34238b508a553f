"""When does a network start to overfit?

A network with two hidden layers of 100 units has 10,600 parameters, many more than 100 training
rows. At first the losses of training and validation rows both fall; later only the training loss
does. Early stopping keeps the weights with the lowest validation loss.
"""

# %% The data: 100 penguins for training, 233 for validation
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from torchreg import TorchRegressor
from torchreg.nn import MLP

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
X = penguins[["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]]
X, X_val, mass_g, mass_g_val = train_test_split(
    X, penguins["body_mass_g"], train_size=100, random_state=0
)

# %% Train to the end, and train with early stopping
# Both record the validation loss. The second stops after 30 epochs without an improvement and keeps
# the weights of the best epoch. Without `X_val` and `y_val`, `early_stopping=True` holds out a
# tenth of the training rows.
to_the_end = TorchRegressor(
    module=MLP, module__hidden_sizes=[100, 100], max_epochs=600, random_state=0
)
to_the_end.fit(X, mass_g, X_val=X_val, y_val=mass_g_val)

stopped = TorchRegressor(
    module=MLP,
    module__hidden_sizes=[100, 100],
    max_epochs=600,
    early_stopping=True,
    n_iter_no_change=30,
    random_state=0,
)
stopped.fit(X, mass_g, X_val=X_val, y_val=mass_g_val)


# %% In grams
# Losses are in standardized units: predicting the mean has a mean squared error of 1. The square
# root times the standard deviation of y, a buffer of the network, is the RMSE in grams.
std_g = stopped.module_.unstandardize.scale.item()


def to_grams(loss):
    return np.sqrt(loss) * std_g


def to_loss(rmse_g):
    return (rmse_g / std_g) ** 2


# %% The figure
fig, ax = plt.subplots()
epochs = np.arange(1, to_the_end.n_iter_ + 1)
ax.plot(epochs, to_the_end.loss_curve_, color="C0", label="training: 100 penguins")
ax.plot(epochs, to_the_end.validation_loss_curve_, color="C1", label="validation: 233 penguins")
best, last = stopped.best_epoch_, stopped.n_iter_
best_loss = stopped.validation_loss_curve_[best - 1]
ax.axvspan(best, last, color="0.9", linewidth=0, label="30 epochs of patience")
ax.plot(best, best_loss, "o", color="black", label=f"best epoch: {best}", zorder=3)
ax.set(xscale="log", yscale="log", xlabel="epoch", ylabel="loss (standardized: variance of y = 1)")
grams = ax.secondary_yaxis("right", functions=(to_grams, to_loss))
grams.set_ylabel("RMSE (g)")
grams.set_yticks([100, 200, 300, 400, 600, 800], labels=["100", "200", "300", "400", "600", "800"])
grams.minorticks_off()
ax.legend(loc="lower left")
fig.savefig(FIGURES / "early_stopping.png")

# %% The answer
print(
    f"The validation RMSE falls for {best} epochs, to {to_grams(best_loss):.0f} g; then the "
    f"network overfits. Without early stopping it ends at "
    f"{to_grams(to_the_end.validation_loss_curve_[-1]):.0f} g."
)
