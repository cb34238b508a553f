"""Suggestions for misspelt names in error messages, and for names of other libraries."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: Losses and schedules: a name of other libraries, in lower case, and the name here.
OTHER_NAMES = {
    **dict.fromkeys(("mse", "rmse", "l2", "mean_squared_error", "mseloss"), "squared_error"),
    **dict.fromkeys(("mae", "l1", "mean_absolute_error", "l1loss", "median"), "absolute_error"),
    **dict.fromkeys(("smooth_l1", "smoothl1loss", "huberloss"), "huber"),
    **dict.fromkeys(("pinball", "pinball_loss"), "quantile"),
    **dict.fromkeys(("poissonnllloss", "poisson_nll"), "poisson"),
    **dict.fromkeys(("gaussiannllloss", "gaussian", "normal", "nll"), "gaussian_nll"),
    **dict.fromkeys(("adaptive", "plateau", "reducelronplateau"), "reduce_on_plateau"),
    "cosineannealinglr": "cosine",
    "onecyclelr": "one_cycle",
}

_BATCHES = "batch_size: rows are always shuffled, and batch_size=None is a full batch"
_ROWS = "n_folds, early_stopping with validation_fraction, or X_val and y_val of fit"

#: Parameters of ``MLPRegressor``, skorch and Keras, and what to use instead.
OTHER_PARAMETERS = {
    "activation": "module__activation",
    "alpha": "optimizer='adamw' and optimizer__weight_decay",
    **dict.fromkeys(("beta_1", "beta_2"), "optimizer__betas=(beta_1, beta_2)"),
    "compile": "module as it is: its training steps are captured and replayed",
    "criterion": "loss",
    "cv": "n_folds",
    "dataset": "X and y of fit, which may be tensors",
    "dropout": "module__dropout",
    **dict.fromkeys(("epochs", "max_fun", "max_iter", "n_iter"), "max_epochs"),
    "epsilon": "optimizer__eps",
    **dict.fromkeys(("hidden_layer_sizes", "hidden_sizes"), "module__hidden_sizes"),
    **dict.fromkeys(("iterator_train", "iterator_valid", "shuffle"), _BATCHES),
    "learning_rate": "lr for a number, schedule for a name",
    "learning_rate_init": "lr",
    "momentum": "optimizer='sgd' and optimizer__momentum",
    "n_estimators": "n_folds, n_init, or a TorchEnsembleRegressor",
    "n_jobs": "joblib.parallel_config(backend='torchreg') for the fits of a search; the networks "
    "of one fit train together, with the threads of torch.set_num_threads",
    "nesterovs_momentum": "optimizer='sgd' and optimizer__nesterov",
    **dict.fromkeys(("early_stopping_rounds", "patience"), "n_iter_no_change"),
    "power_t": "schedule",
    "predict_nonlinearity": "a loss with a link, such as loss='poisson', or a last layer of module",
    "seed": "random_state",
    "solver": "optimizer",
    "torch_load_kwargs": "save and torchreg.load",
    "use_caching": "use_caching of the callback",
    **dict.fromkeys(("train_split", "validation_split"), _ROWS),
    "weight_decay": "optimizer__weight_decay",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Write the end of an error message for an unknown name: similar names, then all known ones.

    Examples
    --------
    >>> did_you_mean("adma", ["adam", "rprop"])
    " Did you mean 'adam'? Known: 'adam', 'rprop'."
    """
    names = sorted(set(known))
    meant = OTHER_NAMES.get(name.lower().replace(" ", "_"))
    near = [meant] if meant in names else get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    question = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listing = f" Known: {', '.join(map(repr, names))}." if names else " It takes none."
    return question + listing
