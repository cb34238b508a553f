"""A fitted network as a plain PyTorch script, written by TorchRegressor.to_script.

    python take_apart.py           # the rows of the fit, take_apart_data.csv
    python take_apart.py rows.csv  # other rows

The script predicts with the fitted parameters (take_apart.pt), trains the network again,
and plots the predictions of both (take_apart.png). Without targets in the table, it prints
predictions.
"""

import csv
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__)
FITTED = HERE.with_suffix(".pt")  # the fitted parameters: a state dict
DATA = HERE.with_name(f"{HERE.stem}_data.csv")
PICTURE = HERE.with_suffix(".png")

FEATURES = ["flipper_length_mm"]
TARGETS = ["body_mass_g"]

SEED = 0
EPOCHS = 1000


# %% Constants
# Networks learn best from numbers near 1. These layers convert from and to raw units. Their
# constants are part of the network, and are not trained.
class AddConstant(nn.Module):
    """x + c, where c is a number or one number for each column."""

    def __init__(self, constant):
        super().__init__()
        constant = torch.tensor(constant, dtype=torch.float64)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x):
        return x + self.constant


class MultiplyByConstant(AddConstant):
    """x * c, where c is a number or one number for each column."""

    def forward(self, x):
        return x * self.constant


# %% The network: raw units in, raw units out
def build_network():
    return nn.Sequential(
        AddConstant(-200.96696696696696),  # flipper_length_mm ...
        MultiplyByConstant(1 / 13.994704772576718),  # ... to order 1
        nn.Linear(1, 5),
        nn.ReLU(),
        nn.Linear(5, 1),
        MultiplyByConstant(804.005860159563),  # order 1 ...
        AddConstant(4207.057057057056),  # ... to body_mass_g
    ).double()


def fitted_network():
    """Build the network with its fitted parameters."""
    network = build_network()
    network.load_state_dict(torch.load(FITTED, weights_only=True))
    return network.eval()


def predict(network, X):
    """Predict in raw units: (n, 1) to (n, 1)."""
    with torch.no_grad():
        return network(X)


# %% The data
def load_rows(path):
    """Read a CSV file: X (n, 1), y (n, 1) or None."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def columns(names):
        numbers = [[float(row[name]) for name in names] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)

    X, y = columns(FEATURES), columns(TARGETS) if set(TARGETS) <= rows[0].keys() else None
    return X, y


# %% The loss, in standardized units
def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of each element."""
    return functional.mse_loss(prediction, target, reduction="none")


def mean_loss(prediction, t):
    return squared_error(prediction, t).mean()


# %% Training


def standardize(network, X, y):
    """Convert rows to the units that the loss and the layers between the constants use."""
    x = network[:2](X)
    multiply, add = network[-2:]
    y = (y - add.constant) / multiply.constant
    return x, y


def train_core(core, x, t):
    """Train the layers between the constants; return the training loss of each epoch."""
    optimizer = torch.optim.Rprop(core.parameters(), lr=0.01)
    losses = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = mean_loss(core(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train(X, y):
    """Train from the initial weights; return the network and the loss of each epoch."""
    torch.manual_seed(SEED)
    network = build_network()
    x, t = standardize(network, X, y)
    core = network[2:-2]
    losses = train_core(core, x, t)
    return network.eval(), losses


# %% The picture, and all of it
def draw(X, y, predictions):
    """Plot predictions, which agree if training repeats the fit."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(TARGETS), squeeze=False, layout="constrained")
    for i, ax in enumerate(axes[0]):
        position = X[:, 0]
        ax.plot(position, y[:, i], ".", color="0.6", label="data")
        for (name, prediction), size in zip(predictions.items(), (8, 3), strict=True):
            ax.plot(position, prediction[:, i], "o", markersize=size, alpha=0.5, label=name)
        ax.set_xlabel(FEATURES[0], parse_math=False)
        ax.set_ylabel(TARGETS[i], parse_math=False)
        ax.legend()
    fig.savefig(PICTURE, dpi=150)


def main():
    X, y = load_rows(sys.argv[1] if len(sys.argv) > 1 else DATA)
    fitted = predict(fitted_network(), X)
    if y is None:
        csv.writer(sys.stdout).writerows([TARGETS, *fitted.tolist()])
        return
    network, losses = train(X, y)
    print(f"{len(losses)} epochs, loss from {losses[0]:.4g} to {losses[-1]:.4g}")
    predictions = {"fitted parameters": fitted, "trained here": predict(network, X)}
    for name, prediction in predictions.items():
        rmse = (prediction - y).square().mean(dim=0).sqrt().tolist()
        print(f"RMSE, {name}:", *(f"{value:.6g}" for value in rmse))
    difference = (predictions["trained here"] - fitted).abs().max().item()
    print(f"Their predictions differ by {difference:.2g} at most.")
    draw(X, y, predictions)


if __name__ == "__main__":
    main()
