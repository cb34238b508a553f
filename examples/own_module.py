"""Does dropout detect inputs outside the training data?

Dropout sets hidden units to 0 at random during training. If it stays on for predictions, the
predictions vary, and their standard deviation is a measure of uncertainty (Gal and Ghahramani,
2016). Here a network is trained on Adelie penguins and predicts Gentoo penguins, which have longer
flippers.
"""

# %% The data: 146 Adelie penguins for training, 119 Gentoo penguins for testing
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from torchreg import TorchRegressor

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
FIGURES.mkdir(exist_ok=True)
plt.style.use(HERE / "figures.mplstyle")

penguins = pd.read_csv(HERE.parent / "data" / "penguins.csv").dropna()
adelie = penguins[penguins["species"] == "Adelie"]
gentoo = penguins[penguins["species"] == "Gentoo"]


# %% A custom module and a custom loss
# `in_features` and `out_features` come from the data, other arguments from `module__*`. The loss is
# a function of standardized predictions and targets: log(cosh) is quadratic for small errors and
# linear for large ones, so that outliers have less influence.
class NetworkWithDropout(nn.Module):
    def __init__(self, in_features, out_features, hidden_size=50, dropout=0.1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, out_features),
        )

    def forward(self, x):
        return self.layers(x)


def log_cosh(prediction, target):
    return torch.log(torch.cosh(prediction - target))


reg = TorchRegressor(
    NetworkWithDropout, module__dropout=0.2, loss=log_cosh, max_epochs=300, random_state=0
)
reg.fit(adelie[["flipper_length_mm"]].to_numpy(), adelie["body_mass_g"])

# %% A thousand predictions with dropout
# `module_` is a plain torch module from mm to g. In training mode dropout is on; the scaling is the
# same in both modes.
flipper_mm = torch.arange(170, 235).reshape(-1, 1)  # (n, 1)
torch.manual_seed(0)
reg.module_.train()
with torch.no_grad():
    predictions_g = torch.stack([reg.module_(flipper_mm)[:, 0] for _ in range(1000)])  # (1000, n)
reg.module_.eval()
std_g = predictions_g.std(dim=0).numpy()

# %% The figure
fig, ax = plt.subplots()
length_mm = flipper_mm[:, 0].numpy()
middle_g = reg.predict(flipper_mm.numpy())
for width, alpha in [(2, 0.2), (1, 0.3)]:
    low_g, high_g = middle_g - width * std_g, middle_g + width * std_g
    label = f"dropout on, ±{width} s.d."
    ax.fill_between(length_mm, low_g, high_g, color="C0", alpha=alpha, linewidth=0, label=label)
ax.plot(length_mm, middle_g, color="C0", label="dropout off")
for birds, color, label in [(adelie, "0.4", "Adelie, training"), (gentoo, "C1", "Gentoo, test")]:
    points = birds["flipper_length_mm"], birds["body_mass_g"]
    ax.scatter(*points, s=14, color=color, alpha=0.6, linewidths=0, label=label)
ax.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
ax.legend(loc="upper left")
fig.savefig(FIGURES / "own_module.png")


# %% The answer
def std_at(birds):
    return np.interp(birds["flipper_length_mm"].median(), length_mm, std_g)


error_g = (gentoo["body_mass_g"] - reg.predict(gentoo[["flipper_length_mm"]].to_numpy())).mean()
print(
    f"The standard deviation grows from {std_at(adelie):.0f} g at the median Adelie to "
    f"{std_at(gentoo):.0f} g at the median Gentoo, but Gentoo are {error_g:.0f} g heavier than "
    "predicted: dropout detects unknown inputs, but underestimates the error."
)
