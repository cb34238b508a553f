"""TorchRegressor, MLPRegressor and skorch, with the same task as the hand-written loop."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from _eager import OPTIMIZERS, Fit, Task, build_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from skorch import NeuralNetRegressor

from torchreg import TorchRegressor
from torchreg.nn import MLP


def fit_torchreg(X: np.ndarray, y: np.ndarray, task: Task, seed: int) -> Fit:
    """Fit ``TorchRegressor`` to data in raw units."""
    reg = TorchRegressor(
        module=MLP,
        module__hidden_sizes=task.hidden,
        optimizer=task.optimizer,
        lr=task.lr,
        max_epochs=task.epochs,
        batch_size=task.batch_size,
        random_state=seed,
    ).fit(X, y)
    return Fit(reg.loss_, str(reg.dtype_).removeprefix("torch."))


def fit_mlp_regressor(X: np.ndarray, y: np.ndarray, task: Task, seed: int) -> Fit:
    """Fit scikit-learn's ``MLPRegressor`` with Adam for a fixed number of epochs.

    Its initial weights are always Glorot's.
    """
    mini_batches = task.batch_size is not None and task.batch_size < len(X)
    reg = MLPRegressor(
        hidden_layer_sizes=task.hidden,
        learning_rate_init=task.lr,
        alpha=0,
        batch_size=task.batch_size if mini_batches else len(X),
        shuffle=mini_batches,
        max_iter=task.epochs,
        tol=0,
        n_iter_no_change=sys.maxsize,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reg.fit(X, y)
    # It minimizes half the mean squared error.
    return Fit(2 * reg.loss_, str(reg.coefs_[0].dtype))


def fit_skorch(X: np.ndarray, y: np.ndarray, task: Task, seed: int) -> Fit:
    """Fit skorch's ``NeuralNetRegressor`` without validation set and output."""
    torch.manual_seed(seed)
    mini_batches = task.batch_size is not None and task.batch_size < len(X)
    net = NeuralNetRegressor(
        build_network(X.shape[1], task.hidden),
        optimizer=OPTIMIZERS[task.optimizer],
        lr=task.lr,
        max_epochs=task.epochs,
        batch_size=task.batch_size if mini_batches else -1,
        iterator_train__shuffle=mini_batches,
        train_split=None,
        callbacks__print_log=None,
        verbose=0,
    )
    net.fit(X.astype(np.float32, copy=False), y.astype(np.float32, copy=False).reshape(-1, 1))
    return Fit(net.history[-1, "train_loss"], "float32")
