"""The estimator: scikit-learn outside, a network between its scaling layers inside."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from torch import nn

from torchreg._estimator.constraints import check_parameters
from torchreg._estimator.fit_warnings import issue_fit_warnings
from torchreg._estimator.fitting import FitInputs, FittingMixin, check_given
from torchreg._estimator.inspection import InspectionMixin
from torchreg._estimator.params import (
    NestedParametersMixin,
    check_nested,
    instance_signature,
    seed_from,
    signature_without_nested,
)
from torchreg._estimator.scoring import ScoreMixin
from torchreg._estimator.sklearn_compat import CallbackSupportMixin, with_callbacks
from torchreg._estimator.validation import check_prediction_data, to_input_format
from torchreg._parallel import run_fit
from torchreg._persistence.export_mixin import ExportMixin
from torchreg._persistence.save_mixin import SavingMixin
from torchreg._utils import restore_torch_state
from torchreg.engine.predict import predict_outputs, select_predictions
from torchreg.losses import LOSSES
from torchreg.nn.links import link_of

if TYPE_CHECKING:
    from torchreg._persistence.checkpoint import Checkpoint


class TorchRegressor(
    CallbackSupportMixin,
    NestedParametersMixin,
    FittingMixin,
    SavingMixin,
    ExportMixin,
    InspectionMixin,
    ScoreMixin,
    BaseEstimator,
):
    r"""A neural network for regression that takes and gives raw units.

    .. math:: \hat y = \mu_y + \sigma_y\, f_\theta\!\left(\frac{x - \mu_x}{\sigma_x}\right)

    The means :math:`\mu` and standard deviations :math:`\sigma` of X and y are computed when
    the regressor is fitted and live *inside* the network as buffers; :math:`f_\theta` is any
    ``torch.nn.Module``, trained on the standardized target.

    Parameters
    ----------
    module : None, class, callable or nn.Module, default=None
        The network :math:`f_\theta`. ``None`` is :class:`torchreg.nn.TabularMLP`, for which
        what is left at ``"auto"`` follows from the data, by the rules in the notes; several of
        them each hold rows out (``n_folds``). A class, such as :class:`torchreg.nn.MLP`, or a
        callable is called with ``module__*`` and, where its signature names them,
        ``in_features`` and ``out_features``. An instance is a template: it is copied, never
        trained. One that gives (n, n_members, n_outputs), like TabM, is trained on the mean of
        its members' losses, and predicts their mean.
    loss : str, class or callable, default="squared_error"
        A name of the table in the notes: ``"squared_error"``, ``"absolute_error"``, ``"huber"``,
        ``"quantile"``, ``"poisson"``, ``"gamma"``, ``"tweedie"``, ``"gaussian_nll"``; a torch
        loss class or any callable of predictions and targets. It compares standardized values
        of shape (n, n_outputs); ``loss__*`` are its options.
    optimizer : str or class, default="adam"
        Lower-case name of a ``torch.optim`` class (with options that suit standardized data)
        or such a class (with torch's own options); ``optimizer__*`` are its options.
    lr : float or None, default=None
        Learning rate, dimensionless, above 0. ``None`` takes the optimizer's default, or for
        ``module=None`` the one in the notes. It is the largest one that a schedule by name
        comes to.
    schedule : str, class or callable, default="auto"
        How the learning rate moves: ``"constant"``, which is ``"auto"`` for a given module;
        from step to step over ``max_epochs`` ``"cosine"`` (from ``lr`` to 0) or
        ``"one_cycle"`` (up to ``lr`` and down to 0, momentum the other way); or
        ``"reduce_on_plateau"`` (``lr`` becomes a tenth when the loss of the validation rows,
        else of the training rows, has not fallen for 10 epochs). They are torch's own
        schedulers; ``schedule__*`` are their options. A class of ``torch.optim.lr_scheduler``,
        or a callable that makes a scheduler of an optimizer, moves once an epoch
        (``OneCycleLR`` and ``CyclicLR``: once a step).
    max_epochs : int or "auto", default="auto"
        Passes over the training rows, at most. ``"auto"`` is 200 for a given module.
    batch_size : int, None or "auto", default="auto"
        Rows per step; ``None`` takes all at once. ``"auto"`` takes all of up to 256 rows, and
        of any number for ``"lbfgs"`` and ``"rprop"``; else 128 for a given module.
    standardize : bool, "X" or "y", default=True
        What is standardized.
    early_stopping : bool, default=False
        Whether to stop when the loss of held-out rows has not improved for
        ``n_iter_no_change`` epochs, and restore the best weights. Rows are held out by this and
        by ``n_folds`` only, and by this only if ``fit`` was not given ``X_val``.
    n_folds : int, None or "auto", default="auto"
        Number of folds, 2 or more: as many networks are trained together, each of which holds out
        another part of the rows and keeps the weights of the epoch that did best on it, and their
        mean predicts. So every row is learned from, and every row has been held out once. With
        ``early_stopping``, each also ends ``n_iter_no_change`` epochs after its best. X and y are
        standardized by all rows. ``None`` trains one network. ``"auto"`` is ``None`` for a given
        module, and for ``module=None`` the number in the notes.
    validation_fraction : float, default=0.1
        Share of the rows held out, between 0 and 1.
    n_iter_no_change : int or "auto", default="auto"
        Epochs without improvement that are waited for. ``"auto"`` is 10 for a given module.
    tol : float or None, default=None
        An improvement is a loss below ``best * (1 - tol)``: dimensionless, relative. Without
        early stopping the training loss is watched, or nothing if it is ``None``.
    n_init : int, default=1
        How many networks are drawn, from different seeds, and trained together. The one that
        ends with the lowest loss is kept: of the validation rows where there are any, else of
        the training rows. All see the same rows. A warm start goes on with the one that was
        kept. (An instance as ``module`` always starts from its own weights.)
    callbacks : list or None, default=None
        skorch callbacks, or ``(name, callback)`` pairs whose parameters are
        ``callbacks__name__parameter``. They see losses in standardized units, predictions
        and targets in raw units; the callback objects are used, not copied. With ``n_init``
        above 1 each network has copies of its own, and ``history_`` has what those of the kept
        network noted. With ``n_folds`` too: each sees the rows that its network trains on, and
        those of its fold as validation rows, and ``history_`` has the means of the numbers noted.
    device : str or torch.device, default="cpu"
        Where to train and predict; ``"auto"`` takes the fastest present.
    dtype : {"auto", "float32", "float64"} or torch.dtype, default="auto"
        In which the network computes. ``"auto"`` is float64 where it costs little (a CPU, and
        rows of a batch times parameters at most half a million) and for L-BFGS, whose line
        search needs it, else float32. Statistics are always float64.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights *and the statistics* of the last fit, with a
        fresh optimizer, and counts ``n_iter_`` on.
    verbose : int, default=0
        1 prints about 20 rows of a table of losses, 2 one per epoch; and in the end how the
        steps were computed, and why. With ``n_init`` above 1, one row per network.
    random_state : int, RandomState or None, default=None
        Initial weights, order of batches, dropout and held-out rows. An integer seeds the
        weights as ``torch.manual_seed`` would. No global generator is touched: ``None`` is
        fresh each time.
    **nested : dict
        ``module__*``, ``optimizer__*``, ``loss__*``, ``schedule__*`` and ``callbacks__*``,
        tunable by name.

    Attributes
    ----------
    module_ : nn.Sequential
        The fitted network, raw units to raw units, in evaluation mode; its ``state_dict`` holds
        the scaling. Children: ``standardize``, ``network``, ``unstandardize``; and before the
        last ``link``, where the loss has one, and ``average``, where the network has several
        members. ``"quantile"`` gives a column per output and level (``link.levels``),
        ``"gaussian_nll"`` mean and standard deviation of each output. With ``n_folds``, the
        network is a :class:`torchreg.nn.Ensemble`, whose mean the link takes.
    n_iter_ : int
        Epochs run, over all warm starts.
    best_epoch_ : int
        The epoch whose weights were kept: the last, or with early stopping the best. With
        ``n_folds`` each network keeps those of its own best epoch, and this is the best of the
        mean.
    loss_ : float
        Training loss of that epoch, in standardized units.
    loss_curve_ : list of float
        Training loss of each epoch, in standardized units; with ``n_folds``, their mean.
    validation_loss_curve_ : list of float or None
        Loss of the validation rows after each epoch, in standardized units.
    init_losses_ : list of float
        Loss that each of the ``n_init`` networks ended with, in standardized units; the lowest
        is that of the one that was kept. Infinite for one that could not be trained. A warm
        start leaves it as it is. With ``n_folds``, the loss of each network on its fold.
    history_ : list of dict
        One per epoch: ``epoch``, ``loss``, ``validation_loss``, ``lr`` (of its last step, where
        a schedule moves it) and what callbacks noted.
    chosen_params_ : dict
        What the parameters came to that were left to the data: with ``set_params`` of these, the
        next fit does the same by name.
    dtype_ : torch.dtype
        In which the network computes.
    fit_summary_ : dict
        Small numbers of the fit that :meth:`diagnose` reads, ready for JSON.
    n_outputs_ : int
        Number of outputs.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had any.

    See Also
    --------
    TorchEnsembleRegressor : Several networks as one, and how far they differ.
    sklearn.neural_network.MLPRegressor : Multilayer perceptrons in scikit-learn.

    Notes
    -----
    ======================  ======================================  ====================
    ``loss``                what is predicted                       ``score``
    ======================  ======================================  ====================
    ``"squared_error"``     the mean                                :math:`R^2`
    ``"huber"``             the mean, less moved by large errors    :math:`R^2`
                            (beyond ``loss__delta=1.0`` std)
    ``"absolute_error"``    the median                              :math:`D^2`, absolute
    ``"quantile"``          the quantile ``loss__quantile=0.5``;    :math:`D^2`, pinball
                            of a list the median, the others by
                            ``predict(X, quantiles=[...])``
    ``"poisson"``           the mean of counts, y of 0 or more      :math:`D^2`, deviance
    ``"gamma"``             the mean of sizes, y above 0            :math:`D^2`, deviance
    ``"tweedie"``           the mean of sums, y of 0 or more, of    :math:`D^2`, deviance
                            ``loss__power=1.5``; above 0 from
                            power 2 on
    ``"gaussian_nll"``      the mean, and its standard deviation    :math:`R^2`
                            by ``predict(X, return_std=True)``
    ======================  ======================================  ====================

    With ``"poisson"``, ``"gamma"`` and ``"tweedie"`` the network gives the logarithm of the mean,
    and y is divided by its mean but not centred, so that 0 stays 0. The network has one output
    for each level of ``"quantile"`` (0.5 is trained along in a list without it) and two for
    ``"gaussian_nll"``, times the columns of y: ``out_features`` says so to a class.

    The rules for ``module=None``, by the number of different rows:

    =========================  ==============================================================
    ``n_folds``                8; 4 from 30,000 rows on. Of fewer than 32 rows each holds out 4.
    ``module__hidden_sizes``   (64, 64); (192, 192) from 30,000 rows on
    ``module__n_frequencies``  8; 16 from 30,000 rows on
    ``module__n_bins``         16; 32 from 640 rows on
    ``batch_size``             32 up to 200 rows, 64 up to 1,999, 128 up to 29,999, then 512
    ``max_epochs``             60; 200 for ``"rprop"``, 5 for ``"lbfgs"``
    ``early_stopping``         ``True``, with each fold's own rows
    ``n_iter_no_change``       a quarter of ``max_epochs``
    ``schedule``               ``"cosine"``; ``"constant"`` for ``"lbfgs"`` and ``"rprop"``
    ``lr``                     0.006 for ``"adam"`` and ``"adamw"``
    =========================  ==============================================================

    Instead of folds, one network holds out ``validation_fraction`` of the rows, and keeps the
    weights that do best on them, from 50,000 rows on, with ``n_init`` above 1, and as a member of
    a :class:`TorchEnsembleRegressor`. If ``fit`` was given ``X_val``, those rows are the ones. With
    ``early_stopping`` there are no folds either, and fewer than 8 rows are all learned from.
    They were chosen on two splits of 29 data sets below 20,000 rows (``benchmarks/accuracy.py``);
    nothing was measured beyond.

    Who is in a hurry sets ``early_stopping=True, max_epochs=30``: one network, in a seventh to a
    quarter of the time, with errors 4 to 6 % larger. Who wants the last percent sets ``n_folds=16,
    max_epochs=120``, in 4 to 7 times as much.

    Predictions have the shape of y, and are float32 for float32 X and float64 for anything
    else. In a full batch, rows that are identical in X and y are merged and their weights
    summed, so that repeating a row is the same as giving it an integer weight.

    The first step of a fit is recorded and, from the third on, repeated without calling the
    module again. Where that cannot be done, or would show (the module looks at values, has
    hooks, prints or counts, or a callback listens to batches), the module is called in every
    step, with the same results.

    A module whose class has a method ``initialize_from(x, t, weight)`` is shown its training
    rows once, before the first step of a fit that is no warm start, without gradients and under
    the fit's seed: ``x`` (n, n_features) and ``t`` (n, n_outputs) standardized, in the module's
    dtype and on its device, ``weight`` (n,) or ``None``. (Where the loss has a link, ``t`` is
    what the module should give, roughly, of shape (n, out_features).) A weight stands for a
    repetition, and only ratios of weights matter. The module itself is asked, not its parts,
    which it may tell. Of sparse rows, and of tables of more than 16 million numbers in batches,
    it is shown a random sample of about four million numbers.

    References
    ----------
    Y. LeCun, L. Bottou, G. Orr and K.-R. Mueller, "Efficient BackProp", in Neural Networks:
    Tricks of the Trade (1998), section 4.3: why inputs and targets are standardized.

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchRegressor
    >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
    >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
    >>> reg = TorchRegressor(random_state=0).fit(flipper_mm, mass_g)
    >>> bool(reg.score(flipper_mm, mass_g) > 0.99)
    True
    >>> reg.module_.standardize
    Standardize(mean=[200], scale=[17.4946])
    >>> reg.chosen_params_["n_folds"]
    8
    """

    #: A path is no metadata of the rows, to be passed on by a pipeline.
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
        self._nested = check_nested(self, nested, known=self._get_param_names())

    @with_callbacks
    @restore_torch_state
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the network to data in raw units.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, in any units and any numeric dtype.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, in any units.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of 0 or more; they weigh the loss and the statistics.
        X_val, y_val : array-like or None, default=None
            Validation rows of your own, in the same units. With ``early_stopping`` they decide
            when to stop; without, their loss is recorded.
        sample_weight_val : array-like of shape (n_samples_val,) or None, default=None
            Weights of the validation rows.
        checkpoint : str, path or None, default=None
            A file that holds the state of the fit, written every ten seconds or so. If the
            process is killed, the same call in another one goes on from there and ends with the
            same bits; when the fit has ended, it returns what was learned. Delete the file to
            begin anew. For one network, ``n_init=1``. Needs ``pip install "torchreg[files]"``.

        Returns
        -------
        self : TorchRegressor

        Raises
        ------
        ValueError, TypeError
            If parameters or data do not fit; what was fitted before is kept.
        CheckpointError
            A ``ValueError``: if the file is that of another fit, in use, damaged, or cannot be
            written. What it held is kept.

        Warns
        -----
        ConvergenceWarning
            If ``tol`` is set and the budget ran out while the loss still fell by more.
        DivergenceWarning
            If the loss ceased to be finite; the best finite weights are kept.
        PrecisionWarning
            If a column lost its digits before it came.
        InterruptWarning
            If Ctrl-C ended the fit; what it had learned is kept.
        EffectivelyLinearWarning, DeadUnitsWarning, UnscaledWarning
            If, without standardization, scale made a straight line of the network; if all
            units of a layer are off for every row; if values a hundred times order 1 or more
            reach the network. :meth:`diagnose` tells more.
        """
        # 1. Check everything; until the last step the estimator stays as it was.
        check_parameters(self)
        given = check_given(self, X, y, sample_weight, X_val, y_val, sample_weight_val)
        # 2. Choose what follows from the data.
        chosen = self._choose(given)
        with self._kept_in(checkpoint, given, chosen) as checkpoint_store:
            # 3. Hold rows out, if early stopping asks for it and the user brought none.
            asked = self._ask(given, chosen=chosen, checkpoint_store=checkpoint_store)
            # 4. Statistics, network, training.
            fitted = run_fit(asked.job)
        # 5. Tell who listens, and say what went wrong.
        fitted = self._hear(asked, fitted)
        issue_fit_warnings(fitted, asked.job.config, asked.seen)
        # 6. Store what was learned.
        self._store(asked, fitted)
        return self

    @restore_torch_state
    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        quantiles: float | Sequence[float] | None = None,
    ) -> Any:
        """Predict in raw units.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, in the units of ``fit``.
        return_std : bool, default=False
            Whether to return the standard deviation of y, too. For ``loss="gaussian_nll"``.
        quantiles : float, list of float or None, default=None
            Levels of the quantiles to return instead. With ``loss="quantile"`` such as were
            trained, with ``loss="gaussian_nll"`` any between 0 and 1.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the shape and units of the y of ``fit``; float32 for float32 X, else float64.
            With scikit-learn's array API dispatch, an array of X's library on X's device. A list
            of ``quantiles`` adds a last dimension, one place for each.
        y_std : ndarray of the shape of y
            In the units of y. Only if ``return_std``.

        Raises
        ------
        ValueError
            If X does not fit the X of ``fit``, a prediction is not finite, or what is asked for
            was not learned.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.
        """
        if not hasattr(self, "module_"):
            check_is_fitted(self)
        x, form = check_prediction_data(self, X, method="predict")
        columns = predict_outputs(self.module_, x, n_outputs=self.n_outputs_, dtype=self.dtype_)
        link = link_of(self.module_)
        found = select_predictions(link, columns, return_std=return_std, quantiles=quantiles)
        # (n, 1, ...) -> (n, ...) where y was a vector
        shaped = [t.squeeze(1) if self._y_is_vector else t for t in found]
        restored = [to_input_format(t, X, form) for t in shaped]
        return tuple(restored) if return_std else restored[0]

    def _kept_in(
        self, checkpoint: Any, given: FitInputs, chosen: dict[str, Any]
    ) -> AbstractContextManager[Checkpoint | None]:
        """Open the checkpoint, if there is to be one."""
        if checkpoint is None:
            return nullcontext()
        n_folds = chosen.get("n_folds", self.n_folds)
        if n_folds is not None:
            raise ValueError(
                f"checkpoint expects n_folds=None, got {n_folds}: it holds the state of one "
                "network. Leave one of them out; with early_stopping=True one network holds rows "
                "out, too."
            )
        if self.n_init > 1 and not self._goes_on():
            raise ValueError(
                f"checkpoint expects n_init=1, got {self.n_init}: it holds the state of one "
                "network. Leave one of them out."
            )
        if self.callbacks is not None:
            raise ValueError(
                "checkpoint expects callbacks=None: what callbacks remember is in no checkpoint. "
                "Leave one of them out."
            )
        from torchreg._persistence.checkpoint import open_checkpoint
        from torchreg._persistence.fingerprint import fingerprint

        start = self.module_ if self._goes_on() else None
        return open_checkpoint(
            checkpoint,
            lambda: fingerprint(self.get_params(deep=False), given.data, given.held_out, start),
            lambda: seed_from(self.random_state),
        )

    def _always_printed(self) -> set[str]:
        """Name the defaults that are printed: rows that are held out must not be hidden."""
        left_open = isinstance(self.n_folds, str) and self.n_folds == "auto"
        return {"n_folds"} if self.module is None and left_open else set()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        loss: Any = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.positive_only = not getattr(loss, "center_target", True)
        tags.array_api_support = True
        return tags


TorchRegressor.__signature__ = signature_without_nested(TorchRegressor)
