"""Where fits start: partitions of the rows, and the params that follow."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.hierarchy
from sklearn.datasets import load_iris

import elbax
from elbax.starts import (
    hierarchical,
    k_means,
    k_means_plus_plus,
    quantiles,
    random_from_data,
    random_parts,
)
from elbax.starts._start import Name


X = jnp.asarray(load_iris().data)
WEIGHT = jnp.ones(len(X))
NAMES = get_args(Name)
KEYS = jax.random.split(jax.random.key(0), 3)
MODEL = elbax.GaussianMixture(3, floor=0.0)


def starts(init, model=MODEL, x=X, keys=KEYS):
    return jax.vmap(lambda key: model.init(key, x, init))(keys)


def bundle(model, num_restarts, x=X, **options):
    em = elbax.em(model)
    key = jax.random.key(1)
    return em, elbax.initial_states(em, x, key=key, num_restarts=num_restarts, **options)


def test_merges_are_scipys():
    """Ward's clusters of the same points."""
    points = np.random.default_rng(0).normal(size=(60, 3)) @ np.diag([1.0, 0.5, 0.1])
    from elbax.starts._hierarchical import _cut, _merges

    found = _cut(*_merges(points, np.ones(60)), 5)
    tree = scipy.cluster.hierarchy.ward(points)
    expected = scipy.cluster.hierarchy.fcluster(tree, 5, "maxclust")
    pairs = set(zip(found.tolist(), expected.tolist()))
    assert len(pairs) == len(set(found.tolist())) == 5


def test_hierarchical_clusters_count_weights_and_leave_out_what_has_none():
    twice = jnp.concatenate([X[:75], X[:75]]), jnp.ones(150)
    weighted = X, jnp.where(jnp.arange(150) < 75, 2.0, 0.0)
    labels = [hierarchical(KEYS[0], *data, 4)[:75] for data in (twice, weighted)]
    np.testing.assert_array_equal(*labels)


def test_hierarchical_clusters_of_many_rows():
    """Clusters far apart are found from a sample, rows that are not in it among them."""
    which = np.arange(3000) % 4
    points = np.random.default_rng(0).normal(size=(3000, 2)) + 50 * np.eye(4)[which][:, :2]
    points[which == 3] -= 50
    labels = hierarchical(KEYS[0], jnp.asarray(points), jnp.ones(3000), 3)
    assert len(set(zip(labels.tolist(), np.where(which == 2, 2, which).tolist()))) >= 3


@pytest.mark.parametrize("start", [random_from_data, k_means_plus_plus])
def test_centers_are_distinct_rows_that_count(start):
    rows = jnp.repeat(jnp.arange(5.0), 30)[:, None]
    weight = jnp.where(rows[:, 0] == 4, 0.0, 1.0)
    labels = jax.jit(jax.vmap(lambda key: start(key, rows, weight, 4)))(
        jax.random.split(jax.random.key(0), 20)
    )
    for one in np.asarray(labels):
        chosen = np.asarray(rows)[one >= 0, 0]
        assert sorted(chosen.tolist()) == [0, 1, 2, 3]
        assert sorted(one[one >= 0].tolist()) == [0, 1, 2, 3]


def test_rows_are_drawn_by_their_weights():
    keys = jax.random.split(jax.random.key(0), 4000)
    weight = jnp.array([1.0, 2.0, 3.0, 0.0, 4.0])
    draw = lambda key: jnp.argmax(random_from_data(key, jnp.arange(5.0)[:, None], weight, 1))
    found = np.bincount(jax.jit(jax.vmap(draw))(keys), minlength=5) / 4000
    np.testing.assert_allclose(found, weight / 10, atol=0.03)


def test_fewer_distinct_rows_than_centers():
    rows = jnp.repeat(jnp.arange(2.0), 10)[:, None]
    for start in (
        random_from_data,
        k_means_plus_plus,
        k_means,
        random_parts,
        quantiles,
        hierarchical,
    ):
        labels = np.asarray(start(KEYS[0], rows, jnp.ones(20), 3))
        assert labels.shape == (20,) and labels.max() < 3


def test_k_means_finds_clusters_apart():
    which = np.arange(300) % 3
    points = jnp.asarray(np.random.default_rng(0).normal(size=(300, 2)) + 20.0 * which[:, None])
    labels = jax.jit(k_means, static_argnums=3)(KEYS[0], points, jnp.ones(300), 3)
    assert len(set(zip(which.tolist(), labels.tolist()))) == 3


