"""Factor graphs and Bayesian networks against all configurations, one by one."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import elbax
from elbax import BayesianNetwork
from elbax.families import FactorGraph


GRAPHS = {
    "cycle": ((2, 3, 2, 2), ((0, 1), (1, 2), (2, 3), (3, 0), (1,))),
    "tree": ((2, 3, 4), ((2, 0), (0,), (1,))),
    "free": ((2, 2, 3, 2), ((3, 0, 1), (1,))),
    "nothing": ((2, 3), ()),
}


def tables(sizes, scopes, seed=0, impossible=True):
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=[sizes[i] for i in scope]) for scope in scopes]
    if impossible and found:
        found[0][(0,) * found[0].ndim] = -np.inf
    return tuple(map(jnp.asarray, found))


def enumerate_all(sizes, scopes, eta):
    """(configurations, log-weights)."""
    values = list(itertools.product(*map(range, sizes)))
    weights = [
        sum(float(table[tuple(z[i] for i in scope)]) for scope, table in zip(scopes, eta))
        for z in values
    ]
    return np.array(values), np.array(weights, float)


@eqx.filter_jit
def everything(family, eta):
    q = family(eta)
    return (
        family.log_normalizer(eta),
        q.mean(),
        q.entropy(),
        q.mode(),
        family.marginals(eta) if family.scopes else (),
    )


@pytest.mark.parametrize(
    "name", [*GRAPHS][:1] + [pytest.param(n, marks=pytest.mark.slow) for n in [*GRAPHS][1:3]]
)
def test_all_configurations(name):
    """Value, tables, single variables, entropy, mode: with an impossible entry, and variables of no table."""
    sizes, scopes = GRAPHS[name]
    family = FactorGraph(sizes, scopes)
    for seed in range(3):
        eta = tables(sizes, scopes, seed)
        z, weights = enumerate_all(sizes, scopes, eta)
        value, mean, entropy, mode, singles = everything(family, eta)
        expected = scipy.special.logsumexp(weights)
        p = np.exp(weights - expected)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for scope, table in zip(scopes, mean):
            theirs = np.zeros(table.shape)
            np.add.at(theirs, tuple(z[:, list(scope)].T), p)
            np.testing.assert_allclose(table, theirs, atol=1e-12)
        for i, size in enumerate(sizes):
            np.testing.assert_allclose(singles[i], np.bincount(z[:, i], p, size), atol=1e-12)
        np.testing.assert_allclose(entropy, -np.sum(p[p > 0] * np.log(p[p > 0])), rtol=1e-10)
        used = sorted({i for scope in scopes for i in scope})
        best = z[np.argmax(weights)]
        np.testing.assert_array_equal(np.asarray(mode)[used], best[used])


def test_no_tables_at_all():
    family = FactorGraph(*GRAPHS["nothing"])
    np.testing.assert_allclose(family.log_normalizer(()), np.log(6), rtol=1e-12)


def test_samples_are_in_proportion():
    """Each of 24 configurations, among 4000 draws, within five standard deviations."""
    sizes, scopes = GRAPHS["cycle"]
    family, eta = FactorGraph(sizes, scopes), tables(sizes, scopes)
    _, weights = enumerate_all(sizes, scopes, eta)
    p = scipy.special.softmax(weights)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(jax.vmap(family.sample, (None, 0)))(eta, keys)
    found = np.bincount(np.ravel_multi_index(np.asarray(drawn).T, sizes), minlength=len(p)) / 4000
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_scores_and_statistics():
    """⟨η, t(z)⟩ is the sum of the entries at z, and log q adds up to one."""
    sizes, scopes = GRAPHS["cycle"]
    family, eta = FactorGraph(sizes, scopes), tables(sizes, scopes)
    z, weights = enumerate_all(sizes, scopes, eta)
    scores = jax.jit(jax.vmap(family.score, (None, 0)))(eta, z)
    np.testing.assert_allclose(scores, weights, rtol=1e-12)
    by_statistics = jax.jit(jax.vmap(family.statistics))(z)
    finite = np.isfinite(weights)
    total = sum(
        np.nan_to_num(t[finite] * np.where(np.isfinite(eta), eta, 0))
        .reshape(finite.sum(), -1)
        .sum(1)
        for t, eta in zip(by_statistics, eta)
    )
    np.testing.assert_allclose(total, weights[finite], rtol=1e-12)


def test_the_bound_of_other_tables():
    """E_q⟨λ, t(z)⟩ + H(q) by enumeration, where both leave the same out, and where only q does."""
    sizes, scopes = GRAPHS["cycle"]
    family = FactorGraph(sizes, scopes)
    q = tables(sizes, scopes, 0)
    p = scipy.special.softmax(enumerate_all(sizes, scopes, q)[1])
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
    bound, slopes = jax.jit(family.bound), jax.jit(jax.grad(family.bound, (0, 1)))
    for impossible in (True, False):
        other = tables(sizes, scopes, 1, impossible)
        _, weights = enumerate_all(sizes, scopes, other)
        expected = np.sum(p[p > 0] * weights[p > 0]) + entropy
        np.testing.assert_allclose(bound(q, other), expected, rtol=1e-10)
        slope = slopes(q, other)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))
    possible = tables(sizes, scopes, 1, False)
    assert bound(possible, q) == -np.inf


def test_width_of_what_is_known():
    """Treewidth plus one: 2 on a chain or tree, 3 on a cycle, 4 on a clique of four."""
    assert FactorGraph((3,) * 6, [(i, i + 1) for i in range(5)]).width == 2
    assert FactorGraph((3,) * 6, [(i, (i + 1) % 6) for i in range(6)]).width == 3
    assert FactorGraph((2,) * 7, [(i, (i - 1) // 2) for i in range(1, 7)]).width == 2
    clique = FactorGraph((2,) * 4, list(itertools.combinations(range(4), 2)))
    assert (clique.width, clique.largest) == (4, 2**4)
    assert FactorGraph((1000,) * 6, [(i, i + 1) for i in range(5)]).largest == 10**6


def test_planning_leaves_pythons_random_numbers_alone(as_users_run):
    import random

    random.seed(3)
    expected = random.random()
    random.seed(3)
    FactorGraph((2,) * 5, [(i, i + 1) for i in range(4)]).width  # noqa: B018
    assert random.random() == expected


def test_what_is_too_wide_is_refused():
    """Before it runs; mean field needs no such table."""
    complete = FactorGraph((2,) * 6, list(itertools.combinations(range(6), 2)), limit=16)
    tables = tuple(jnp.zeros((2, 2)) for _ in complete.scopes)
    assert complete.largest == 64
    with pytest.raises(ValueError, match=r"over 6 variables.*Use mean field.*raise the limit"):
        jax.eval_shape(complete.log_normalizer, tables)
    family = elbax.families.factored(complete)
    np.testing.assert_allclose(family.bound(family.start(tables), tables), 6 * np.log(2))


def test_tables_have_their_scopes_shapes():
    family = FactorGraph((2, 3), ((0, 1), (1,)))
    with pytest.raises(
        ValueError, match=r"of shapes \[\(2, 3\), \(3,\)\].*got \[\(3, 2\), \(3,\)\]"
    ):
        family.log_normalizer((jnp.zeros((3, 2)), jnp.zeros(3)))
    with pytest.raises(ValueError, match="one for each scope"):
        family.log_normalizer((jnp.zeros((2, 3)),))


@pytest.mark.parametrize(
    ("sizes", "scopes", "message"),
    [
        ((), (), "positive"),
        ((2, 0), (), "positive"),
        ((2,), ((1,),), "scope"),
        ((2,), ((0, 0),), "scope"),
    ],
)
def test_what_is_no_graph_is_refused(sizes, scopes, message):
    with pytest.raises(ValueError, match=message):
        FactorGraph(sizes, scopes)


def test_from_network_says_what_it_wants():
    family = FactorGraph((2, 3), ((0, 1), (1,)))
    given = (jnp.zeros((2, 3)), jnp.zeros(3))
    assert family.from_network(given) == given
    with pytest.raises(ValueError, match=r"tables of shapes \[\(2, 3\), \(3,\)\]"):
        family.from_network((jnp.zeros((3, 2)), jnp.zeros(3)))


# --- Bayesian networks -----------------------------------------------------------------------------


SIZES, PARENTS = (2, 3, 2), ((), (0,), (1, 0))


@functools.cache
def incomplete_data():
    """20 rows, NaN in a quarter of the entries; a row of nothing but gaps too."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, np.array(SIZES), (20, 3)).astype(float)
    x[rng.random(x.shape) < 0.25] = np.nan
    x[4] = np.nan
    return x


