"""Exact chains as blocks, against sums over all paths, and the M-step against least squares."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.special
import scipy.stats

import elbax
from elbax.families import CoupledChains, factored
from elbax.families._factored import AbstractFactored


# --- coupled chains --------------------------------------------------------------------------------


def coupled(length=3):
    rng = np.random.default_rng(0)
    shapes = {
        "initial": (2, 3),
        "transition": (2, 3, 3),
        "unary": (2, 3, 3),
        "coupling": (2, 3, 2, 3),
    }
    eta = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return CoupledChains(2, 3), eta | {"length": jnp.array(length)}


def log_weight(eta, z):
    """The log-weight of one configuration, term by term."""
    total = 0.0
    for c, path in enumerate(z):
        total += eta["initial"][c, path[0]] + sum(eta["unary"][c, t, k] for t, k in enumerate(path))
        total += sum(eta["transition"][c, i, j] for i, j in itertools.pairwise(path))
        for d, other in enumerate(z):
            if c != d:
                total += sum(eta["coupling"][c, i, d, j] for i, j in zip(path, other, strict=True))
    return total


@eqx.filter_jit
def said_of_all(family, eta, z):
    q = family(eta)
    every = jax.vmap(lambda z: (family.score(eta, z), family.statistics(z)))(z)
    drawn = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 20))
    return *every, family.log_normalizer(eta), q.mean(), q.entropy(), q.mode(), drawn


@pytest.fixture(scope="module")
def both():
    """All configurations of two steps of a padded sequence, and what is said of them."""
    family, eta = coupled(length=2)
    z = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    weights = np.array([log_weight(jax.tree.map(np.asarray, eta), one) for one in z])
    return weights, np.pad(z, ((0, 0), (0, 0), (0, 1)), constant_values=-1), family, eta


def test_all_configurations_of_coupled_chains(both):
    weights, z, family, eta = both
    score, counts, value, mean, entropy, mode, drawn = said_of_all(family, eta, z)
    np.testing.assert_allclose(score, weights, rtol=1e-12)
    p = scipy.special.softmax(weights)
    np.testing.assert_allclose(value, scipy.special.logsumexp(weights), rtol=1e-12)
    for name in ("initial", "transition", "unary", "coupling"):
        theirs = np.tensordot(p, np.asarray(counts[name]), 1)
        np.testing.assert_allclose(mean[name], theirs, atol=1e-12)
    np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-10)
    np.testing.assert_array_equal(mode, z[np.argmax(weights)])
    places = [np.flatnonzero((z == one).all((1, 2))) for one in np.asarray(drawn)]
    assert all(len(place) == 1 for place in places)
    assert abs(np.mean(np.log(p)[np.concatenate(places)]) + entropy) < 0.8


@eqx.filter_jit
def of_blocks(family, eta, z):
    def step(natural, _):
        moved = family.ascend(natural, eta)
        return moved, (moved, family.bound(moved, eta))

    start = family.start(eta)
    last, (trace, bounds) = jax.lax.scan(step, start, length=3)
    slow = AbstractFactored.ascend(family, start, eta)
    log_q = jax.vmap(family.log_prob, (None, 0))(last, z)
    return trace, slow, bounds, log_q, family.mean(last), family.mode(last)


def test_blocks_are_exact_chains(both):
    """A round is the gradient's, and each bound is E log p + H by enumeration, below the evidence."""
    weights, z, _, eta = both
    trace, slow, bounds, log_q, mean, mode = of_blocks(factored(both[2]), eta, z)
    for ours, theirs in zip(*map(jax.tree.leaves, (trace, slow)), strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=1e-12)
    assert (np.diff(bounds) > 0).all() and bounds[-1] < scipy.special.logsumexp(weights)
    q = np.exp(log_q)
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(bounds[-1], q @ (weights - np.asarray(log_q)), rtol=1e-10)
    pairs = np.einsum("ncti,ndtj,n->cidj", *[np.eye(4)[z][..., :3]] * 2, q)
    pairs[[0, 1], :, [0, 1]] = 0
    np.testing.assert_allclose(mean["coupling"], pairs, atol=1e-12)
    np.testing.assert_array_equal(mode, z[np.argmax(log_q)])


# --- the factorial hidden Markov model ---------------------------------------------------------------


def factorial(num_chains=2, scale=1.0):
    """A model, its params, and 3 sequences of 2 to 4 steps of two columns."""
    rng = np.random.default_rng(1)
    model = elbax.FactorialHiddenMarkovModel(num_chains, 2, floor=0.0)
    params = model.from_description(
        initial=rng.uniform(0.2, 1, (num_chains, 2)),
        transition=rng.uniform(0.2, 1, (num_chains, 2, 2)),
        means=scale * rng.normal(size=(num_chains, 2, 2)),
        offset=[5.0, -3.0],
        covariance=[[0.5, 0.2], [0.2, 0.4]],
    )
    x = rng.normal(size=(3, 4, 2)) + np.array([5.0, -3.0])
    return model, params, elbax.Sequence(jnp.asarray(x), jnp.array([4, 2, 3]))