def test_random_parts_are_cells_of_rows_dealt_out():
    """Every component has a part, and the parts differ in size more than cells do."""
    draw = jax.jit(jax.vmap(lambda key: random_parts(key, X, WEIGHT, 3)))
    labels = np.asarray(draw(jax.random.split(jax.random.key(0), 40)))
    counts = np.stack([np.bincount(one, minlength=3) for one in labels])
    assert labels.shape == (40, 150) and labels.max() == 2 and counts.min() >= 1
    assert counts.max() > 110 and len({tuple(sorted(one)) for one in counts.tolist()}) > 20


@pytest.mark.parametrize("covariance", ["full", "tied", "spherical"])
def test_random_parts_begin_each_with_its_own_covariance(covariance):
    """That of its part, the other rows counting as 6.5 rows of 150; where all share one it stays."""
    model = elbax.GaussianMixture(3, covariance, floor=0.0)
    params = model.init(KEYS[0], X, "random_parts")
    labels = np.asarray(random_parts(KEYS[0], X, WEIGHT, 3))
    alike = model.init(KEYS[0], X, labels)
    np.testing.assert_allclose(params["logits"], alike["logits"], rtol=1e-10)
    if covariance == "tied":
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), params, alike)
        return
    found = model.describe(params)["covariances"]
    for k in range(3):
        inside = labels == k
        weight = np.where(inside, 1, min(1, 6.5 / np.sum(~inside)))
        whole = np.average(X, 0, weight)
        about = np.where(inside[:, None], np.asarray(X)[inside].mean(0), whole)
        offsets = np.asarray(X) - about
        expected = (weight[:, None] * offsets).T @ offsets / weight.sum()
        if covariance == "spherical":
            expected = np.trace(expected) / 4 * np.eye(4)
        np.testing.assert_allclose(found[k], expected, atol=1e-4)


def test_quantiles_part_a_column_evenly():
    column = jnp.asarray(np.random.default_rng(0).permutation(90).astype(float))[:, None]
    labels = np.asarray(quantiles(KEYS[0], column, jnp.ones(90), 3))
    low, middle, high = (np.asarray(column)[labels == k, 0] for k in range(3))
    edges = sorted([(part.min(), part.max()) for part in (low, middle, high)])
    assert edges == [(0, 29), (30, 59), (60, 89)]


@pytest.mark.parametrize("init", NAMES)
def test_starts_are_functions_of_the_key(init):
    params = starts(init)
    one = MODEL.init(KEYS[1], X, init)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-10), params, one)
    means = params["components"]["mean"]
    assert jnp.all(jnp.isfinite(means)) and means.shape == (3, 3, 4)
    if init not in ("quantiles", "hierarchical"):
        assert not jnp.allclose(means[0], means[1])


def test_rows_as_means_have_the_covariance_of_all():
    params = MODEL.describe(MODEL.init(KEYS[0], X, "random_from_data"))
    offsets = np.abs(np.asarray(X)[:, None] - np.asarray(params["means"])).max(-1)
    chosen = offsets.argmin(0)
    assert offsets[chosen, range(3)].max() < 1e-12
    np.testing.assert_allclose(params["weights"], 1 / 3)
    # Only these rows are about themselves.
    others = np.delete(np.asarray(X - X.mean(0)), chosen, 0)
    np.testing.assert_allclose(params["covariances"][0], others.T @ others / 150, rtol=1e-3)


def test_labels_responsibilities_functions_and_params():
    labels = np.arange(150) // 50
    params = MODEL.init(KEYS[0], X, labels)
    means = np.asarray(X).reshape(3, 50, 4).mean(1)
    np.testing.assert_allclose(params["components"]["mean"], means, rtol=1e-12)
    sure = jax.nn.one_hot(labels, 3)
    for init in (sure, lambda key, table, weight, number: jnp.asarray(labels)):
        found = MODEL.init(KEYS[0], X, init)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, params)
    half = MODEL.describe(MODEL.init(KEYS[0], X, 0.5 * (sure + jnp.roll(sure, 1, 1))))
    np.testing.assert_allclose(half["means"], 0.5 * (means + np.roll(means, 1, 0)), rtol=1e-10)
    assert MODEL.init(KEYS[0], X, params) is params


