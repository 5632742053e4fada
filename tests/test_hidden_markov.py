"""Hidden Markov models: Zucchini and MacDonald's numbers, and all paths one by one."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from cases import sweeps

import elbax
from elbax import HiddenMarkovModel


pytestmark = pytest.mark.usefixtures("both_forms")


K = 2
POISSON = elbax.components.Poisson()
NORMAL = elbax.components.Normal("diagonal", floor=0.0)


def chain(model, e_step=elbax.ExactEStep, **arguments):
    return elbax.Chain(e_step(model), elbax.ClosedFormMStep(model, **arguments))


def start(update, model, params, hard=False):
    exact = elbax.Exact(model, params)
    return update.init(
        params, elbax.posteriors.Hard(exact) if hard else exact, key=jax.random.key(1)
    )


# Zucchini, MacDonald and Langrock (2016), chapter 4: negative log-likelihoods with a free first state.
@pytest.mark.parametrize(
    ("num_states", "golden"),
    [
        pytest.param(1, 391.9189, marks=pytest.mark.slow),
        pytest.param(2, 341.8787, marks=pytest.mark.slow),
        pytest.param(3, 328.5275, marks=pytest.mark.slow),
        pytest.param(4, 326.4106, marks=pytest.mark.slow),
    ],
)
def test_earthquakes(num_states, golden):
    """The best of a few starts is the published maximum, and none is higher."""
    x = jnp.asarray(elbax.datasets.earthquakes())[None]
    model = HiddenMarkovModel(POISSON, num_states)
    em = chain(model)
    keys = jax.random.split(jax.random.key(0), {1: 1, 2: 3, 3: 8, 4: 16}[num_states])
    states = jax.vmap(lambda key: start(em, model, model.init(key, x)))(keys)
    found = elbax.fit_restarts(em, states, x, max_steps=3000, tolerance=1e-10)
    np.testing.assert_allclose(-found.best.elbo, golden, atol=5e-4)
    assert float(found.elbo.max()) < -golden + 5e-4


# --- all paths -------------------------------------------------------------------------------------


LENGTHS = np.array([4, 2, 1, 3])


@functools.cache
def tracks():
    """Four sequences of at most 4 steps of two columns, and one value in five missing."""
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(4, 4, 2))
    holed = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    return x, holed


def parameters(zeros=False):
    table = np.array([[0.7, 0.3], [0.0, 1.0]]) if zeros else np.array([[0.7, 0.3], [0.2, 0.8]])
    return dict(
        initial=np.array([0.6, 0.4]),
        transition=table,
        means=np.array([[-1.0, 0.5], [1.0, -0.3]]),
        covariances=np.array([np.diag([1.0, 0.5]), np.diag([0.8, 1.5])]),
    )


def log_densities(described, x):
    """(T, K), of what is seen."""
    means = np.asarray(described["means"])
    deviation = np.sqrt(np.diagonal(np.asarray(described["covariances"]), axis1=1, axis2=2))
    terms = scipy.stats.norm(means, deviation).logpdf(x[:, None, :])
    return np.where(np.isnan(x)[:, None, :], 0, terms).sum(-1)


def all_paths(described, data, hard=False):
    """(log p(x) or max_z log p(x, z) of each, expected counts and moments of a whole EM step)."""
    with np.errstate(divide="ignore"):
        initial, table = np.log(described["initial"]), np.log(described["transition"])
    values, first, counts = [], np.zeros(K), np.zeros((K, K))
    responsibilities, best = [], []
    for x in data:
        emitted = log_densities(described, x)
        paths = list(itertools.product(range(K), repeat=len(x)))
        scores = np.array(
            [
                initial[z[0]]
                + sum(emitted[t, k] for t, k in enumerate(z))
                + sum(table[i, j] for i, j in itertools.pairwise(z))
                for z in paths
            ]
        )
        values.append(scores.max() if hard else scipy.special.logsumexp(scores))
        p = np.eye(len(paths))[np.argmax(scores)] if hard else np.exp(scores - values[-1])
        share = np.zeros((len(x), K))
        for z, weight in zip(paths, p):
            first[z[0]] += weight
            share[np.arange(len(x)), list(z)] += weight
            for pair in itertools.pairwise(z):
                counts[pair] += weight
        responsibilities.append(share)
        best.append(paths[int(np.argmax(scores))])
    x, share = np.concatenate(data), np.concatenate(responsibilities)
    means = share.T @ x / share.sum(0)[:, None]
    spread = np.einsum("nk,nkd->kd", share, (x[:, None] - means) ** 2) / share.sum(0)[:, None]
    moved = dict(
        initial=first / first.sum(),
        transition=counts / counts.sum(1, keepdims=True),
        means=means,
        covariances=np.array([np.diag(row) for row in spread]),
    )
    return np.array(values), moved, (first, counts), best


def ragged(x):
    return [row[:length] for row, length in zip(x, LENGTHS)]


def assert_described(model, params, expected):
    ours = model.describe(params)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, atol=1e-10, err_msg=name)


def test_one_step_of_baum_and_welch():
    """Evidence and every parameter from all paths of ragged sequences; `evidence` and the sum of singles."""
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    data = ragged(tracks()[0])
    batch = elbax.sequences(data)
    values, moved, *_ = all_paths(parameters(), data)
    np.testing.assert_allclose(elbax.evidence(model, params, batch), values.mean(), rtol=1e-12)
    em = chain(model)
    state, info = eqx.filter_jit(em)(start(em, model, params), batch)
    np.testing.assert_allclose(info.elbo, values.mean(), rtol=1e-12)
    assert_described(model, state.params, moved)


@pytest.mark.slow
def test_ragged_is_one_by_one():
    """A batch of sequences is the sum of batches of one, and what the padding holds does not matter."""
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    batch = elbax.sequences(ragged(tracks()[0]))
    values, *_ = all_paths(parameters(), ragged(tracks()[0]))
    inside = (np.arange(4) < LENGTHS[:, None])[:, :, None]
    other = elbax.Sequence(jnp.where(inside, batch.values, 1e3), batch.length)
    em = chain(model)
    ends = [eqx.filter_jit(em)(start(em, model, params), x) for x in (batch, other)]
    for left, right in zip(*map(jax.tree.leaves, (ends[0][0].params, ends[1][0].params))):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    for i, value in enumerate(values):
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], other)
        np.testing.assert_allclose(elbax.evidence(model, params, one), value, rtol=1e-12)


def test_missing_values_are_integrated_over():
    """NaN in a column leaves that column out; a step without any tells nothing."""
    data = ragged(tracks()[1])
    data[0][2] = np.nan
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    values, *_ = all_paths(parameters(), data)
    ours = elbax.evidence(model, params, elbax.sequences(data))
    np.testing.assert_allclose(ours, values.mean(), rtol=1e-12)


def test_viterbi_training():
    """The best path of each sequence, its score, and counts along it; and it ascends."""
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    data = ragged(tracks()[0])
    batch = elbax.sequences(data)
    values, moved, _, best = all_paths(parameters(), data, hard=True)
    update = chain(model, elbax.HardEStep)
    state = start(update, model, params, hard=True)
    modes = jax.jit(jax.vmap(lambda x: elbax.Exact(model, params)(x).mode()))(batch)
    for i, path in enumerate(best):
        assert tuple(modes[i, : LENGTHS[i]].tolist()) == path
    after, info = eqx.filter_jit(update)(state, batch)
    np.testing.assert_allclose(info.elbo, values.mean(), rtol=1e-12)
    ours = model.describe(after.params)
    for name in ("initial", "means"):
        np.testing.assert_allclose(ours[name], moved[name], atol=1e-10)


@pytest.mark.slow
def test_viterbi_training_ascends():
    x = jnp.asarray(
        np.random.default_rng(2).poisson([[1.0] * 10 + [6.0] * 10] * 3)[:, :, None], float
    )
    model = HiddenMarkovModel(POISSON, 2)
    update = chain(model, elbax.HardEStep)
    _, info = sweeps(update, start(update, model, model.init(jax.random.key(0), x), True), x, 10)
    assert bool(jnp.all(jnp.diff(info.elbo) >= -1e-12))
    assert info.elbo[-1] > info.elbo[0]


@pytest.mark.slow
def test_impossible_stays_impossible():
    """Left to right: exact zeros after EM, the step that of all paths, padding and all."""
    allowed, starts = np.array([[True, True], [False, True]]), np.array([True, False])
    model = HiddenMarkovModel(NORMAL, K, allowed=allowed, starts=starts)
    described = parameters(zeros=True) | {"initial": np.array([1.0, 0.0])}
    params = model.from_description(**described)
    data = ragged(tracks()[0])
    values, moved, *_ = all_paths(described, data)
    em = chain(model)
    state, info = eqx.filter_jit(em)(start(em, model, params), elbax.sequences(data))
    np.testing.assert_allclose(info.elbo, values.mean(), rtol=1e-12)
    assert_described(model, state.params, moved)
    state, info = sweeps(em, state, elbax.sequences(data), 5)
    assert bool(jnp.all(jnp.diff(info.elbo) > -1e-12))
    ours = model.describe(state.params)
    assert ours["transition"][1, 0] == 0
    assert ours["initial"][1] == 0
    np.testing.assert_allclose(jnp.sum(ours["transition"], 1), 1, rtol=1e-12)
    x, z = model.sample(state.params, jax.random.key(0), 50, 6)
    assert x.shape == (50, 6, 2)
    assert bool(jnp.all(z[:, 0] == 0) & jnp.all(jnp.diff(z, axis=1) >= 0))


def test_priors_are_pseudo_counts():
    """Dirichlet a on the first state and on rows: a − 1 more of each count, and the objective has both."""
    model = HiddenMarkovModel(
        NORMAL,
        K,
        prior=elbax.priors.Dirichlet(2.5),
        transition_prior=elbax.priors.Dirichlet(1.5),
    )
    params = model.from_description(**parameters())
    data = ragged(tracks()[0])
    values, moved, (first, counts), _ = all_paths(parameters(), data)
    first, counts = first + 1.5, counts + 0.5
    expected = moved | {
        "initial": first / first.sum(),
        "transition": counts / counts.sum(1, keepdims=True),
    }
    em = chain(model)
    state, info = eqx.filter_jit(em)(start(em, model, params), elbax.sequences(data))
    assert_described(model, state.params, expected)
    log_prior = scipy.stats.dirichlet([2.5, 2.5]).logpdf(parameters()["initial"])
    log_prior += sum(
        scipy.stats.dirichlet([1.5, 1.5]).logpdf(r) for r in parameters()["transition"]
    )
    np.testing.assert_allclose(info.elbo, (values.sum() + log_prior) / 4, rtol=1e-12)


@pytest.mark.slow
def test_frozen_transitions_stay():
    """`free` keeps the transitions to the bit, and all else moves as it does without."""
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    data = ragged(tracks()[0])
    _, moved, *_ = all_paths(parameters(), data)
    em = chain(model, free={"initial": True, "transition": False, "components": True})
    state, _ = eqx.filter_jit(em)(start(em, model, params), elbax.sequences(data))
    np.testing.assert_array_equal(state.params["transition"], params["transition"])
    del moved["transition"]
    assert_described(model, state.params, moved)


@pytest.mark.slow
def test_driven_transitions():
    """Logits by inputs: the evidence from all paths at the inputs' own tables, and a gradient fit ascends."""
    rng = np.random.default_rng(1)
    model = HiddenMarkovModel(NORMAL, K, transition="input-driven")
    values, inputs = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 1))
    x = (jnp.asarray(inputs), jnp.asarray(values))
    described = parameters()
    slopes = rng.normal(size=(K, K, 1))
    plain = HiddenMarkovModel(NORMAL, K).from_description(**described)
    weights = {"logits": plain["transition"], "slopes": jnp.asarray(slopes)}
    params = eqx.tree_at(
        lambda params: params["transition"],
        plain,
        eqx.tree_at(
            lambda network: jax.tree.leaves(network),
            model.init(jax.random.key(0), x)["transition"],
            jax.tree.leaves(weights),
        ),
    )
    expected = []
    for u, row in zip(inputs, values):
        emitted = log_densities(described, row)
        logits = [np.log(described["transition"]) + slopes @ v for v in u]
        tables = scipy.special.log_softmax(logits, -1)
        scores = [
            np.log(described["initial"][z[0]])
            + sum(emitted[t, k] for t, k in enumerate(z))
            + sum(tables[t, z[t - 1], z[t]] for t in range(1, 4))
            for z in itertools.product(range(K), repeat=4)
        ]
        expected.append(scipy.special.logsumexp(scores))
    np.testing.assert_allclose(elbax.evidence(model, params, x), np.mean(expected), rtol=1e-12)
    free = {"initial": True, "transition": False, "components": True}
    update = elbax.Chain(
        elbax.ExactEStep(model),
        elbax.ClosedFormMStep(model, free=free),
        elbax.GradientMStep(
            model, optax.sgd(0.05), free={"initial": False, "transition": True, "components": False}
        ),
    )
    state, info = sweeps(update, start(update, model, params), x, 10)
    assert bool(jnp.all(jnp.diff(info.elbo) > 0))
    assert (
        float(jnp.abs(jax.tree.leaves(state.params["transition"])[0] - weights["logits"]).max()) > 0
    )
    with pytest.raises(TypeError, match="depend on inputs have no closed-form M-step"):
        em = chain(model)
        em(start(em, model, params), x)
    with pytest.raises(TypeError, match="depend on inputs"):
        model.sample(params, jax.random.key(0), 2, 3)


