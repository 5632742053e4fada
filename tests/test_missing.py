"""NaN is missing: the evidence is that of what is seen, and EM is the textbook's."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize
import scipy.stats
from cases import step, sweeps
from test_components import FULL, LOADINGS, MEANS, NOISE, TABLE, WEIGHTS

import elbax


pytestmark = pytest.mark.usefixtures("both_forms")


def holes(x, share=0.25, seed=0):
    """NaN in a share of the entries, at least one entry left in every row."""
    rng = np.random.default_rng(seed)
    missing = rng.random(x.shape) < share
    missing[missing.all(1), 0] = False
    return np.where(missing, np.nan, np.asarray(x, float))


def normals(covariance):
    matrices = {
        "full": FULL,
        "tied": np.broadcast_to(FULL.mean(0), FULL.shape),
        "diagonal": FULL * np.eye(3),
        "spherical": np.array([0.7, 1.9])[:, None, None] * np.eye(3),
    }[covariance]
    described = {"means": MEANS, "covariances": matrices}
    component = elbax.components.Normal(covariance)
    return component, described, TABLE["student"][2], oracles.normal


COVARIANCES = ["full", "tied", "diagonal", "spherical"]
OTHERS = ["student", "factors", "factors-isotropic", "bernoulli", "poisson", "categorical", "gamma"]
NAMES = COVARIANCES + OTHERS


@functools.cache
def setting(name):
    """(model, params, incomplete rows, SciPy's log-joint)."""
    component, described, x, oracle = normals(name) if name in COVARIANCES else TABLE[name][:4]
    model = elbax.Mixture(component, 2)
    params = model.from_description(weights=WEIGHTS, **described)
    x = holes(x)
    assert 0.15 < np.isnan(x).mean() < 0.4
    return model, params, x, oracles.with_weights({"weights": WEIGHTS}, oracle(described, x))


@pytest.mark.parametrize("name", ["full", *OTHERS])
def test_evidence_is_of_what_is_seen(name):
    """SciPy's density of each row's observed columns; normals of other covariances in either form below."""
    model, params, x, log_joint = setting(name)
    ours = elbax.evidence(model, params, elbax.incomplete(x))
    np.testing.assert_allclose(ours, oracles.log_sum(log_joint).mean(), rtol=1e-12)


@pytest.mark.parametrize("form", ["difference", "expanded"])
@pytest.mark.parametrize("name", COVARIANCES)
def test_either_form_is_of_what_is_seen(name, form):
    """By turning the factor of the covariance, or by completing the square."""
    _, params, x, log_joint = setting(name)
    model = elbax.Mixture(elbax.components.Normal(name, form=form), 2)
    ours = elbax.evidence(model, params, elbax.incomplete(x))
    np.testing.assert_allclose(ours, oracles.log_sum(log_joint).mean(), rtol=1e-12)


@pytest.mark.slow
def test_responsibilities_are_of_what_is_seen():
    """Bayes' rule on one row."""
    for name in ("full", "student", "poisson"):
        model, params, x, log_joint = setting(name)
        row = elbax.IncompleteRows(jnp.nan_to_num(x[3]), jnp.asarray(~np.isnan(x[3])))
        theirs = np.exp(log_joint[3] - oracles.log_sum(log_joint)[3])
        np.testing.assert_allclose(elbax.Exact(model, params)(row).mean(), theirs, rtol=1e-10)


def product():
    names = ["full", "categorical", "gamma"]
    settings = {name: setting(name) for name in names}
    component = elbax.components.Product(
        **{name: model.component for name, (model, *_) in settings.items()}
    )
    model = elbax.Mixture(component, 2)
    params = {
        "logits": jnp.log(WEIGHTS),
        "components": {name: params["components"] for name, (_, params, *_) in settings.items()},
    }
    x = {name: x for name, (_, _, x, _) in settings.items()}
    log_joint = sum(joint - np.log(WEIGHTS) for _, _, _, joint in settings.values())
    return model, params, x, log_joint + np.log(WEIGHTS)


def test_evidence_of_a_product():
    """Groups of columns miss entries of their own."""
    model, params, x, log_joint = product()
    ours = elbax.evidence(model, params, elbax.incomplete(x))
    np.testing.assert_allclose(ours, oracles.log_sum(log_joint).mean(), rtol=1e-12)


@functools.cache
def factor_analysis(noise="diagonal"):
    model = elbax.FactorAnalysis(2, noise, floor=0.0)
    variance = NOISE[0] if noise == "diagonal" else 0.7
    params = model.from_description(mean=MEANS[0], loadings=LOADINGS[0], noise=variance)
    x = setting("full")[2]
    covariance = LOADINGS[0] @ LOADINGS[0].T + variance * np.eye(3)
    described = {"means": MEANS[:1], "covariances": covariance[None]}
    return model, params, x, oracles.normal(described, x)


@pytest.mark.parametrize("noise", ["diagonal", "isotropic"])
def test_evidence_of_factor_analysis(noise):
    model, params, x, log_joint = factor_analysis(noise)
    ours = elbax.evidence(model, params, elbax.incomplete(x))
    np.testing.assert_allclose(ours, oracles.log_sum(log_joint).mean(), rtol=1e-12)


def run(model, params, batch, length):
    """(params after so many sweeps of EM, the ELBO before each)."""
    em = elbax.em(model)
    state, info = sweeps(em, em.init(params, key=jax.random.key(0)), batch, length)
    return state.params, np.asarray(info.elbo)


QUICK = ["student"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in QUICK]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_em_ascends(name):
    """From the start that `init` makes of incomplete rows, and for long."""
    model, _, x, _ = setting(name)
    batch = elbax.incomplete(np.concatenate([x, holes(np.nan_to_num(x, nan=1.0), seed=1)]))
    params = model.init(jax.random.key(0), batch)
    params, elbo = run(model, params, batch, 30)
    assert np.all(np.diff(elbo) > -1e-10 * (1 + np.abs(elbo[1:])))
    assert elbo[-1] > elbo[0] + 1e-3
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_em_ascends_for_products_and_factor_analysis():
    for model, params, x, _ in (product(), factor_analysis()):
        _, elbo = run(model, params, elbax.incomplete(x), 20)
        assert np.all(np.diff(elbo) > -1e-10 * (1 + np.abs(elbo[1:])))
        assert elbo[-1] > elbo[0] + 1e-3


# --- the layout ----------------------------------------------------------------------------------


# Blocks are laid out and passed over alike for every component.
SIZES = [(None, None), (2, 5), (1, None), (16, None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes", [("full", SIZES), ("student", SIZES[:2]), ("product", SIZES[:2])]
)
def test_blocks_and_chunks_change_nothing(name, sizes):
    """Of any size, also with weights and rows that do not count."""
    model, params, x, _ = product() if name == "product" else setting(name)
    n = len(jax.tree.leaves(x)[0])
    weight = np.linspace(0.0, 2.0, n)
    batch = elbax.Batch(x, weight=weight)
    expected = None
    for block_size, chunk_size in sizes:
        found = one_sweep(model, params, elbax.incomplete(batch, block_size=block_size), chunk_size)
        expected = found if expected is None else expected
        assert_close(found, expected)


def one_sweep(model, params, batch, chunk_size=None):
    m_step = elbax.ClosedFormMStep(model, chunk_size=chunk_size)
    em = elbax.Chain(elbax.ExactEStep(model), m_step)
    state, info = step(em, em.init(params, key=jax.random.key(0)), batch)
    return state.params, info.elbo


def assert_close(ours, theirs, tolerance=1e-9):
    for left, right in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_weights_and_order():
    """Weight 2 is the row twice, weight 0 or mask False the row left out, and rows may come in any order."""
    model, params, x, _ = setting("full")
    n = len(x)
    doubled = np.where(np.arange(n) < 3, 2.0, 1.0)
    expected = one_sweep(model, params, elbax.incomplete(np.concatenate([x, x[:3]])))
    order = np.random.default_rng(1).permutation(n)
    batch = elbax.Batch(x[order], weight=doubled[order])
    assert_close(one_sweep(model, params, elbax.incomplete(batch)), expected)
    more = np.concatenate([x, np.full((2, 3), np.nan)])
    for weight, mask in (
        (np.append(doubled, [0, 0]), None),
        (np.append(doubled, [1, 1]), np.arange(n + 2) < n),
    ):
        batch = elbax.incomplete(elbax.Batch(more, weight=weight, mask=mask))
        assert_close(one_sweep(model, params, batch), expected)
    thousandth = elbax.incomplete(elbax.Batch(x, weight=1e-3))
    np.testing.assert_allclose(thousandth.weight.sum(), 1e-3 * n, rtol=1e-12)


@pytest.mark.parametrize("value", [np.inf, -1.0])
def test_what_does_not_count_may_hold_anything(value):
    """Infinity, or what has no density, in a row of weight 0: as without the row."""
    model, params, x, log_joint = setting("gamma")
    spoiled = x.copy()
    spoiled[4] = value
    batch = elbax.incomplete(elbax.Batch(spoiled, mask=np.arange(len(x)) != 4))
    model.check(batch)
    theirs = np.delete(oracles.log_sum(log_joint), 4).mean()
    ours, slope = jax.jit(jax.value_and_grad(lambda p: elbax.evidence(model, p, batch)))(params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "spherical", "student", "factors", "gamma"])
def test_complete_rows_are_plain_rows(name):
    """`incomplete` of what misses nothing is the plain batch."""
    x = TABLE["student" if name in COVARIANCES else name][2]
    model, params, _, _ = setting(name)
    ours = one_sweep(model, params, elbax.incomplete(x, block_size=5))
    assert_close(ours, one_sweep(model, params, jnp.asarray(x)))


def test_the_layout():
    """Every row once, in a block that misses what it misses; the padding weighs nothing."""
    _, _, x, _ = setting("full")
    batch = elbax.incomplete(x, block_size=4)
    assert batch.x.values.shape[1:] == (4, 3)
    seen = {}
    for b, (values, weights, index) in enumerate(
        zip(*map(np.asarray, (batch.x.values, batch.weight, batch.index)))
    ):
        for value, weight, i in zip(values, weights, index):
            if weight:
                assert weight == 1
                seen[int(i)] = np.where(np.asarray(batch.x.observed)[b], value, np.nan)
    np.testing.assert_array_equal(np.stack([seen[i] for i in range(len(x))]), x)
    assert float(batch.weight.sum()) == len(x)


def test_errors(as_users_run):
    x = setting("full")[2].copy()
    with pytest.raises(ValueError, match="already"):
        elbax.incomplete(elbax.incomplete(x))
    with pytest.raises(ValueError, match=r"Pass one column as x\[:, None\]"):
        elbax.incomplete(x[:, 0])
    with pytest.raises(ValueError, match="no common covariance"):
        elbax.compress(elbax.incomplete(x))
    with pytest.raises(ValueError, match="share one total"):
        model = elbax.Mixture(elbax.components.Multinomial(), 2)
        model.init(jax.random.key(0), elbax.incomplete(holes(TABLE["multinomial"][2])))
    with pytest.raises(ValueError, match="row 0, column 1 is -3"):
        spoiled = np.array([[np.nan, -3.0], [1.0, 2.0], [2.0, np.nan]])
        model = elbax.Mixture(elbax.components.Gamma(), 1)
        model.init(jax.random.key(0), elbax.incomplete(spoiled))
    x[5] = np.nan
    with pytest.raises(ValueError, match="row 5 is missing in all columns"):
        elbax.incomplete(x)
    x[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"column 1 is constant \(missing in every row\)"):
        batch = elbax.incomplete(np.delete(x, 5, 0)[~np.isnan(np.delete(x, 5, 0)).all(1)])
        elbax.GaussianMixture(2).init(jax.random.key(0), batch)
    model, table = elbax.FactorAnalysis(1), setting("full")[2]
    complete = jnp.asarray(table)[~np.isnan(table).any(1)]
    step = elbax.Chain(elbax.ExactEStep(model), elbax.EvidenceMStep(model))
    params = model.init(jax.random.key(0), complete)
    state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    with pytest.raises(TypeError, match="got incomplete rows.*Use ClosedFormMStep"):
        elbax.fit(step, state, elbax.incomplete(table))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_float32_evidence_of_nearly_singular_covariances(covariance):
    """As in float64: no narrow conditional density of what is missing is formed and multiplied out again."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(2, 4, 2))
    roots = np.concatenate([directions, np.broadcast_to(1e-3 * np.eye(4), (2, 4, 4))], -1)
    covariances = roots @ roots.transpose(0, 2, 1)
    if covariance == "diagonal":
        covariances = covariances * np.eye(4)
    x = np.concatenate([rng.normal(size=(30, 6)) @ root.T for root in roots])
    model = elbax.Mixture(elbax.components.Normal(covariance), 2)
    params = model.from_description(
        weights=WEIGHTS, means=np.zeros((2, 4)), covariances=covariances
    )
    batch = elbax.incomplete(holes(x, 0.4))
    wide = jax.tree.map(jnp.asarray, (params, batch))
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf, wide
    )
    rounded = jax.tree.map(
        lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, narrow
    )
    ours, theirs = elbax.evidence(model, *narrow), elbax.evidence(model, *rounded)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- against the textbook ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "student", "factors", "gamma", "categorical"])
def test_the_gradient_is_finite_and_right(name):
    """Against differences of the evidence."""
    model, params, x, _ = setting(name)
    batch = elbax.incomplete(x)
    flat, restore = jax.flatten_util.ravel_pytree(params)
    both = jax.jit(jax.value_and_grad(lambda flat: elbax.evidence(model, restore(flat), batch)))
    slope = both(flat)[1]
    direction, step = np.random.default_rng(0).normal(size=flat.shape), 1e-5
    above, below = (both(flat + sign * step * direction)[0] for sign in (1, -1))
    difference = (above - below) / (2 * step)
    np.testing.assert_allclose(slope @ direction, difference, rtol=1e-6)


def textbook(mean, covariance, x, dof=None):
    """One sweep of EM for one normal (or t of known dof): impute, then moments (Little and Rubin, ch. 11)."""
    n, dim = x.shape
    filled, spread, scale = np.zeros((n, dim)), np.zeros((dim, dim)), np.ones(n)
    for i, row in enumerate(x):
        o = ~np.isnan(row)
        m = ~o
        back = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        residual = row[o] - mean[o]
        filled[i, o] = row[o]
        filled[i, m] = mean[m] + back @ residual
        if dof is not None:
            distance = residual @ np.linalg.solve(covariance[np.ix_(o, o)], residual)
            scale[i] = (dof + o.sum()) / (dof + distance)
        spread[np.ix_(m, m)] += covariance[np.ix_(m, m)] - back @ covariance[np.ix_(o, m)]
    mean = scale @ filled / scale.sum()
    residual = filled - mean
    return mean, ((scale[:, None] * residual).T @ residual + spread) / n


@pytest.mark.parametrize("dof", [None, pytest.param(4.0, marks=pytest.mark.slow)])
def test_em_is_the_textbooks(dof):
    """Five sweeps: conditional means and covariances imputed, scales of a t weighed in."""
    x = setting("full")[2]
    if dof is None:
        component = elbax.components.Normal(floor=0.0)
        described = {"means": MEANS[:1], "covariances": FULL[:1]}
    else:
        component = elbax.components.StudentT(dof=dof, floor=0.0)
        described = {"means": MEANS[:1], "scales": FULL[:1]}
    model = elbax.Mixture(component, 1)
    params = model.from_description(weights=[1.0], **described)
    params, _ = run(model, params, elbax.incomplete(x), 5)
    mean, covariance = MEANS[0], FULL[0]
    for _ in range(5):
        mean, covariance = textbook(mean, covariance, x, dof)
    ours = model.describe(params)
    np.testing.assert_allclose(ours["means"][0], mean, rtol=1e-9)
    matrix = ours["covariances" if dof is None else "scales"][0]
    np.testing.assert_allclose(matrix, covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_em_with_factors_finds_the_optimum_of_what_is_seen():
    """One factor, four columns, a quarter missing: as a quasi-Newton search of SciPy's evidence."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 1)) @ np.array([[1.0, 0.8, -0.7, 0.5]]) + 0.6 * rng.normal(
        size=(60, 4)
    )
    x = holes(x)
    batch = elbax.incomplete(x)
    model = elbax.FactorAnalysis(1, floor=0.0)
    params = model.init(jax.random.key(0), batch)
    params, _ = run(model, params, batch, 1500)

    patterns = np.unique(~np.isnan(x), axis=0)
    parts = [(seen, x[(~np.isnan(x) == seen).all(1)][:, seen]) for seen in patterns]

    def negative(theta):
        """Rows that miss the same columns at once."""
        mean, loadings, log_noise = theta.reshape(3, 4)
        covariance = np.outer(loadings, loadings) + np.diag(np.exp(2 * log_noise))
        density = scipy.stats.multivariate_normal.logpdf
        total = sum(
            np.sum(density(rows, mean[seen], covariance[np.ix_(seen, seen)]))
            for seen, rows in parts
        )
        return -total / len(x)

    start = np.concatenate([np.ravel(params[name]) for name in ("mean", "loadings", "log_noise")])
    # Away from our answer, so that the search must find its own way.
    found = scipy.optimize.minimize(negative, start + 0.1, method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(negative(start), found.fun, atol=1e-8)