def test_labels_follow_incomplete_rows():
    """Rows with gaps are sorted by what is missing, their labels with them."""
    holes = np.array(X)
    holes[::7, 1] = np.nan
    labels = np.arange(150) // 50
    found = MODEL.init(KEYS[0], elbax.incomplete(holes), labels)["components"]["mean"]
    expected = np.stack([np.nanmean(holes[labels == k], 0) for k in range(3)])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_labels_of_sequences_have_their_shape():
    model = elbax.HiddenMarkovModel(elbax.components.Normal(), 3)
    labels = (np.arange(150) // 50).reshape(2, 75)
    params = model.init(KEYS[0], X.reshape(2, 75, 4), labels)
    np.testing.assert_allclose(params["components"]["mean"][0], X[:50].mean(0), rtol=1e-10)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("kmean", "init must be one of 'k-means', .* got 'kmean'"),
        (np.arange(150), r"labels 0, ..., 2, or -1 .* row 3 has 3"),
        (np.ones((150, 3)), "responsibilities that .* add up to 1; row 0"),
        (np.ones(150), r"responsibilities of shape \(150, 3\); got float64 of shape \(150,\)"),
        (np.zeros(5, int), r"labels, integers of shape \(150,\)"),
        ({"logits": jnp.zeros(3)}, "params must be a dictionary with keys"),
    ],
)
def test_starts_that_cannot_be(init, message, as_users_run):
    with pytest.raises(ValueError, match=message):
        MODEL.init(KEYS[0], X, init)


def test_hierarchical_says_that_it_runs_on_the_host():
    with pytest.raises(TypeError, match="runs on the host.*Start outside of jit"):
        jax.jit(lambda x: MODEL.init(KEYS[0], x, "hierarchical"))(X)


@pytest.mark.slow
@pytest.mark.parametrize(
    "init", ["k-means++", "random_from_data", "random_parts", "quantiles", "hierarchical"]
)
@pytest.mark.parametrize(
    ("model", "x"),
    [
        (elbax.Mixture(elbax.components.Poisson(), 2), (X * 10).round()),
        (elbax.Mixture(elbax.components.Bernoulli(), 2), (X > X.mean(0)).astype(float)),
        (elbax.Mixture(elbax.components.Categorical(3), 2), (X % 3).astype(int)),
        (elbax.Mixture(elbax.components.Multinomial(), 2), (X * 10).round()),
        (elbax.Mixture(elbax.components.Gamma(), 2), X),
        (elbax.Mixture(elbax.components.StudentT(), 2), X),
        (elbax.Mixture(elbax.components.FactorAnalyzer(1), 2), X),
        (elbax.Mixture(elbax.components.LinearRegression(), 2), (X[:, :2], X[:, 2])),
        (elbax.MixtureOfExperts(elbax.components.LinearRegression(), 2), (X[:, :2], X[:, 2])),
        (elbax.HiddenMarkovModel(elbax.components.Normal(), 2), X.reshape(2, 75, 4)),
    ],
    ids=lambda it: type(getattr(it, "component", it)).__name__,
)
def test_every_model_starts_in_every_way(model, x, init):
    """Components differ, and nothing is astray."""
    params = starts(init, model, x)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    components = params["experts" if isinstance(model, elbax.MixtureOfExperts) else "components"]
    leaves = jax.tree.leaves(components)
    assert any(not jnp.allclose(leaf[:, 0], leaf[:, 1], rtol=1e-3) for leaf in leaves)


@pytest.mark.parametrize("model", [elbax.FactorAnalysis(2), elbax.ProbabilisticPCA(1)])
def test_factors_start_at_random_too(model):
    drawn = starts("random", model)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(drawn))
    assert not jnp.allclose(drawn["loadings"][0], drawn["loadings"][1])
    variance = jnp.diagonal(model.covariance(jax.tree.map(lambda leaf: leaf[0], drawn)))
    assert jnp.all((variance > 0.1 * X.var(0)) & (variance < 10 * X.var(0)))
    params = model.init(KEYS[0], X)
    assert model.init(KEYS[0], X, params) is params
    with pytest.raises(ValueError, match="init must be 'principal_components', 'random' or params"):
        model.init(KEYS[0], X, "k-means")


def _lane_key(lane):
    return jax.random.split(jax.random.split(jax.random.key(1))[0], 8)[lane]