@pytest.mark.slow
def test_forms_and_orders_agree():
    """However it is computed: 20 sweeps end at the same params."""
    x = jnp.asarray(elbax.datasets.earthquakes())[None]
    ends = []
    for arguments in (
        dict(),
        dict(form="log"),
        dict(form="scaled"),
        dict(order="pairwise"),
        dict(segment=10),
    ):
        model = HiddenMarkovModel(POISSON, 3, **arguments)
        em = chain(model)
        state, _ = sweeps(em, start(em, model, model.init(jax.random.key(0), x)), x, 20)
        ends.append(state.params)
    for other in ends[1:]:
        for left, right in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-8)


def test_a_long_sequence_in_float32():
    """Rounding must not add up along the chain: it would exceed what an EM step gains."""
    x = elbax.datasets.lambda_phage()[None]
    model = HiddenMarkovModel(elbax.components.Categorical(4), 2)
    shares = [[[0.04, 0.30, 0.34, 0.32]], [[0.85, 0.06, 0.05, 0.04]]]
    table = [[0.76, 0.24], [0.67, 0.33]]
    params = model.from_description(initial=[0.5, 0.5], transition=table, probabilities=shares)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    found = elbax.evidence(model, single, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, elbax.evidence(model, params, x), rtol=3e-7)


