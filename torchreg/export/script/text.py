"""The sections of a script that are the same for every network, or nearly so."""

from __future__ import annotations

import re

#: Words at the end of a column's name that are its unit.
_UNIT = re.compile(
    r"[numck]?m|[umk]?g|[num]?s|min|h|[hk]?Pa|bar|[kM]?J|k?Wh?|m?V|m?A|[kM]?Hz|k?N|[lL]|ml|mol|ppm|"
    r"deg[CF]?|rad|usd|eur|gbp|pct|percent"
)

OWN_TITLE = """\
# %% Layers that hold a fixed number
# Networks learn from numbers of order 1. These two bring raw units there, and back: their
# numbers are part of the network, but nothing that training changes."""
ADD = '''
class AddConstant(nn.Module):
    """x + c, with a number or one number for each column, which is not trained."""

    def __init__(self, constant):
        super().__init__()
        constant = torch.tensor(constant, dtype=torch.float64)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x):
        return x + self.constant


'''
MULTIPLY = '''
class MultiplyByConstant(nn.Module):
    """x * c, with a number or one number for each column, which is not trained."""

    def __init__(self, constant):
        super().__init__()
        constant = torch.tensor(constant, dtype=torch.float64)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x):
        return x * self.constant


'''
AVERAGE = '''
class AverageMembers(nn.Module):
    """The mean over members: (n, n_members, n_outputs) to (n, n_outputs)."""

    def forward(self, y):
        return y.mean(dim=1) if y.ndim == 3 else y


'''
ENSEMBLE = '''
class Ensemble(nn.Module):
    """The mean of several networks."""

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return torch.stack([member(x) for member in self.members]).mean(dim=0)


'''
TO = '''
class To(nn.Module):
    """Go on in another dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


'''
ASSEMBLED = '''
def assembled(cls, **parts):
    """Put a module together from its parts: how it was called is not known."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, part in parts.items():
        setattr(module, name, part)
    return module


'''
FITTED = '''
def fitted_network():
    """Build the network with the parameters that were fitted."""
    network = build_network(){changed}
    network.load_state_dict(torch.load(FITTED, weights_only=True))
    return network.eval()


def predict(network, X):
    """Predict in raw units: {shapes}, float64."""
    with torch.no_grad():
        return network(X){reshape}


def rmse(prediction, y):
    """Root mean squared error, in the units of y."""
    return (prediction - y).square().mean().sqrt().item()


'''
ROWS = '''
# %% The data
def load_rows(path):
    """Read a CSV file: features {n_features}, targets {n_targets}{and_weights}."""
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = (row for row in csv.reader(file) if row)

    def columns(wanted):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise SystemExit(f"{{path}} has no column {{missing}}, but {{names}}.")
        places = [names.index(name) for name in wanted]
        numbers = [[float(row[place]) for place in places] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)

    X = columns(FEATURES)
    y = columns(TARGETS) if set(TARGETS) <= set(names) else None
'''
DRAW_CURVE = '''
# %% The picture
def draw(X, y, fitted, trained):
    """Draw the rows and both curves; where training repeats the fit, one covers the other."""
    import matplotlib.pyplot as plt

    grid = torch.linspace(X.min().item(), X.max().item(), 500, dtype=X.dtype)
    grid = grid.reshape(-1, 1)  # (500,) -> (500, 1)
{axes}
{indent}ax.scatter(X[:, 0], y[:, {i}], s=14, color="0.3", alpha=0.45, linewidths=0)
{indent}for name, network, style in [
{indent}    ("fitted parameters", fitted, {{"linewidth": 6, "alpha": 0.35}}),
{indent}    ("trained here", trained, {{}}),
{indent}]:
{indent}    error = rmse(predict(network, X)[:, {i}], y[:, {i}])
{indent}    label = f"{{name}}: RMSE {{error:.5g}}"
{indent}    ax.plot(grid[:, 0], predict(network, grid)[:, {i}], "C0", label=label, **style)
{labels}
{indent}ax.legend()
    fig.savefig(PICTURE, dpi=150)


'''
DRAW_TRUTH = '''
# %% The picture
def draw(X, y, fitted, trained):
    """Draw predictions against the truth; where training repeats the fit, dots have rings."""
    import matplotlib.pyplot as plt

{axes}
{indent}for name, network, style in [
{indent}    ("fitted parameters", fitted, {{"s": 40, "alpha": 0.35, "linewidths": 0}}),
{indent}    ("trained here", trained, {{"s": 6, "linewidths": 0}}),
{indent}]:
{indent}    prediction = predict(network, X)[:, {i}]
{indent}    label = f"{{name}}: RMSE {{rmse(prediction, y[:, {i}]):.5g}}"
{indent}    ax.scatter(y[:, {i}], prediction, color="C0", label=label, **style)
{indent}truth = y[0, {i}].item()
{indent}ax.axline((truth, truth), slope=1, color="0.3", linewidth=1, zorder=0)
{labels}
{indent}ax.legend()
    fig.savefig(PICTURE, dpi=150)


'''
MAIN = """
# %% All of it
def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not path.exists():
        raise SystemExit(f"No {{path}}: give a CSV file with the columns {{FEATURES}}.")
    {given} = load_rows(path)
    fitted = fitted_network()
    prediction = predict(fitted, X)
    if y is None:
        csv.writer(sys.stdout).writerows([TARGETS, *prediction.tolist()])
        return
    trained, losses = train({arguments})
    print(f"{{len(losses)}} epochs, loss from {{losses[0]:.4g}} to {{losses[-1]:.4g}}")
    again = predict(trained, X)
    for i, name in enumerate(TARGETS):
        print(f"RMSE of {{name}}")
        print(f"    fitted parameters: {{rmse(prediction[:, i], y[:, i]):.6g}}")
        print(f"    trained here:      {{rmse(again[:, i], y[:, i]):.6g}}")
    difference = (again - prediction).abs().max().item()
    print(f"Their predictions differ by {{difference:.2g}} at most.")
    draw(X, y, fitted, trained)


if __name__ == "__main__":
    main()
"""


def label_of(name: str) -> str:
    r"""Write a column's name for the axis of a figure, its unit in brackets.

    Examples
    --------
    >>> label_of("flipper_length_mm"), label_of("x0"), label_of("a$b$")
    ('flipper length (mm)', 'x0', 'a\\$b\\$')
    """
    words = name.split("_")
    if re.fullmatch(r"\w+", name) and len(words) > 1 and all(words):
        if _UNIT.fullmatch(words[-1]):
            return f"{' '.join(words[:-1])} ({words[-1]})"
        return " ".join(words)
    # Between two dollars, matplotlib reads a formula.
    return name.replace("$", r"\$")


def remark_of(name: str) -> str:
    """Write a column's name as a comment on one line."""
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= 40 else shown[:37] + "..."