def enumerated(model, params, values):
    """(all paths (n, C, T), log p(x, z) of each) of one sequence, in NumPy and SciPy."""
    about = jax.tree.map(np.asarray, model.describe(params))
    steps, chains = len(values), model.num_chains
    z = np.array(list(itertools.product(range(2), repeat=chains * steps)))
    z = z.reshape(-1, chains, steps)
    total = np.zeros(len(z))
    mean = np.broadcast_to(about["offset"], (len(z), steps, 2)).copy()
    for c in range(chains):
        total += np.log(about["initial"][c])[z[:, c, 0]]
        total += np.log(about["transition"][c])[z[:, c, :-1], z[:, c, 1:]].sum(1)
        mean += about["means"][c][z[:, c]]
    noise = scipy.stats.multivariate_normal(cov=about["covariance"])
    return z, total + noise.logpdf(values - mean).sum(1)


@eqx.filter_jit
def sweeps(update, state, x, length):
    return jax.lax.scan(lambda state, _: update(state, x), state, length=length)


def mean_field(model, params, x, m_step=None, num_sweeps=1):
    e_step = elbax.MeanFieldEStep(model, num_sweeps)
    update = e_step if m_step is None else elbax.Chain(e_step, m_step)
    posterior = elbax.posteriors.MeanField.init(model, params, x)
    return update, update.init(params, posterior, key=jax.random.key(0))


def test_evidence_of_a_factorial_model_and_bound_below_it():
    model, params, x = factorial()
    found = [
        scipy.special.logsumexp(enumerated(model, params, values[:length])[1])
        for values, length in zip(np.asarray(x.values), np.asarray(x.length), strict=True)
    ]
    evidence = elbax.evidence(model, params, x)
    np.testing.assert_allclose(evidence, np.mean(found), rtol=1e-12)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 12)
    assert (np.diff(info.elbo) > -1e-12).all() and info.elbo[-1] < evidence - 1e-3


@pytest.mark.parametrize("chains, scale, gap", [(1, 1.0, 1e-12), (2, 0.1, 1e-3)])
def test_where_the_bound_is_tight(chains, scale, gap):
    """One chain is exact; chains that the data hardly couple are nearly so."""
    model, params, x = factorial(chains, scale)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 6)
    assert abs(info.elbo[-1] - elbax.evidence(model, params, x)) < gap


def test_the_regression_on_all_states_is_least_squares():
    """The closed form from the exact posterior of all paths, by NumPy."""
    model, params, x = factorial()
    em = elbax.em(model)
    state, _ = sweeps(em, em.init(params, key=jax.random.key(0)), x, 1)
    rows, targets, weights, first = [], [], [], 0
    moves = np.zeros((2, 2, 2))
    for values, length in zip(np.asarray(x.values), np.asarray(x.length), strict=True):
        z, joint = enumerated(model, params, values[:length])
        p = scipy.special.softmax(joint)
        states = np.eye(2)[z]
        rows.append(states.transpose(0, 2, 1, 3).reshape(-1, 4))
        targets.append(np.broadcast_to(values[:length], (len(z), length, 2)).reshape(-1, 2))
        weights.append(np.repeat(p, length))
        first += np.einsum("n,nck->ck", p, states[:, :, 0])
        moves += np.einsum("n,ncti,nctj->cij", p, states[:, :, :-1], states[:, :, 1:])
    rows, targets, weights = map(np.concatenate, (rows, targets, weights))
    root = np.sqrt(weights)[:, None]
    fit, *_ = np.linalg.lstsq(root * rows, root * targets, rcond=None)
    residual = targets - rows @ fit
    found = model.describe(state.params)
    covariance = (weights[:, None] * residual).T @ residual / weights.sum()
    np.testing.assert_allclose(found["covariance"], covariance, rtol=1e-8)
    means = fit.reshape(2, 2, 2)
    theirs = means - means.mean(1, keepdims=True)
    np.testing.assert_allclose(found["means"], theirs, atol=1e-7)
    np.testing.assert_allclose(found["initial"], first / 3, rtol=1e-10)
    np.testing.assert_allclose(
        found["transition"], moves / moves.sum(-1, keepdims=True), rtol=1e-10
    )


def test_variational_em_ascends():
    model, params, x = factorial()
    update, state = mean_field(model, params, x, elbax.ClosedFormMStep(model))
    _, info = sweeps(update, state, x, 15)
    assert (np.diff(info.elbo) > -1e-12).all() and info.elbo[-1] > info.elbo[0] + 0.5