def test_counts_of_free_params():
    """One row less one each: 1 + 2 + 4 of means and 4 of variances; without what is impossible."""
    model = HiddenMarkovModel(NORMAL, K)
    params = model.from_description(**parameters())
    assert model.num_free_params(params) == 1 + 2 + 8
    masked = HiddenMarkovModel(NORMAL, K, allowed=np.array([[True, True], [False, True]]))
    assert masked.num_free_params(params) == 1 + 1 + 8


# --- errors ----------------------------------------------------------------------------------------


def test_what_are_no_sequences_is_refused(as_users_run):
    model = HiddenMarkovModel(POISSON, 2)
    with pytest.raises(ValueError, match=r"one sequence of 5 steps and 1 columns as x\[None\]"):
        model.init(jax.random.key(0), jnp.ones((5, 1)))
    long = elbax.Sequence(jnp.ones((2, 3, 1)), jnp.array([3, 4]))
    with pytest.raises(ValueError, match="between 1 and 3; sequence 1 has length 4"):
        model.check(long)
    with pytest.raises(TypeError, match="transition_prior must be an elbax.priors.Dirichlet"):
        HiddenMarkovModel(POISSON, 2, transition_prior=1.0)
    with pytest.raises(ValueError, match=r"allowed must be a boolean array of shape \(2, 2\)"):
        HiddenMarkovModel(POISSON, 2, allowed=np.ones((2, 2)))


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ([], {}, "at least one sequence"),
        ([np.ones((2, 1)), np.ones((0, 1))], {}, "sequence 1 has no steps"),
        ([np.ones((2, 1)), np.ones((3, 2))], {}, "sequence 1 has steps of shape"),
        (np.ones((5, 1)), dict(lengths=[2, 2]), "add up to 4, but the data have 5 rows"),
    ],
)
def test_sequences_that_cannot_be(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        elbax.sequences(data, **arguments)


def test_sequences_from_one_table():
    """Cut by lengths as from a list; NaN makes it incomplete, and nothing of the padding is NaN."""
    table = np.arange(10.0).reshape(5, 2)
    cut, listed = elbax.sequences(table, lengths=[2, 3]), elbax.sequences([table[:2], table[2:]])
    np.testing.assert_array_equal(cut.values, listed.values)
    np.testing.assert_array_equal(cut.length, [2, 3])
    table[1, 0] = np.nan
    holed = elbax.sequences(table, lengths=[2, 3])
    assert not bool(holed.values.observed[0, 1, 0])
    assert bool(jnp.all(jnp.isfinite(holed.values.values)))
