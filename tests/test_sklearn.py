"""scikit-learn's face: scikit-learn's own checks and estimators, and what elbax adds."""

import pickle

import jax
import numpy as np
import optax
import pandas as pd
import pytest
import sklearn.decomposition
import sklearn.mixture
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

import elbax
from elbax.sklearn import (
    BernoulliMixture,
    CategoricalMixture,
    FactorAnalysis,
    GaussianMixture,
    PoissonMixture,
    ProbabilisticPCA,
    StudentTMixture,
)
from elbax.sklearn._distinct_rows import distinct_rows


ESTIMATORS = [
    PoissonMixture(2),
    GaussianMixture(2),
    StudentTMixture(2),
    BernoulliMixture(2),
    CategoricalMixture(2),
    FactorAnalysis(1),
    ProbabilisticPCA(1),
]


# What the estimators do not share: those of one kind differ in their model, and by it in how they take these. That
# answers depend neither on other rows nor on their order, and fits on weights as on repeated rows, all are held to
# below.
OF_THE_MODEL = {
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_transformer_general",
}
# What `fit` does before any model is made; the class that has it is the same for mixtures and factor models.
OF_EVERY_FIT = {
    "check_dtype_object",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_fit_score_takes_y",
    "check_n_features_in_after_fitting",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weights_list",
    "check_sample_weights_pandas_series",
}
# Special cases of others here in their model alone: of normals, and of factors.
SPECIAL = StudentTMixture, ProbabilisticPCA


def due(estimator, check):
    """All for one mixture, all but those of every fit for one factor model, those of the model for the others."""
    name = check.func.__name__
    if type(estimator) is GaussianMixture:
        return True
    if isinstance(estimator, SPECIAL) and name == "check_estimators_dtypes":
        return False
    return name in OF_THE_MODEL or (type(estimator) is FactorAnalysis and name not in OF_EVERY_FIT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{check.func.__name__}")
        for estimator in ESTIMATORS
        for _, check in estimator_checks_generator(estimator)
        if due(estimator, check)
    ],
)
def test_check(estimator, check):
    check(estimator)


def geyser():
    return np.array(elbax.datasets.old_faithful())


def counts(seed=0, num_data=40):
    rng = np.random.default_rng(seed)
    rates = np.where(rng.random((num_data, 1)) < 0.4, [[1.0, 6.0, 3.0]], [[8.0, 2.0, 3.0]])
    return rng.poisson(rates).astype(float)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gaussian_mixture_ends_where_theirs_does(covariance_type):
    x = geyser()
    precisions = {
        "full": np.broadcast_to(np.diag([4.0, 0.03]), (2, 2, 2)),
        "tied": np.diag([4.0, 0.03]),
        "diag": np.broadcast_to([4.0, 0.03], (2, 2)),
        "spherical": np.array([0.03, 0.03]),
    }
    start = {
        "covariance_type": covariance_type,
        "reg_covar": 0.0,
        "weights_init": [0.4, 0.6],
        "means_init": [[2.0, 55.0], [4.3, 80.0]],
        "precisions_init": precisions[covariance_type],
        "max_iter": 500,
    }
    theirs = sklearn.mixture.GaussianMixture(2, tol=1e-12, **start).fit(x)
    ours = GaussianMixture(2, tol=1e-12, **start).fit(x)
    assert abs(ours.score(x) - theirs.score(x)) * len(x) < 1e-4
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.bic(x), theirs.bic(x), rtol=1e-7)
    np.testing.assert_allclose(ours.aic(x), theirs.aic(x), rtol=1e-7)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-4)
    assert len(ours.lower_bounds_) == ours.n_iter_
    assert ours.lower_bounds_[-1] == ours.lower_bound_
    assert np.all(np.diff(ours.lower_bounds_) > -1e-10)


def test_factor_analysis_ends_where_theirs_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(200, 6)) + 3
    theirs = sklearn.decomposition.FactorAnalysis(2, tol=1e-10, svd_method="lapack").fit(x)
    ours = FactorAnalysis(2, tol=1e-12, random_state=0).fit(x)
    assert abs(ours.score(x) - theirs.score(x)) * len(x) < 1e-4
    np.testing.assert_allclose(ours.loglike_[-1], theirs.loglike_[-1], rtol=1e-6)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-3)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, atol=1e-3)
    # Scores agree up to the rotation that none of the two fixes.
    scores, expected = ours.transform(x), theirs.transform(x)
    np.testing.assert_allclose(scores @ scores.T, expected @ expected.T, atol=1e-2)
    assert list(ours.get_feature_names_out()) == ["factoranalysis0", "factoranalysis1"]