# --- the switching state space ------------------------------------------------------------------------


def positive(rng, dim=2):
    root = 0.5 * rng.normal(size=(dim, dim))
    return root @ root.T + 0.3 * np.eye(dim)


def switching(num_regimes=2, apart=1.0):
    """A model, its params, and 2 sequences of 4 and 3 steps of two columns."""
    rng = np.random.default_rng(2)
    regime = elbax.LinearGaussianStateSpace(2, offsets=True, floor=0.0, emission_noise="full")
    model = elbax.SwitchingStateSpace(regime, num_regimes)
    every = [
        {
            "initial_mean": np.array([0.3, -0.2]),
            "initial_covariance": np.array([[1.0, 0.2], [0.2, 0.8]]),
            "transition": 0.6 * rng.normal(size=(2, 2)),
            "transition_offset": rng.normal(size=2),
            "transition_covariance": positive(rng),
            "emission": rng.normal(size=(2, 2)),
            "emission_offset": rng.normal(size=2),
            "emission_covariance": positive(rng),
        }
        for _ in range(num_regimes)
    ]
    near = lambda leaf, first: first + apart * (leaf - first)
    params = model.from_description(
        initial=[0.7, 0.3][:num_regimes],
        transition=np.array([[0.8, 0.2], [0.3, 0.7]])[:num_regimes, :num_regimes],
        regimes=[jax.tree.map(near, own, every[0]) for own in every],
    )
    x = jnp.asarray(rng.normal(size=(2, 4, 2)))
    return model, params, elbax.Sequence(x, jnp.array([4, 3]))


def joint_of_path(about, path):
    """(mean, covariance) of all states and all observations of one path of switches."""
    steps, own = len(path), about["regimes"][path[0]]
    dim = 2
    mean = np.zeros((steps, dim))
    covariance = np.zeros((steps, dim, steps, dim))
    mean[0], covariance[0, :, 0] = own["initial_mean"], own["initial_covariance"]
    for t in range(1, steps):
        own = about["regimes"][path[t]]
        mean[t] = own["transition"] @ mean[t - 1] + own["transition_offset"]
        before = np.einsum("ij,jsk->isk", own["transition"], covariance[t - 1, :, :t])
        covariance[t, :, :t] = before
        covariance[:t, :, t] = before.transpose(1, 2, 0)
        moved = own["transition"] @ covariance[t - 1, :, t - 1] @ own["transition"].T
        covariance[t, :, t] = moved + own["transition_covariance"]
    covariance = covariance.reshape(steps * dim, -1)
    regimes = [about["regimes"][k] for k in path]
    emit = scipy.linalg.block_diag(*(own["emission"] for own in regimes))
    noise = scipy.linalg.block_diag(*(own["emission_covariance"] for own in regimes))
    offset = np.concatenate([own["emission_offset"] for own in regimes])
    across = covariance @ emit.T
    whole = np.block([[covariance, across], [across.T, emit @ across + noise]])
    return np.concatenate([mean.ravel(), emit @ mean.ravel() + offset]), whole


def evidence_of_paths(about, values):
    """Σ over all paths of switches of p(path) p(x | path)."""
    total = []
    for path in itertools.product(range(len(about["initial"])), repeat=len(values)):
        mean, covariance = joint_of_path(about, path)
        seen = slice(values.size, None)
        own = scipy.stats.multivariate_normal(mean[seen], covariance[seen, seen])
        total.append(log_chance(about, path) + own.logpdf(values.ravel()))
    return scipy.special.logsumexp(total)


def evidence_of_batch(about, x):
    found = [
        evidence_of_paths(about, values[:length])
        for values, length in zip(np.asarray(x.values), np.asarray(x.length), strict=True)
    ]
    return np.mean(found)


def log_chance(about, path):
    moves = sum(np.log(about["transition"][i, j]) for i, j in itertools.pairwise(path))
    return np.log(about["initial"][path[0]]) + moves


@pytest.fixture(scope="module")
def switched():
    """Ten sweeps of the E-step at fixed params, and one M-step."""
    model, params, x = switching()
    update, state = mean_field(model, params, x)
    end, info = sweeps(update, state, x, 10)
    m_step = elbax.ClosedFormMStep(model)
    state = m_step.init(params, end.posterior, key=jax.random.key(0))
    moved, _ = sweeps(m_step, state, x, 1)
    return model, params, x, end, info, moved


def test_bound_of_a_switching_model_is_below_the_sum_over_paths(switched):
    model, params, x, _, info, _ = switched
    about = jax.tree.map(np.asarray, model.describe(params))
    assert (np.diff(info.elbo) > -1e-12).all()
    evidence = evidence_of_batch(about, x)
    assert evidence - 1 < info.elbo[-1] < evidence - 1e-3