def test_states_of_restarts_are_of_several_kinds():
    """Lanes come in the order of their starts, each as `init` alone makes it."""
    _, states = bundle(MODEL, 8)
    means = states.params["components"]["mean"]
    assert means.shape == (8, 3, 4)
    deterministic = MODEL.init(KEYS[0], X, "hierarchical")["components"]["mean"]
    np.testing.assert_allclose(means[2], deterministic, rtol=1e-10)
    rows = {tuple(row) for row in np.asarray(X).round(6)}
    are_rows = [all(tuple(m) in rows for m in np.asarray(lane).round(6)) for lane in means]
    assert are_rows == [False, True, False, False, True, True, False, False]
    alone = MODEL.init(_lane_key(3), X, "random_parts")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-10), states.params, alone)


def test_starts_are_dealt_out():
    params = MODEL.init(KEYS[0], X)
    labels = np.arange(150) // 50
    _, states = bundle(MODEL, 4, init=["quantiles", params, labels])
    means = states.params["components"]["mean"]
    np.testing.assert_allclose(means[1], params["components"]["mean"], rtol=1e-12)
    np.testing.assert_allclose(means[2], MODEL.init(KEYS[0], X, labels)["components"]["mean"])
    np.testing.assert_allclose(means[0], means[3], rtol=1e-6)


def test_states_of_a_model_with_a_start_of_its_own():
    _, states = bundle(elbax.FactorAnalysis(1), 3)
    assert states.params["loadings"].shape == (3, 4, 1)
    _, states = bundle(elbax.FactorAnalysis(1), 3, init=["principal_components", "random"])
    assert states.params["loadings"].shape == (3, 4, 1)
    plain = elbax.Model(lambda params, x, z: params[z], elbax.Categorical(2))
    with pytest.raises(TypeError, match="Model has no init method, so it cannot start from data"):
        elbax.initial_states(elbax.ExactEStep(plain), X, key=jax.random.key(0))


@pytest.mark.slow
def test_starts_of_several_kinds_find_more_ends_than_of_one():
    model = elbax.GaussianMixture(5, floor=0.0)
    em, several = bundle(model, 32)
    _, alike = bundle(model, 32, init="k-means")
    found, narrow = (
        elbax.fit_restarts(em, states, X, reject=model.collapsed) for states in (several, alike)
    )
    assert found.num_distinct > narrow.num_distinct


@pytest.mark.slow
def test_restarts_find_a_narrow_cluster_beside_a_wide_component():
    """Four clusters, two components: one of them and the three others together is best.

    Of 32 starts whose components all begin with one covariance none finds it here.
    """
    centers = np.array([[20.0, 65.0], [44.0, 146.0], [99.0, 115.0], [69.0, 21.0]])
    noise = np.random.default_rng(0).normal(size=(75, 2))
    points = jnp.asarray(centers[np.arange(75) % 4] + 9 * noise)
    model = elbax.GaussianMixture(2, "diagonal", floor=0.0)
    em, states = bundle(model, 32, points)
    found = elbax.fit_restarts(em, states, points, reject=model.collapsed)
    assert float(found.best.elbo) > -9.65
    weights = model.describe(found.best.state.params)["weights"]
    np.testing.assert_allclose(np.sort(weights), [0.22, 0.78], atol=0.01)


@pytest.mark.slow
def test_short_runs_then_the_best():
    em, states = bundle(MODEL, 6)
    whole = elbax.fit_restarts(em, states, X, reject=MODEL.collapsed)
    short = elbax.fit_restarts(em, states, X, reject=MODEL.collapsed, short_runs=(10, 3))
    assert len(short.codes) == 3
    assert all(np.min(np.abs(whole.elbo - end)) < 1e-6 for end in short.elbo)
    assert min(short.num_steps) > 10 or "converged" in short.codes
    with pytest.raises(ValueError, match="number_kept must be at least 1"):
        elbax.fit_restarts(em, states, X, short_runs=(10, 0))


def test_what_the_ends_say():
    from elbax.fitting._restarts import _count_ends, _message_of_ends

    assert _count_ends(np.array([-1.0, -1.0 - 1e-9, -2.0, -2.0, -3.0]), 1e-7) == (3, 2)
    assert _count_ends(np.array([-1.0]), 1e-7) == (1, 1)
    assert "all ends have the same ELBO" in _message_of_ends(8, 8, 1, 8)
    assert "only once: use more restarts" in _message_of_ends(8, 8, 3, 1)
    assert "2 of them rejected" in _message_of_ends(8, 6, 3, 2)