@pytest.mark.slow
@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data", "hierarchical", "auto"])
def test_where_fits_start(init_params):
    """scikit-learn's words and ours, from one start and from several."""
    x = geyser()
    for n_init in (1, 4):
        mixture = GaussianMixture(2, init_params=init_params, n_init=n_init, random_state=0).fit(x)
        assert 272 * mixture.score(x) == pytest.approx(-1130.264, abs=1e-2)


def test_where_fits_cannot_start():
    with pytest.raises(ValueError, match="init must be one of 'k-means'.* got 'k_means'"):
        GaussianMixture(2, init_params="k_means").fit(geyser())
    with pytest.raises(TypeError, match="init_params must be a name such as 'kmeans'"):
        GaussianMixture(2, init_params=[0, 1]).fit(geyser())


def test_probabilistic_pca_is_the_closed_form():
    x = geyser()
    pca = ProbabilisticPCA(1, reg_covar=0.0, random_state=0).fit(x)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(pca.noise_variance_, values[0], rtol=1e-6)
    np.testing.assert_allclose(pca.get_covariance(), np.cov(x.T, bias=True), rtol=1e-6)
    np.testing.assert_allclose(pca.get_precision() @ pca.get_covariance(), np.eye(2), atol=1e-9)


def test_nan_is_missing():
    x = geyser()
    x[::5, 0] = np.nan
    x[1::7, 1] = np.nan
    x = x[~np.isnan(x).all(axis=1)]
    mixture = GaussianMixture(2, random_state=0).fit(x)

    def joint_of(row):
        seen = ~np.isnan(row)
        normals = zip(mixture.means_[:, seen], mixture.covariances_[:, seen][:, :, seen])
        return [multivariate_normal.logpdf(row[seen], *normal) for normal in normals]

    joint = np.array([joint_of(row) for row in x]) + np.log(mixture.weights_)
    expected = np.logaddexp(*joint.T)
    np.testing.assert_allclose(mixture.score_samples(x), expected, rtol=1e-9)
    proba = np.exp(joint - expected[:, None])
    np.testing.assert_allclose(mixture.predict_proba(x), proba, atol=1e-9)
    mixture.chunk_size = 64
    np.testing.assert_allclose(mixture.predict_proba(x), proba, atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [estimator for estimator in ESTIMATORS if not isinstance(estimator, SPECIAL)],
    ids=lambda e: type(e).__name__,
)
def test_nan_leaves_complete_rows_as_they_are(estimator):
    x = counts()
    x[::4, 1] = np.nan
    complete = ~np.isnan(x).any(axis=1)
    fitted = clone(estimator).set_params(random_state=0).fit(x)
    answer = getattr(fitted, "transform" if hasattr(fitted, "transform") else "predict_proba")
    assert np.isfinite(answer(x)).all() and np.isfinite(fitted.score(x))
    np.testing.assert_allclose(answer(x)[complete], answer(x[complete]), atol=1e-9)
    scores = fitted.score_samples(x)[complete]
    np.testing.assert_allclose(scores, fitted.score_samples(x[complete]), atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_weights_are_repetitions_wherever_they_stand(estimator):
    """Down to the draws of the start: the fits are the same."""
    x, weight = counts(), np.arange(40) % 3
    repeated = clone(estimator).set_params(random_state=0, max_iter=5).fit(x.repeat(weight, axis=0))
    order = np.random.default_rng(1).permutation(40)
    weighted = clone(repeated).fit(x[order], sample_weight=weight[order])
    np.testing.assert_array_equal(weighted.score_samples(x), repeated.score_samples(x))


def test_equal_rows_are_one():
    table = np.array(
        [[1.0, np.nan], [0.0, 2.0], [1.0, np.nan], [-0.0, 2.0], [3.0, 2.0], [0.0, 2.0]]
    )
    rows, weight = distinct_rows(table, None)
    assert {(*map(str, row), w) for row, w in zip(rows, weight)} == {
        ("1.0", "nan", 2),
        ("0.0", "2.0", 3),
        ("3.0", "2.0", 1),
    }
    again, _ = distinct_rows(table[::-1], None)
    np.testing.assert_array_equal(np.abs(again), np.abs(rows))
    alone, weight = distinct_rows(table, np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]))
    assert len(alone) == 3 and weight is None
    few, _ = distinct_rows(np.ones((5, 2)), None, least=2)
    assert len(few) == 5
    many = np.random.default_rng(0).integers(0, 3, (4000, 4)).astype(float)
    assert len(distinct_rows(many, None)[0]) == 81


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_data(dtype):
    """As in a worker process, which knows nothing of its parent's `jax_enable_x64`."""
    x, fits = counts().astype(dtype), []
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            fits.append(PoissonMixture(2, random_state=0).fit(x))
            fits[-1] = pickle.loads(pickle.dumps(fits[-1]))
            assert fits[-1].rates_.dtype == fits[-1].predict_proba(x).dtype == dtype
    for read in (lambda fit: fit.rates_, lambda fit: fit.score_samples(x)):
        np.testing.assert_array_equal(read(fits[0]), read(fits[1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("kind", "dtype"), [(GaussianMixture, np.float64), (StudentTMixture, np.float32)]
)
def test_a_collapse_is_told(kind, dtype):
    """A covariance too narrow for a Cholesky factor has its attributes, and the fit says what it is worth."""
    x = np.concatenate([np.tile([[3.0, 1.0]], (5, 1)), geyser()[:30]]).astype(dtype)
    start = {"weights_init": [0.2, 0.8], "means_init": [[3.0, 1.0], [3.0, 60.0]]}
    with pytest.warns(
        ConvergenceWarning, match=r"components \[0\] have collapsed onto a few points"
    ):
        mixture = kind(2, reg_covar=0, tol=1e-4, **start).fit(x)
    assert np.isfinite(mixture.means_).all() and np.isfinite(mixture.precisions_[1]).all()
    assert mixture.precisions_.dtype == dtype


@pytest.mark.slow
def test_weight_two_is_the_row_twice():
    x = counts()
    weight = np.arange(len(x)) % 3
    start = {"rates_init": [[1.0, 6.0, 3.0], [8.0, 2.0, 3.0]], "weights_init": [0.5, 0.5]}
    weighted = PoissonMixture(2, tol=1e-12, **start).fit(x, sample_weight=weight)
    repeated = PoissonMixture(2, tol=1e-12, **start).fit(x.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.rates_, repeated.rates_, rtol=1e-6)
    np.testing.assert_allclose(weighted.lower_bound_, repeated.lower_bound_, rtol=1e-9)

    weighted = ProbabilisticPCA(1).fit(x, sample_weight=weight)
    repeated = ProbabilisticPCA(1).fit(x.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.get_covariance(), repeated.get_covariance(), rtol=1e-6)
    np.testing.assert_allclose(weighted.loglike_[-1], repeated.loglike_[-1], rtol=1e-6)


def generalized_em(model):
    return elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(0.05)))


