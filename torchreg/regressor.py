"""The estimator of one network, or of one network per fold."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from torch import nn

from torchreg._estimator import (
    CallbackSupportMixin,
    Features,
    InspectionMixin,
    Levels,
    ParametersMixin,
    Predictions,
    ScoreMixin,
    build_job,
    build_observers,
    check_fit_inputs,
    check_nested,
    check_parameters,
    check_prediction_data,
    finish_callbacks,
    format_predictions,
    instance_signature,
    issue_fit_warnings,
    resolve_params,
    set_fitted_attributes,
    signature_without_nested,
    with_callbacks,
)
from torchreg._persistence import ExportMixin, SavingMixin
from torchreg._persistence.fit_checkpoint import open_checkpoint
from torchreg._utils import restore_torch_state
from torchreg.engine.predict import predict_outputs, select_predictions
from torchreg.engine.run import fit_networks, unwrap_result
from torchreg.engine.spec import Observer
from torchreg.nn.links import link_of


class TorchRegressor(
    CallbackSupportMixin,
    ParametersMixin,
    SavingMixin,
    ExportMixin,
    InspectionMixin,
    ScoreMixin,
    BaseEstimator,
):
    r"""A neural network for regression that takes and returns raw units.

    .. math:: \hat y = \mu_y + \sigma_y\, f_\theta\!\left(\frac{x - \mu_x}{\sigma_x}\right)

    The means :math:`\mu` and standard deviations :math:`\sigma` of X and y are computed by
    ``fit`` and stored as buffers of the network; :math:`f_\theta` is any ``torch.nn.Module``.

    Parameters
    ----------
    module : None, class, callable or nn.Module, default=None
        ``None`` is :class:`torchreg.nn.TabularMLP`. A class or callable is called with
        ``module__*`` and, if it accepts them, ``in_features`` and ``out_features``. An instance is
        copied, not trained. An output (n, n_members, n_outputs) is averaged over its members.
    loss : str, class or callable, default="squared_error"
        A name of the notes, a loss class of torch, or a function of predictions and targets,
        which are standardized and of shape (n, n_outputs).
    optimizer : str or class, default="adam"
        Lower-case name of a ``torch.optim`` class, with defaults for standardized data, or such
        a class, with torch's defaults.
    lr : float or None, default=None
        Learning rate, dimensionless; the largest one of a named schedule. ``None`` is the default
        of the optimizer; 0.006 for ``"adam"`` and ``"adamw"`` with ``module=None``.
    schedule : str, class or callable, default="auto"
        ``"constant"`` (``"auto"`` for a given module and full-batch optimizers), ``"cosine"``
        (``"auto"`` otherwise), ``"one_cycle"``, ``"reduce_on_plateau"``, a class of
        ``torch.optim.lr_scheduler``, or a function that builds a scheduler for an optimizer.
    max_epochs : int or "auto", default="auto"
        Maximum number of passes over the training rows. ``"auto"`` is 200 for a given module, 60
        for ``module=None`` (200 with ``"rprop"``, 5 with ``"lbfgs"``).
    batch_size : int, None or "auto", default="auto"
        Rows per step; ``None`` is a full batch, as is ``"auto"`` for ``"lbfgs"`` and ``"rprop"``.
        Else it is 128 for a given module (above 256 rows) and 32 to 512 for ``module=None``.
    standardize : bool, "X" or "y", default=True
        Whether to standardize X and y, or only one of them.
    early_stopping : bool, default=False
        Whether to stop after ``n_iter_no_change`` epochs without a lower validation loss, and to
        restore the best weights. Holds out validation rows unless ``fit`` is given ``X_val``.
    n_folds : int, None or "auto", default="auto"
        Number of cross-validation folds, each with a network that trains on the others and keeps
        the weights with the lowest loss on it. Their mean predicts. ``None`` trains one network.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping holds out.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without improvement before training stops. ``"auto"`` is 10 for a given module and
        a quarter of ``max_epochs`` for ``module=None``.
    tol : float or None, default=None
        Relative tolerance, dimensionless: an improvement is a loss below ``best * (1 - tol)``.
        Without early stopping it applies to the training loss, and ``None`` never stops.
    n_init : int, default=1
        Number of networks that are trained from different seeds. The one with the lowest
        validation loss (or training loss, without validation rows) is kept.
    callbacks : list or None, default=None
        skorch callbacks, or ``(name, callback)`` pairs with parameters ``callbacks__name__*``.
        They receive losses in standardized units, predictions and targets in raw units; of
        several networks the mean losses, and a module that averages them. Callbacks that listen
        to batches, or act on parameters or the optimizer, are copied for each network.
    device : str or torch.device, default="cpu"
        Where to train and predict; ``"auto"`` selects the fastest available device.
    dtype : {"auto", "float32", "float64"} or torch.dtype, default="auto"
        Dtype of the network. ``"auto"`` is float64 for small networks on a CPU (rows of a batch
        times parameters up to 500,000) and L-BFGS, else float32, or what the module requires.
    warm_start : bool, default=False
        Whether ``fit`` continues with the weights and the scaling of the last fit.
    verbose : int, default=0
        1 prints about 20 rows of losses, 2 one per epoch: means over several networks, and then
        one row for each. Inside a search, each fit prints one line.
    random_state : int, RandomState or None, default=None
        Seeds the initial weights (an integer as ``torch.manual_seed``), batches, dropout and
        validation rows. torch's global generators are not affected.
    **nested : dict
        ``module__*``, ``optimizer__*``, ``loss__*``, ``schedule__*`` and ``callbacks__*``.

    Attributes
    ----------
    module_ : nn.Sequential
        The fitted network, from raw units to raw units: ``standardize``, ``network`` (with folds
        an :class:`~torchreg.nn.Ensemble`), ``link`` and ``average`` if needed, ``unstandardize``.
    n_iter_, best_epoch_ : int
        Epochs over all warm starts, and epoch of the weights (with folds, of the lowest mean loss).
    loss_, loss_curve_, validation_loss_curve_, init_losses_ : float, lists of float
        Training loss of that epoch, losses of all epochs (means over the folds), and final loss of
        each network or fold, in standardized units. Rows of a fold do not train its network, but
        scaling, quartiles, bins and the linear model come from all rows: new rows may cost more.
    history_ : list of dict
        Losses and learning rate of each epoch, and what callbacks recorded.
    chosen_params_, fit_summary_ : dict
        Values of ``"auto"`` parameters, for ``set_params``, and statistics for :meth:`diagnose`.
    dtype_, n_outputs_, n_features_in_, feature_names_in_ : torch.dtype, int, int, ndarray
        Dtype of the network, number of columns of y and X, and names of the latter, if any.

    Notes
    -----
    Losses by name: ``"squared_error"`` and ``"huber"`` predict the mean, ``"absolute_error"`` the
    median, ``"quantile"`` the quantile(s) ``loss__quantile``, ``"poisson"``, ``"gamma"`` and
    ``"tweedie"`` (``loss__power``) the mean through a log link, with y scaled but not centered,
    and ``"gaussian_nll"`` the mean and the standard deviation.

    For ``module=None``, ``n_folds="auto"`` is 8 (4 from 30,000 distinct rows on, fewer below 32).
    One network with validation rows replaces the folds from 50,000 rows on, with ``X_val``,
    ``n_init`` above 1 or ``early_stopping``, and in a :class:`TorchEnsembleRegressor`. The values
    of ``"auto"`` were chosen on 29 data sets below 20,000 rows (``benchmarks/accuracy.py``).

    A full batch merges identical rows, so that a repeated row equals an integer weight. Steps are
    captured and replayed, unless the module reads values or has side effects. A module may
    initialize itself from the standardized training rows in ``initialize_from(x, t, weight)``.

    References
    ----------
    Y. LeCun et al., "Efficient BackProp", in Neural Networks: Tricks of the Trade (1998), 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> from torchreg.nn import MLP
    >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
    >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
    >>> reg = TorchRegressor(random_state=0).fit(flipper_mm, mass_g)
    >>> bool(reg.score(flipper_mm, mass_g) > 0.99), reg.chosen_params_["n_folds"]
    (True, 8)
    >>> reg = TorchRegressor(MLP, module__hidden_sizes=[10], optimizer="rprop", random_state=0)
    >>> reg.fit(flipper_mm, mass_g).module_.standardize
    Standardize(mean=[200], scale=[17.4946])
    """

    #: A path is not metadata of the rows that a pipeline routes.
    __metadata_request__fit: ClassVar[dict[str, str]] = {"checkpoint": UNUSED}

    @instance_signature
    def __init__(
        self,
        module: nn.Module | Callable[..., nn.Module] | None = None,
        *,
        loss: str | type | Callable[..., Any] = "squared_error",
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float | None = None,
        schedule: str | Callable[..., Any] = "auto",
        max_epochs: int | str = "auto",
        batch_size: int | str | None = "auto",
        standardize: bool | str = True,
        early_stopping: bool = False,
        n_folds: int | str | None = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int | str = "auto",
        tol: float | None = None,
        n_init: int = 1,
        callbacks: Any = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        warm_start: bool = False,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        **nested: Any,
    ) -> None:
        self.module = module
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.standardize = standardize
        self.early_stopping = early_stopping
        self.n_folds = n_folds
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.n_init = n_init
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self._nested = check_nested(self, nested)

    @with_callbacks
    @restore_torch_state
    def fit(
        self,
        X: Features,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Features | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the network to data in raw units.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, of any numeric dtype.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of 0 or more, for the loss and the scaling.
        X_val, y_val, sample_weight_val : array-like or None, default=None
            Validation rows, for early stopping or, without it, to record their loss.
        checkpoint : str, path or None, default=None
            A file from which the same call continues the fit of one network after the process was
            killed. Needs ``pip install "torch-regressor[files]"``.

        Returns
        -------
        self : TorchRegressor

        Raises
        ------
        ValueError, TypeError, CheckpointError
            If parameters, data or the checkpoint are invalid. The estimator remains as it was.

        Warns
        -----
        DivergenceWarning, InterruptWarning, ConvergenceWarning, PrecisionWarning
            If the loss became infinite or NaN, Ctrl-C ended the fit, the loss still decreased by
            more than ``tol``, or a column was already rounded in the input.
        NetworkFailedWarning, CallbackWarning, WorseThanConstantWarning, ValidationWarning
            If one of several networks failed, a callback's pattern matches no parameter, a constant
            predicts the training rows better, or validation rows are far off.
        BoundedOutputWarning, EffectivelyLinearWarning, DeadUnitsWarning, UnscaledWarning
            If the network cannot learn; see :meth:`diagnose`.
        """
        # 1. Validate parameters and data. Only the last step changes the estimator.
        check_parameters(self)
        inputs = check_fit_inputs(self, X, y, sample_weight, X_val, y_val, sample_weight_val)
        # 2. Choose the parameters that follow from the data.
        params = resolve_params(self, inputs)
        with ExitStack() as stack:
            store = None
            if checkpoint is not None:
                store = stack.enter_context(open_checkpoint(self, checkpoint, inputs, params))
            # 3. Hold out validation rows and describe the fit.
            context = build_job(self, inputs, params, checkpoint_store=store)
            # 4. Train.
            result = unwrap_result(*fit_networks([context.job]))
        # 5. End callbacks and warn.
        result = finish_callbacks(self, context, result)
        issue_fit_warnings(result, context.job.config, context.attributes)
        # 6. Set the fitted attributes.
        set_fitted_attributes(self, context, result)
        return self

    @overload
    def predict(
        self, X: Features, return_std: Literal[False] = False, quantiles: Levels = None
    ) -> Predictions: ...
    @overload
    def predict(
        self, X: Features, return_std: Literal[True], quantiles: None = None
    ) -> tuple[Predictions, Predictions]: ...
    @restore_torch_state
    def predict(self, X: Features, return_std: bool = False, quantiles: Levels = None) -> Any:
        """Predict in raw units.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, in the units of ``fit``.
        return_std : bool, default=False
            Whether to return the standard deviation of y too, with ``loss="gaussian_nll"``.
        quantiles : float, list of float or None, default=None
            Levels to return instead: those of ``loss="quantile"``, any for ``"gaussian_nll"``.

        Returns
        -------
        y, y_std : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the shape and units of the y of ``fit``; float32 if X is float32 and float32 has
            4096 numbers or more in a standard deviation of y, else float64. A list of ``quantiles``
            adds a last dimension. With array API dispatch, arrays of X's library on X's device.

        Raises
        ------
        ValueError
            If X does not match the X of ``fit``, a prediction is not finite, the loss does not
            provide what is requested, or (``NotFittedError``) ``fit`` was not called.
        """
        if not hasattr(self, "module_"):
            check_is_fitted(self)
        x, x_format = check_prediction_data(self, X, method="predict")
        columns = predict_outputs(self.module_, x, n_outputs=self.n_outputs_, dtype=self.dtype_)
        link = link_of(self.module_)
        found = select_predictions(link, columns, return_std=return_std, quantiles=quantiles)
        return format_predictions(self, found, X, x_format)

    def _observers(self, *args: Any) -> list[Observer]:
        return build_observers(self, *args)


TorchRegressor.__signature__ = signature_without_nested(TorchRegressor)
