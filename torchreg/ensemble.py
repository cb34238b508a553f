"""Several regressors as one: their mean, and how far they differ."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from torchreg._estimator.callbacks import print_members
from torchreg._estimator.constraints import check_limits, check_parameters
from torchreg._estimator.dataset import draw_with_replacement
from torchreg._estimator.fit_warnings import warn_about_members
from torchreg._estimator.fitting import check_given
from torchreg._estimator.params import as_callbacks, seed_from
from torchreg._estimator.scoring import ScoreMixin
from torchreg._estimator.sklearn_compat import Interval, callback_management_context
from torchreg._estimator.validation import DATA_ATTRIBUTES, check_prediction_data, to_input_format
from torchreg._parallel import run_fits
from torchreg._persistence.export_mixin import GraphMixin
from torchreg._persistence.save_mixin import SavingMixin
from torchreg._utils import restore_torch_state
from torchreg.engine.build import FitResult
from torchreg.engine.predict import combine_members, predict_members
from torchreg.engine.spec import NotStartedError
from torchreg.nn import Ensemble
from torchreg.nn.links import link_of
from torchreg.regressor import TorchRegressor


class TorchEnsembleRegressor(GraphMixin, SavingMixin, ScoreMixin, BaseEstimator):
    r"""An ensemble of neural networks for regression: their mean, and their spread.

    .. math::

        \hat y(x) = \frac{1}{M} \sum_{m=1}^{M} \hat y_m(x), \qquad
        s(x)^2 = \frac{1}{M} \sum_{m=1}^{M} \bigl(\hat y_m(x) - \hat y(x)\bigr)^2

    The members differ in the seed of their initial weights, of their batches and of the rows
    that they hold out: a deep ensemble. With ``bootstrap`` each also has a draw of the rows of
    its own: bagging. All are trained together, and each has its own scaling inside.

    Parameters
    ----------
    estimator : TorchRegressor or None, default=None
        The regressor of which the members are copies; it is never fitted. ``None`` is
        ``TorchRegressor()``. Its ``random_state`` and ``warm_start`` do not count.
    n_estimators : int, default=10
        Number of members.
    bootstrap : bool, default=False
        Whether each member trains on as many rows as there are, drawn with replacement (in
        proportion to ``sample_weight``, which does not count otherwise then). What a member
        holds out for early stopping, it holds out before.
    random_state : int, RandomState or None, default=None
        From which each member gets an integer as its own ``random_state``; the first one gets
        an integer as it is.

    Attributes
    ----------
    estimators_ : list of TorchRegressor
        The fitted members. They share no numbers, and can be asked one by one, as in
        ``estimators_[0].diagnose(X, y)``.
    module_ : torchreg.nn.Ensemble
        The members' networks as one module, from raw units to raw units; it contains the
        ``module_`` of each, and its ``state_dict`` holds all that was learned.
    n_outputs_ : int
        Number of outputs.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had any.

    See Also
    --------
    TorchRegressor : One network; with ``n_init``, the best of several.
    sklearn.ensemble.BaggingRegressor : Bagging of any regressors, one after another.

    Notes
    -----
    The spread :math:`s` says how far the members disagree, which they do most where there are
    no data. It is no standard deviation of y: the noise of y itself is not in it, unless the
    members learn it with ``loss="gaussian_nll"``.

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

    _LIMITS: ClassVar[dict[str, list[Any]]] = {
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
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the members to data in raw units, together.

        Parameters
        ----------
        X : array-like, DataFrame, tensor or sparse matrix of shape (n_samples, n_features)
            Features, in any units and any numeric dtype.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, in any units.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of 0 or more; they weigh the loss and the statistics. With ``bootstrap``,
            the chances of a row to be drawn.
        X_val, y_val : array-like or None, default=None
            Validation rows of your own, the same for all members. Without them and with early
            stopping, each member holds out other rows.
        sample_weight_val : array-like of shape (n_samples_val,) or None, default=None
            Weights of the validation rows.

        Returns
        -------
        self : TorchEnsembleRegressor

        Raises
        ------
        ValueError, TypeError
            If parameters or data do not fit, or a member cannot be trained; what was fitted
            before is kept.

        Warns
        -----
        ConvergenceWarning, DivergenceWarning, PrecisionWarning and others
            What :meth:`TorchRegressor.fit` warns of, once for all members.
        InterruptWarning
            If Ctrl-C ended the fit. Members that have learned something are kept.
        """
        # 1. Check everything; until the last step the ensemble stays as it was.
        check_limits(self, self._LIMITS)
        members = self._make_members()
        given = check_given(self, X, y, sample_weight, X_val, y_val, sample_weight_val)
        draw = draw_with_replacement if self.bootstrap else None
        with ExitStack() as listening:
            for member in members:
                listening.enter_context(callback_management_context(member))
            # 2. Hold rows out and draw rows, for each member its own.
            asked = [
                member._ask(given, chosen=member._choose(given, is_member=True), draw=draw)
                for member in members
            ]
            # 3. Train all of them together.
            results = run_fits([one.job for one in asked])
            # 4. Tell who listens, and say what went wrong.
            heard = [
                (member, ask, member._hear(ask, result))
                for member, ask, result in zip(members, asked, _learned(results), strict=True)
                if result is not None
            ]
        if self.estimator is not None and self.estimator.verbose:
            standardized = asked[0].job.config.standardize_y
            print_members([fitted for _, _, fitted in heard], standardized=standardized)
        configs = [(fitted, ask.job.config, ask.seen) for _, ask, fitted in heard]
        warn_about_members(configs, n_members=len(members))
        # 5. Store what was learned.
        for member, ask, fitted in heard:
            member._store(ask, fitted)
        self._store([member for member, _, _ in heard])
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
            Whether to return a standard deviation, too.
        quantiles : float, list of float or None, default=None
            Levels of the quantiles to return instead, as for :meth:`TorchRegressor.predict`:
            the means of the members' quantiles or, with ``loss="gaussian_nll"``, those of the
            normal distribution of ``y_mean`` and ``y_std``.

        Returns
        -------
        y_mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Mean of the members' predictions, in the form that :meth:`TorchRegressor.predict`
            gives them.
        y_std : ndarray of the same shape
            Standard deviation of the members' predictions around it, in the same units; 0 for a
            single member. With ``loss="gaussian_nll"`` that of y itself: the square root of the
            members' mean variance and the variance of their means. Only if ``return_std``.

        Raises
        ------
        ValueError
            If X does not fit the X of ``fit``, a prediction is not finite, or quantiles were not
            learned.
        sklearn.exceptions.NotFittedError
            If ``fit`` was not called.
        """
        check_is_fitted(self)
        x, form = check_prediction_data(self, X, method="predict")
        outputs = predict_members(self.module_, x, n_outputs=self.n_outputs_)
        link = link_of(self.estimators_[0].module_)
        found = combine_members(link, outputs, return_std=return_std, quantiles=quantiles)
        # (n, 1, ...) -> (n, ...) where y was a vector
        shaped = [t.squeeze(1) if self._y_is_vector else t for t in found]
        restored = [to_input_format(t, X, form) for t in shaped]
        return tuple(restored) if return_std else restored[0]

    def _with_loss(self) -> TorchRegressor:
        member: TorchRegressor = self.estimators_[0]
        return member

    @property
    def module_(self) -> Ensemble:
        """The members' networks as one module; it contains them, and no copies."""
        if not hasattr(self, "estimators_"):
            raise AttributeError("module_ is there when the ensemble has been fitted.")
        return Ensemble(member.module_ for member in self.estimators_).eval()

    @property
    def dtype_(self) -> torch.dtype:
        """In which the networks compute."""
        return next(self.module_.members[0].get_submodule("network").parameters()).dtype

    def _make_members(self) -> list[TorchRegressor]:
        """Copy the template, once for each seed, and check its parameters."""
        template = TorchRegressor() if self.estimator is None else self.estimator
        if type(template).fit is not TorchRegressor.fit:
            raise TypeError(
                f"estimator expects a TorchRegressor whose fit is TorchRegressor's own; the fit of "
                f"{type(template).__name__} would not be called. Use BaggingRegressor for it."
            )
        check_parameters(template)
        as_callbacks(template.callbacks, n_networks=self.n_estimators)
        seeds = member_seeds(seed_from(self.random_state), self.n_estimators)
        # The tables of many that train together would stand in one another.
        return [clone(template).set_params(random_state=seed, verbose=0) for seed in seeds]

    def _store(self, members: list[TorchRegressor]) -> None:
        """Take what was learned, all at once: an interrupt finds the old fit or the new one."""
        seen = {name: value for name, value in vars(members[0]).items() if name in DATA_ATTRIBUTES}
        kept = {name: v for name, v in vars(self).items() if name != "feature_names_in_"}
        self.__dict__ = kept | seen | {"estimators_": members}

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
    """Give each member a seed; the first has that of the ensemble.

    They are none of those from which a member draws networks if it has several
    (:func:`torchreg.engine.spec.spawn_seeds`), or members would come to be the same.

    Examples
    --------
    >>> member_seeds(7, 1), member_seeds(7, 3)[:2] == member_seeds(7, 2)
    ([7], True)
    """
    others = np.random.SeedSequence(seed, spawn_key=(1,))
    further: list[int] = others.generate_state(n_estimators - 1).tolist()
    return [seed, *further]


def _learned(results: list[FitResult | Exception]) -> list[FitResult | None]:
    """Read the answers: ``None`` for who was kept from learning by an interrupt.

    Raises
    ------
    Exception
        What was wrong with a member: all are asked for, and one cannot be had.
    """
    found: list[FitResult | None] = []
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, NotStartedError):
            raise result
        found.append(result if isinstance(result, FitResult) else None)
    return found
