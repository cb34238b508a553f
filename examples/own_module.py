"""How sure is a network of penguins that it has never seen?

Dropout silences hidden units at random while a network is trained. Left on afterwards, it turns
one network into many (Gal and Ghahramani, 2016): where their predictions differ, the network is
not sure. Here one learns the mass of Adelie penguins, and is asked about the longer flippers of
the Gentoo.
"""

# %% The data: 146 Adelie to train on, 119 Gentoo to be asked about
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


# %% A module and a loss of one's own
# `in_features` and `out_features` are filled in from the data, the rest is `module__*`. The loss
# is a function of predictions and targets in units of y's standard deviation: the logarithm of
# cosh is a square for small errors and grows like the error itself for large ones, so that odd
# birds count less.
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

# %% One network, a thousand opinions
# `module_` is plain torch, from mm to g. In training mode its dropout is on; its scaling is
# the same in either mode.
flipper_mm = torch.arange(170, 235).reshape(-1, 1)  # (n, 1)
torch.manual_seed(0)
reg.module_.train()
with torch.no_grad():
    opinions_g = torch.stack([reg.module_(flipper_mm)[:, 0] for _ in range(1000)])  # (1000, n)
reg.module_.eval()
doubt_g = opinions_g.std(dim=0).numpy()

# %% The figure
fig, ax = plt.subplots()
length_mm = flipper_mm[:, 0].numpy()
middle_g = reg.predict(flipper_mm.numpy())
for width, alpha in [(2, 0.2), (1, 0.3)]:
    low_g, high_g = middle_g - width * doubt_g, middle_g + width * doubt_g
    label = f"dropout on, ±{width} s.d."
    ax.fill_between(length_mm, low_g, high_g, color="C0", alpha=alpha, linewidth=0, label=label)
ax.plot(length_mm, middle_g, color="C0", label="dropout off")
for birds, color, label in [(adelie, "0.4", "Adelie, seen"), (gentoo, "C1", "Gentoo, never seen")]:
    points = birds["flipper_length_mm"], birds["body_mass_g"]
    ax.scatter(*points, s=14, color=color, alpha=0.6, linewidths=0, label=label)
ax.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
ax.legend(loc="upper left")
fig.savefig(FIGURES / "own_module.png")


# %% The answer
def doubt_at(birds):
    return np.interp(birds["flipper_length_mm"].median(), length_mm, doubt_g)


error_g = (gentoo["body_mass_g"] - reg.predict(gentoo[["flipper_length_mm"]].to_numpy())).mean()
print(
    f"Its doubt grows from {doubt_at(adelie):.0f} g at the median Adelie to "
    f"{doubt_at(gentoo):.0f} g at the median Gentoo, yet Gentoo are {error_g:.0f} g heavier than "
    "it predicts: dropout warns of the unknown, and is still far too sure."
)