def brute_force_em(described, x, pseudo=0.0):
    """(log p(x) of each row, the tables after one step), over all configurations."""
    logs = [np.log(np.asarray(table, float)) for table in described]
    counts = [np.full(table.shape, pseudo) for table in logs]
    evidence = []
    for row in x:
        fits = [
            z
            for z in itertools.product(*map(range, SIZES))
            if all(np.isnan(a) or a == b for a, b in zip(row, z))
        ]
        places = [[tuple(z[j] for j in (*PARENTS[i], i)) for i in range(3)] for z in fits]
        weights = np.array([sum(logs[i][place[i]] for i in range(3)) for place in places])
        evidence.append(scipy.special.logsumexp(weights))
        for place, share in zip(places, np.exp(weights - evidence[-1])):
            for i in range(3):
                counts[i][place[i]] += share
    return np.array(evidence), [count / count.sum(-1, keepdims=True) for count in counts]


@pytest.mark.parametrize("pseudo", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_em_on_missing_data(pseudo):
    """Three steps: evidence and tables of the brute-force EM."""
    prior = elbax.priors.Dirichlet(1.0 + pseudo) if pseudo else None
    model = BayesianNetwork(SIZES, PARENTS, prior=prior)
    x = incomplete_data()
    batch = elbax.IncompleteRows(jnp.nan_to_num(x), jnp.asarray(~np.isnan(x)))
    em = elbax.em(model)
    params = model.init(jax.random.key(0))
    state = em.init(params, key=jax.random.key(1))
    step, last = jax.jit(em), -np.inf
    for _ in range(3):
        evidence, tables = brute_force_em(model.describe(state.params)["tables"], x, pseudo)
        global_term = float(model.log_prior(state.params)) / len(x)
        state, info = step(state, batch)
        np.testing.assert_allclose(info.elbo, evidence.mean() + global_term, rtol=1e-12)
        assert info.elbo > last
        last = float(info.elbo)
        for ours, theirs in zip(model.describe(state.params)["tables"], tables):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_marginals_given_what_is_seen():
    """p(z_i | x) by enumeration, in rows with gaps."""
    model = BayesianNetwork(SIZES, PARENTS)
    params = model.init(jax.random.key(0))
    logs = [np.log(table) for table in model.describe(params)["tables"]]
    for row in (np.array([np.nan, 2, 1]), np.array([1, np.nan, np.nan])):
        x = elbax.IncompleteRows(jnp.nan_to_num(row), jnp.asarray(~np.isnan(row)))
        z = np.array(list(itertools.product(*map(range, SIZES))))
        fits = np.all(np.isnan(row) | (row == z), 1)
        weights = [sum(logs[i][tuple(v[j] for j in (*PARENTS[i], i))] for i in range(3)) for v in z]
        p = scipy.special.softmax(np.where(fits, weights, -np.inf))
        for i, ours in enumerate(jax.jit(model.marginals)(params, x)):
            np.testing.assert_allclose(ours, np.bincount(z[:, i], p, SIZES[i]), atol=1e-12)


@pytest.mark.slow
def test_samples_of_a_network():
    """Frequencies of all 12 configurations."""
    model = BayesianNetwork(SIZES, PARENTS)
    params = model.init(jax.random.key(0))
    z = np.asarray(model.sample(params, jax.random.key(1), 4000))
    tables = [np.asarray(table) for table in model.describe(params)["tables"]]
    for values in itertools.product(*map(range, SIZES)):
        p = np.prod([tables[i][tuple(values[j] for j in (*PARENTS[i], i))] for i in range(3)])
        found = np.mean(np.all(z == values, 1))
        assert abs(found - p) <= 5 * np.sqrt(p * (1 - p) / 4000)


def test_cycles_and_strangers_are_refused():
    with pytest.raises(ValueError, match="cycle"):
        BayesianNetwork((2, 2, 2), ((1,), (0,), ()))
    with pytest.raises(ValueError, match="cycle, or are not variables"):
        BayesianNetwork((2, 2), ((), (5,)))
    with pytest.raises(ValueError, match="got parents for 1 variables, but sizes for 2"):
        BayesianNetwork((2, 2), ((),))


def test_values_outside_are_refused():
    model = BayesianNetwork(SIZES, PARENTS)
    with pytest.raises(ValueError, match="row 1, column 1"):
        model.check(jnp.array([[0, 0, 0], [0, 3, 0]]))
    with pytest.raises(ValueError, match="rows with 3 values"):
        model.check(jnp.zeros((2, 2), int))


def test_impossible_evidence_is_told():
    """Two symptoms that copy one cause cannot differ; what is impossible stays so whatever the M-step."""
    model = elbax.BayesianNetwork((2, 2, 2), ((), (0,), (0,)))
    copy = [[1.0, 0.0], [0.0, 1.0]]
    params = model.from_description(tables=([0.3, 0.7], copy, copy))
    impossible = elbax.incomplete(jnp.array([[jnp.nan, 0.0, 1.0]]))
    assert elbax.evidence(model, params, impossible) == -jnp.inf
    datum = jax.tree.map(lambda leaf: leaf[0], impossible.x)
    row = type(datum)(datum.values[0], datum.observed)
    for shares in jax.jit(model.marginals)(params, row):
        assert np.isnan(shares).all()
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(0))
    assert elbax.fit(em, state, impossible).code == "nonfinite"

    possible = elbax.incomplete(jnp.array([[jnp.nan, 0, 0], [jnp.nan, 1, 1], [1, 1, jnp.nan]]))
    for update in (
        em,
        elbax.wrappers.Accelerate(em),
        elbax.Chain(em.updates[0], elbax.NewtonMStep(model)),
    ):
        state = update.init(params, elbax.Exact(model, params), key=jax.random.key(0))
        result = elbax.fit(update, state, possible)
        np.testing.assert_allclose(result.elbo, (np.log(1 / 3) + 2 * np.log(2 / 3)) / 3, rtol=1e-6)
        for table in model.describe(result.state.params)["tables"][1:]:
            np.testing.assert_array_equal(table, copy)
    slope = jax.jit(jax.grad(lambda p: elbax.evidence(model, p, possible)))(params)
    assert all(np.isfinite(leaf).all() for leaf in slope)