def test_update_is_exchanged_in_a_word_and_all_travels():
    x = counts()
    em = PoissonMixture(2, random_state=0).fit(x)
    other = clone(PoissonMixture(2, random_state=0, update=generalized_em)).fit(x)
    assert other.n_iter_ > em.n_iter_
    assert abs(other.score(x) - em.score(x)) < 1e-4

    read = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(read.predict_proba(x), other.predict_proba(x))

    # What is fitted goes on in elbax.
    evidence = elbax.evidence(em.model_, em.params_, x)
    np.testing.assert_allclose(float(evidence), em.score(x), rtol=1e-9)


@pytest.mark.slow
def test_restarts_and_warm_start():
    x = counts()
    best = PoissonMixture(2, n_init=4, random_state=0).fit(x)
    assert best.converged_
    again = best.set_params(warm_start=True).fit(x)
    assert again.n_iter_ <= 3
    with pytest.raises(ValueError, match="3 features"):
        best.fit(x[:, :2])
    with pytest.warns(ConvergenceWarning, match="Stopped after 1 steps"):
        PoissonMixture(2, max_iter=1, random_state=0).fit(x)


def test_device_and_chunks_change_no_answer():
    x = counts()
    plain = PoissonMixture(2, random_state=0).fit(x)
    elsewhere = PoissonMixture(2, random_state=0, device="cpu:1", chunk_size=7).fit(x)
    assert elsewhere._put(elsewhere.params_)["logits"].devices() == {jax.devices("cpu")[1]}
    np.testing.assert_allclose(elsewhere.rates_, plain.rates_, rtol=1e-6)
    np.testing.assert_allclose(elsewhere.predict_proba(x), plain.predict_proba(x), atol=1e-6)
    moved = plain.set_params(device=jax.devices("cpu")[1])
    np.testing.assert_allclose(moved.predict_proba(x), elsewhere.predict_proba(x), atol=1e-6)