@pytest.mark.slow
def test_the_bound_is_nearly_tight_for_regimes_that_differ_little():
    model, params, x = switching(apart=0.01)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 10)
    gap = evidence_of_batch(jax.tree.map(np.asarray, model.describe(params)), x) - info.elbo[-1]
    assert (np.diff(info.elbo) > -1e-12).all() and 0 < gap < 5e-3


@pytest.mark.slow
def test_one_regime_is_a_state_space():
    model, params, x = switching(1)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 1)
    evidence = elbax.evidence(model.regime, model._regime_params(params, 0), x)
    np.testing.assert_allclose(info.elbo, evidence, rtol=1e-12)


def test_the_log_joint_of_switches_and_states(switched):
    model, params, x, *_ = switched
    path, states = np.array([0, 1, 1, 0]), np.random.default_rng(3).normal(size=(4, 2))
    about = jax.tree.map(np.asarray, model.describe(params))
    values = np.asarray(x.values[0])
    expected = log_chance(about, path) + scipy.stats.multivariate_normal(
        *joint_of_path(about, path)
    ).logpdf(np.concatenate([states.ravel(), values.ravel()]))
    found = jax.jit(model.log_joint)(params, values, (jnp.asarray(path), jnp.asarray(states)))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_regimes_are_weighted_least_squares(switched):
    """Dynamics of a regime from the moments of q, in NumPy."""
    model, _, x, end, _, moved = switched
    switches, states = jax.vmap(lambda q: q.mean())(end.posterior(x, index=jnp.arange(2)))
    share = np.asarray(switches["unary"])
    about = model.describe(moved.params)
    for k, regime in enumerate(about["regimes"]):
        normal, target, second, count = np.zeros((3, 3)), np.zeros((2, 3)), np.zeros((2, 2)), 0.0
        for i, length in enumerate([4, 3]):
            for t in range(length - 1):
                weight = share[i, t + 1, k]
                mean, square = (np.asarray(states[name][i]) for name in ("state", "square"))
                both = np.append(mean[t], 1)
                normal += weight * np.block([[square[t], mean[t][:, None]], [both[None]]])
                cross = np.asarray(states["cross"][i, t]).T
                target += weight * np.hstack([cross, mean[t + 1][:, None]])
                second, count = second + weight * square[t + 1], count + weight
        fit = np.linalg.solve(normal, target.T).T
        np.testing.assert_allclose(regime["transition"], fit[:, :2], rtol=1e-7)
        np.testing.assert_allclose(regime["transition_offset"], fit[:, 2], rtol=1e-7)
        covariance = (second - fit @ target.T) / count
        np.testing.assert_allclose(
            regime["transition_covariance"], covariance, rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: CoupledChains(9, 5).log_normalizer(
                {"unary": jnp.zeros((9, 2, 5)), "coupling": jnp.zeros((9, 5, 9, 5))}
            ),
            ValueError,
            "table of 9.8e\\+06 entries.*Use mean field",
        ),
        (
            lambda: elbax.SwitchingStateSpace(
                elbax.LinearGaussianStateSpace(1), 2, switching="offset"
            ),
            ValueError,
            "switching must name some of",
        ),
        (
            lambda: switching()[0].conditional(None, None),
            TypeError,
            "Use MeanFieldEStep or CoordinateAscentEStep",
        ),
        (
            lambda: elbax.FactorialHiddenMarkovModel(2, 2).check(
                elbax.sequences([np.array([[1.0], [np.nan]])])
            ),
            ValueError,
            "sequences without gaps",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def several_switches():
    model = elbax.FactorialHiddenMarkovModel(2, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)))
    return model, model.init(jax.random.key(0), x), x


def walks():
    model = elbax.SwitchingStateSpace(elbax.LinearGaussianStateSpace(1, floor=0.01), 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 1)).cumsum(1))
    return model, model.init(jax.random.key(0), x), x


@pytest.mark.slow
@pytest.mark.parametrize("make", [several_switches, walks])
@pytest.mark.parametrize("step", ["online", "gradient"])
def test_other_steps_without_a_table(make, step):
    """The bound rises by coordinate ascent afresh and running statistics, or a gradient step."""
    model, params, x = make()
    m_step = {
        "online": elbax.OnlineMStep(model, rate=lambda t: (t + 1.0) ** -0.6),
        "gradient": elbax.GradientMStep(model, optax.adam(1e-2)),
    }[step]
    update = elbax.Chain(elbax.CoordinateAscentEStep(model), m_step)
    state = update.init(params, key=jax.random.key(1))
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=12))
    _, info = run(state, x)
    assert np.all(np.isfinite(info.elbo)) and info.elbo[-1] > info.elbo[0] + 0.01
