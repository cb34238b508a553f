"""An ensemble of regressors: the mean and the spread of their predictions."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from torchreg._estimator import (
    DATA_ATTRIBUTES,
    Features,
    Interval,
    Levels,
    Predictions,
    ScoreMixin,
    as_callbacks,
    bootstrap,
    build_job,
    callback_management_context,
    check_constraints,
    check_fit_inputs,
    check_parameters,
    check_prediction_data,
    finish_callbacks,
    format_predictions,
    is_top_level_fit,
    issue_ensemble_warnings,
    print_member_losses,
    resolve_params,
    seed_from,
    set_fitted_attributes,
)
from torchreg._persistence import GraphMixin, SavingMixin
from torchreg._utils import restore_torch_state
from torchreg.engine.build import FitResult
from torchreg.engine.predict import combine_members, predict_members
from torchreg.engine.run import fit_networks
from torchreg.engine.spec import NotStartedError
from torchreg.nn import Ensemble
from torchreg.nn.links import link_of
from torchreg.regressor import TorchRegressor


class TorchEnsembleRegressor(GraphMixin, SavingMixin, ScoreMixin, BaseEstimator):
    r"""An ensemble of neural networks for regression: their mean, and their spread.

    .. math::

        \hat y(x) = \frac{1}{M} \sum_{m=1}^{M} \hat y_m(x), \qquad
        s(x)^2 = \frac{1}{M} \sum_{m=1}^{M} \bigl(\hat y_m(x) - \hat y(x)\bigr)^2

    The members differ in the seeds of their initial weights, batches and validation rows (deep
    ensemble) and, with ``bootstrap``, in their training rows (bagging). They are trained together,
    and each has its own scaling.

    Parameters
    ----------
    estimator : TorchRegressor or None, default=None
        The members are clones of it; it is not fitted. ``None`` is ``TorchRegressor()``. Its
        ``random_state`` and ``warm_start`` are not used. Its callbacks receive the mean losses of
        the members.
    n_estimators : int, default=10
        Number of members.
    bootstrap : bool, default=False
        Whether each member is trained on rows drawn with replacement, in proportion to
        ``sample_weight``, which has no other effect then. Validation rows for early stopping are
        held out before.
    random_state : int, RandomState or None, default=None
        Seeds the ``random_state`` of each member; an integer is that of the first member.

    Attributes
    ----------
    estimators_ : list of TorchRegressor
        The fitted members, which share no memory.
    module_ : torchreg.nn.Ensemble
        The ``module_`` of all members as one module, from raw units to raw units.
    n_outputs_, n_features_in_ : int
        Number of columns of y and of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns of X, if it has names.

    See Also
    --------
    TorchRegressor : One network; with ``n_init``, the best of several.
    sklearn.ensemble.BaggingRegressor : Bagging of any regressors.

    Notes
    -----
    The spread :math:`s` is the disagreement of the members, which is largest far from the
    training data. It does not include the noise of y, unless the members learn it with
    ``loss="gaussian_nll"``.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", NeurIPS (2017).

    L. Breiman, "Bagging Predictors", Machine Learning 24 (1996).

    Examples
    --------
    >>> import numpy as np
    >>> from torchreg import TorchEnsembleRegressor, TorchRegressor
    >>> flipper_mm = np.linspace(170, 230, 100).reshape(-1, 1)
    >>> mass_g = 4000 + 25 * np.abs(flipper_mm[:, 0] - 195)
    >>> ensemble = TorchEnsembleRegressor(TorchRegressor(max_epochs=100), random_state=0)
    >>> mean_g, std_g = ensemble.fit(flipper_mm, mass_g).predict([[200], [300]], return_std=True)
    >>> bool(std_g[1] > std_g[0])
    True
    """

    estimators_: list[TorchRegressor]
    n_outputs_: int
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]

    _CONSTRAINTS: ClassVar[dict[str, list[Any]]] = {
        "estimator": [None, TorchRegressor],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: TorchRegressor | None = None,
        n_estimators: int = 10,
        *,
        bootstrap: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.bootstrap = bootstrap
        self.random_state = random_state

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
    ) -> Self:
        """Fit the members to data in raw units.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, of any numeric dtype.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of 0 or more, for the loss and the scaling; with ``bootstrap``, the
            probabilities of the rows.
        X_val, y_val, sample_weight_val : array-like or None, default=None
            Validation rows of all members. Without them, early stopping holds out different rows
            for each member.

        Returns
        -------
        self : TorchEnsembleRegressor

        Raises
        ------
        ValueError, TypeError
            If parameters or data are invalid, or a member cannot be trained. The ensemble remains
            as it was.

        Warns
        -----
        ConvergenceWarning, DivergenceWarning, PrecisionWarning and others
            As :meth:`TorchRegressor.fit`, once for all members.
        InterruptWarning
            If Ctrl-C ended the fit; members that were trained are kept.
        """
        # 1. Validate parameters and data. Only the last step changes the ensemble.
        check_constraints(self, self._CONSTRAINTS)
        members = self._make_members()
        inputs = check_fit_inputs(self, X, y, sample_weight, X_val, y_val, sample_weight_val)
        resample = bootstrap if self.bootstrap else None
        with ExitStack() as stack:
            for member in members:
                stack.enter_context(callback_management_context(member))
            # 2. Choose parameters and rows of each member, and describe the fits.
            contexts = []
            for member in members:
                params = resolve_params(member, inputs, is_member=True)
                contexts.append(build_job(member, inputs, params, resample=resample))
            # 3. Train all members together.
            jobs = [context.job for context in contexts]
            if self.estimator is not None and self.estimator.callbacks is not None:
                # The members share the callbacks, which receive the mean of all.
                jobs = [replace(job, config=replace(job.config, ensemble=self)) for job in jobs]
            results = _check_results(fit_networks(jobs))
            # 4. End callbacks.
            fits = [
                (member, context, finish_callbacks(member, context, result))
                for member, context, result in zip(members, contexts, results, strict=True)
                if result is not None
            ]
        if self.estimator is not None and self.estimator.verbose and is_top_level_fit():
            standardized = contexts[0].job.config.standardize_y
            print_member_losses([result for *_, result in fits], standardized=standardized)
        # 5. Warn.
        warned = [(result, context.job.config, context.attributes) for _, context, result in fits]
        issue_ensemble_warnings(warned, n_members=len(members))
        # 6. Set the fitted attributes.
        for member, context, result in fits:
            set_fitted_attributes(member, context, result)
        self._set_members([member for member, *_ in fits])
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
            Whether to return a standard deviation too.
        quantiles : float, list of float or None, default=None
            Levels of quantiles to return instead, as :meth:`TorchRegressor.predict`: the means of
            the members' quantiles or, with ``loss="gaussian_nll"``, those of the normal
            distribution of ``y_mean`` and ``y_std``.

        Returns
        -------
        y_mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Mean of the members' predictions, in the dtype of :meth:`TorchRegressor.predict`.
        y_std : ndarray of the same shape
            Standard deviation of the members' predictions, in the same units; 0 for a single
            member. With ``loss="gaussian_nll"``, that of y: the square root of the sum of the mean
            variance and the variance of the means. Only if ``return_std``.

        Raises
        ------
        ValueError
            If X does not match the X of ``fit``, a prediction is not finite, or the loss does not
            provide quantiles.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.
        """
        check_is_fitted(self)
        x, x_format = check_prediction_data(self, X, method="predict")
        outputs = predict_members(self.module_, x, n_outputs=self.n_outputs_)
        link = link_of(self.estimators_[0].module_)
        found = combine_members(link, outputs, return_std=return_std, quantiles=quantiles)
        return format_predictions(self, found, X, x_format)

    def _with_loss(self) -> TorchRegressor:
        return self.estimators_[0]

    @property
    def module_(self) -> Ensemble:
        """The networks of all members as one module, without copies."""
        if not hasattr(self, "estimators_"):
            raise AttributeError("module_ is set by fit.")
        return Ensemble(member.module_ for member in self.estimators_).eval()

    @property
    def dtype_(self) -> torch.dtype:
        """Dtype of the networks."""
        return next(self.module_.members[0].get_submodule("network").parameters()).dtype

    def _make_members(self) -> list[TorchRegressor]:
        """Clone the template once for each seed, after checking its parameters."""
        template = TorchRegressor() if self.estimator is None else self.estimator
        if type(template).fit is not TorchRegressor.fit:
            raise TypeError(
                f"estimator expects a TorchRegressor that does not override fit: that of "
                f"{type(template).__name__} would not be called. Use BaggingRegressor instead."
            )
        check_parameters(template)
        as_callbacks(template.callbacks, n_networks=self.n_estimators)
        seeds = member_seeds(seed_from(self.random_state), self.n_estimators)
        # The printed tables of members that are trained together would interleave.
        params = template.get_params(deep=False)
        shared = {k: v for k, v in params.items() if k.partition("__")[0] == "callbacks"}
        bare = copy.copy(template)
        bare.callbacks = None
        bare._nested = {k: v for k, v in template._nested.items() if k not in shared}
        changes = {**shared, "verbose": 0}
        return [clone(bare).set_params(random_state=seed, **changes) for seed in seeds]

    def _set_members(self, members: list[TorchRegressor]) -> None:
        """Replace the fitted attributes at once, so that an interrupt leaves a consistent fit."""
        data = {name: value for name, value in vars(members[0]).items() if name in DATA_ATTRIBUTES}
        kept = {name: v for name, v in vars(self).items() if name != "feature_names_in_"}
        self.__dict__ = kept | data | {"estimators_": members}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        template = TorchRegressor() if self.estimator is None else self.estimator
        tags.target_tags.positive_only = template.__sklearn_tags__().target_tags.positive_only
        tags.array_api_support = True
        return tags


def member_seeds(seed: int, n_estimators: int) -> list[int]:
    """Derive a seed for each member; the first has that of the ensemble.

    They differ from the seeds that a member derives for several networks, which are those of
    :func:`torchreg._utils.spawn_seeds`: otherwise networks of two members would be equal.

    Examples
    --------
    >>> member_seeds(7, 1), member_seeds(7, 3)[:2] == member_seeds(7, 2)
    ([7], True)
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(1,))
    others: list[int] = sequence.generate_state(n_estimators - 1).tolist()
    return [seed, *others]


def _check_results(results: list[FitResult | Exception]) -> list[FitResult | None]:
    """Replace members that an interrupt prevented from starting by ``None``; raise other errors."""
    checked: list[FitResult | None] = []
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, NotStartedError):
            raise result
        checked.append(result if isinstance(result, FitResult) else None)
    return checked