def test_draws_have_the_moments_of_the_model():
    mixture = PoissonMixture(2, random_state=0).fit(counts())
    x, components = mixture.sample(4000)
    assert x.shape == (4000, 3) and set(components) == {0, 1}
    np.testing.assert_allclose(x.mean(0), mixture.weights_ @ mixture.rates_, rtol=0.1)


def test_binarize():
    x = counts()
    mixture = BernoulliMixture(2, binarize=3, random_state=0).fit(x)
    ones = BernoulliMixture(2, binarize=None, random_state=0).fit(x > 3)
    np.testing.assert_array_equal(mixture.probabilities_, ones.probabilities_)
    with pytest.raises(ValueError, match="BernoulliMixture: expected zeros and ones"):
        ones.predict(x)


@pytest.mark.parametrize(
    "estimator, message",
    [
        (
            GaussianMixture(covariance_type="round"),
            "'full', 'tied', 'diag' or 'spherical'; got 'round'",
        ),
        (GaussianMixture(2, weights_init=[np.nan, 1.0]), r"weights\[0\] is nan"),
        (GaussianMixture(2, means_init=np.full((2, 3), np.nan)), r"means\[0, 0\] is nan"),
        (
            GaussianMixture(2, precisions_init=np.zeros((2, 3, 3))),
            "precisions_init must be positive definite",
        ),
        (GaussianMixture(2, reg_covar=-1.0), "reg_covar must be finite and not negative, got -1.0"),
        (PoissonMixture(2, rates_init=[[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]]), r"rates\[1, 1\] is -2"),
        (PoissonMixture(2, tol=-1.0), "tol must be finite and not negative, got -1.0"),
        (
            GaussianMixture(2, means_init=[[1.0]]),
            r"expected initial means .* shape \(2, 3\), got \(1, 1\)",
        ),
        (
            GaussianMixture(2, precisions_init=np.eye(3)),
            r"expected initial precisions .* \(2, 3, 3\)",
        ),
        (GaussianMixture(50), "50 components need at least 50 rows of positive weight, got 40"),
        (PoissonMixture(n_init=0), "n_init must be at least 1, got 0"),
        (
            PoissonMixture(device="cpu:9"),
            r"device='cpu:9' is not available; the available devices are \['cpu:0'",
        ),
        (CategoricalMixture(n_categories=2), "CategoricalMixture: expected values 0, 1, ... below"),
    ],
    ids=str,
)
def test_errors_teach(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(counts())


def test_errors_speak_of_the_rows_and_columns_that_were_given():
    table = pd.DataFrame(counts(), columns=["calls", "mails", "visits"])
    table.loc[17, "mails"] = 2.5
    with pytest.raises(ValueError, match="row 17, column 'mails' is 2.5"):
        PoissonMixture(2).fit(table)


def test_rows_outside_of_the_support_are_refused_by_predict_too():
    mixture = PoissonMixture(2, random_state=0).fit(counts())
    with pytest.raises(ValueError, match="PoissonMixture: expected counts"):
        mixture.predict([[0.5, 1, 1]])
    with pytest.raises(ValueError, match="Negative values"):
        mixture.predict([[-1, 1, 1]])
    with pytest.raises(ValueError, match="must be finite and not negative"):
        PoissonMixture(2).fit(counts(), sample_weight=-np.ones(40))
    with pytest.raises(ValueError, match="zero in every row"):
        PoissonMixture(2).fit(counts(), sample_weight=np.zeros(40))
