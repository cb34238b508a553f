"""A fitted network taken apart: plain PyTorch, as TorchRegressor.to_script wrote it.

    python take_apart.py           # the rows of the fit, take_apart_data.csv
    python take_apart.py rows.csv  # other rows

It predicts with the fitted parameters, which are beside it (take_apart.pt), trains the same
network once more, and draws both (take_apart.png). Without targets in the table it prints
predictions only.
"""

import csv
import sys
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__)
FITTED = HERE.with_suffix(".pt")  # the fitted parameters: a state dict
DATA = HERE.with_name(f"{HERE.stem}_data.csv")
PICTURE = HERE.with_suffix(".png")

FEATURES = ["flipper_length_mm"]
TARGETS = ["body_mass_g"]

SEED = 0
EPOCHS = 1000


# %% Layers that hold a fixed number
# Networks learn from numbers of order 1. These two bring raw units there, and back: their
# numbers are part of the network, but nothing that training changes.
class AddConstant(nn.Module):
    """x + c, with a number or one number for each column, which is not trained."""

    def __init__(self, constant):
        super().__init__()
        constant = torch.tensor(constant, dtype=torch.float64)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x):
        return x + self.constant


class MultiplyByConstant(nn.Module):
    """x * c, with a number or one number for each column, which is not trained."""

    def __init__(self, constant):
        super().__init__()
        constant = torch.tensor(constant, dtype=torch.float64)
        self.register_buffer("constant", constant, persistent=False)

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
    """Build the network with the parameters that were fitted."""
    network = build_network()
    network.load_state_dict(torch.load(FITTED, weights_only=True))
    return network.eval()


def predict(network, X):
    """Predict in raw units: (n, 1) to (n, 1), float64."""
    with torch.no_grad():
        return network(X)


def rmse(prediction, y):
    """Root mean squared error, in the units of y."""
    return (prediction - y).square().mean().sqrt().item()


# %% The data
def load_rows(path):
    """Read a CSV file: features (n, 1), targets (n, 1)."""
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = (row for row in csv.reader(file) if row)

    def columns(wanted):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise SystemExit(f"{path} has no column {missing}, but {names}.")
        places = [names.index(name) for name in wanted]
        numbers = [[float(row[place]) for place in places] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)

    X = columns(FEATURES)
    y = columns(TARGETS) if set(TARGETS) <= set(names) else None
    return X, y


# %% The loss: of standardized values, dimensionless
def squared_error(prediction, target):
    return (prediction - target) ** 2


# %% Training, from the seed
def train(X, y):
    """Build the network and train it; return it, and the loss of each epoch."""
    # 1. The network, with the weights that torch draws.
    torch.manual_seed(SEED)
    network = build_network()

    # 2. What the core sees, and what it shall answer: numbers of order 1.
    core = network[2:-2]
    multiply, add = network[-2:]
    x = network[:2](X)
    t = (y - add.constant) / multiply.constant

    # 3. The loop: loss, gradient, step, for every epoch.
    optimizer = torch.optim.Rprop(core.parameters(), lr=0.01)
    losses = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = squared_error(core(x), t).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network.eval(), losses


# %% The picture
def draw(X, y, fitted, trained):
    """Draw the rows and both curves; where training repeats the fit, one covers the other."""
    import matplotlib.pyplot as plt

    grid = torch.linspace(X.min().item(), X.max().item(), 500, dtype=X.dtype)
    grid = grid.reshape(-1, 1)  # (500,) -> (500, 1)
    fig, ax = plt.subplots(layout="constrained")
    ax.scatter(X[:, 0], y[:, 0], s=14, color="0.3", alpha=0.45, linewidths=0)
    for name, network, style in [
        ("fitted parameters", fitted, {"linewidth": 6, "alpha": 0.35}),
        ("trained here", trained, {}),
    ]:
        error = rmse(predict(network, X)[:, 0], y[:, 0])
        label = f"{name}: RMSE {error:.5g}"
        ax.plot(grid[:, 0], predict(network, grid)[:, 0], "C0", label=label, **style)
    ax.set(
        xlabel="flipper length (mm)",
        ylabel="body mass (g)",
        title=f"{len(X)} rows, a network trained by Rprop",
    )
    ax.legend()
    fig.savefig(PICTURE, dpi=150)


# %% All of it
def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not path.exists():
        raise SystemExit(f"No {path}: give a CSV file with the columns {FEATURES}.")
    X, y = load_rows(path)
    fitted = fitted_network()
    prediction = predict(fitted, X)
    if y is None:
        csv.writer(sys.stdout).writerows([TARGETS, *prediction.tolist()])
        return
    trained, losses = train(X, y)
    print(f"{len(losses)} epochs, loss from {losses[0]:.4g} to {losses[-1]:.4g}")
    again = predict(trained, X)
    for i, name in enumerate(TARGETS):
        print(f"RMSE of {name}")
        print(f"    fitted parameters: {rmse(prediction[:, i], y[:, i]):.6g}")
        print(f"    trained here:      {rmse(again[:, i], y[:, i]):.6g}")
    difference = (again - prediction).abs().max().item()
    print(f"Their predictions differ by {difference:.2g} at most.")
    draw(X, y, fitted, trained)


if __name__ == "__main__":
    main()
