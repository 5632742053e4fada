"""Structured VAEs: a mixture, a chain of labels and a chain of vectors between a network and a decoder."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import elbax
from elbax.posteriors import Recognition


norm = jax.scipy.stats.norm
KEYS = jax.random.split(jax.random.key(0), 10)
LABELS, COLUMNS, STEPS = 3, 3, 5
CODES = elbax.DiagonalGaussian(1)


# ---- a mixture: its label is summed, its code is drawn


def log_weight(params, x, noise, label):
    """The logarithm of p(x, c | label) / q(c) at a draw c of q ∝ N_label(c) exp(what the encoder says)."""
    prior = CODES(CODES.from_network(params["codes"][label]))
    q = CODES(CODES.tilted(prior.natural, params["encoder"](x)))
    c = q.mode() + noise / jnp.sqrt(q.natural[1])
    likelihood = norm.logpdf(x, params["decoder"](c), 0.7).sum()
    return likelihood + prior.log_prob(c) - q.log_prob(c)


def log_joint(params, datum, label):
    return jax.nn.log_softmax(params["logits"])[label] + log_weight(params, *datum, label)


MIXTURE = elbax.Model(log_joint, elbax.Categorical(LABELS))
LOADINGS = jax.random.normal(KEYS[0], (COLUMNS,))
PARAMS = {
    "logits": jax.random.normal(KEYS[1], (LABELS,)),
    "codes": jax.random.normal(KEYS[2], (LABELS, 2)),
    "decoder": elbax.Network(lambda w, c: w * jnp.sin(2 * c), LOADINGS),
    "encoder": elbax.Network(lambda w, x: w @ x, 0.5 * jax.random.normal(KEYS[3], (2, COLUMNS))),
}
POINTS = jax.random.normal(KEYS[4], (4, COLUMNS))


def bounds(params, noise):
    """The bound of each point, for each of the draws of its noise."""
    one = lambda x, noise: elbax.evidence(MIXTURE, params, (x[None], noise[None]))
    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(POINTS, noise)


def by_quadrature(params):
    """log p(x) of each point, with the code on a grid."""
    grid = np.linspace(-25, 25, 20001)
    mean, log_deviation = np.asarray(params["codes"]).T
    log_weights = np.asarray(jax.nn.log_softmax(params["logits"]))
    prior = scipy.stats.norm.logpdf(grid[:, None], mean, np.exp(log_deviation)) + log_weights
    decoded = np.asarray(jax.vmap(params["decoder"])(jnp.asarray(grid)[:, None]))
    likelihood = scipy.stats.norm.logpdf(np.asarray(POINTS)[:, None], decoded, 0.7).sum(-1)
    joint = likelihood + scipy.special.logsumexp(prior, 1)
    return scipy.special.logsumexp(joint, 1) + np.log(grid[1] - grid[0])


def linear():
    """A linear decoder, and the encoder that says what it says of its code."""
    precision = jnp.sum(LOADINGS**2) / 0.49
    exact = lambda w, x: jnp.stack([w @ x / jnp.sum(w**2), -0.5 * jnp.log(precision)])
    return PARAMS | {
        "decoder": elbax.Network(lambda w, c: w * c, LOADINGS),
        "encoder": elbax.Network(exact, LOADINGS),
    }


def test_the_bound_of_a_mixture_is_below_the_evidence_on_average():
    """Each weight has the mean p(x | label): Jensen's inequality. A single draw may be above."""
    noise = np.linspace(-60, 60, 6001)
    found = np.asarray(bounds(PARAMS, jnp.asarray(noise)[:, None]))
    log_share = scipy.stats.norm.logpdf(noise) + np.log(noise[1] - noise[0])
    evidence = by_quadrature(PARAMS)
    weights = scipy.special.logsumexp(found + log_share, 1)
    np.testing.assert_allclose(weights, evidence, rtol=1e-8)
    assert (found @ np.exp(log_share) < evidence - 0.01).all()
    assert (found.max(1) > evidence).any()


def test_the_bound_of_a_mixture_is_the_evidence_where_the_network_says_bayes_rule():
    """For every draw: a code that comes of the label's posterior has the weight p(x | label)."""
    found = bounds(linear(), jax.random.normal(KEYS[5], (5, 1)))
    np.testing.assert_allclose(
        found, np.broadcast_to(by_quadrature(linear())[:, None], (4, 5)), rtol=1e-9
    )


# ---- a hidden Markov model: its path is summed, its codes are drawn


class Frames(elbax.AbstractExponentialFamilyModel):
    """Labels along a chain, a code given each label, a frame given each code. A datum: (frames, noise, seen)."""

    latent: elbax.MarkovChain = elbax.MarkovChain(LABELS)

    def potentials(self, params, datum):
        frames, noise, seen = datum
        labels = jnp.arange(LABELS)
        of_labels = jax.vmap(log_weight, (None, None, None, 0))
        weights = jax.vmap(of_labels, (None, 0, 0, None))(params, frames, noise, labels)
        chain = {name: jax.nn.log_softmax(params[name]) for name in ("initial", "transition")}
        unary = jnp.where(seen[:, None], weights, 0.0)
        return chain | {"unary": unary, "length": jnp.asarray(len(frames))}, 0.0


CHAIN = PARAMS | {
    "initial": jax.random.normal(KEYS[6], (LABELS,)),
    "transition": jax.random.normal(KEYS[7], (LABELS, LABELS)),
}
SEQUENCE = jax.random.normal(KEYS[8], (STEPS, COLUMNS)), jax.random.normal(KEYS[9], (STEPS, 1))
SEEN = jnp.array([True, True, False, True, True])


def chain_bound(params, seen):
    batch = jax.tree.map(lambda leaf: leaf[None], (*SEQUENCE, seen))
    return elbax.evidence(Frames(), params, batch)


def along_all_paths(params, frames, transitions):
    """The bound as a sum over the labels of these frames, given log-probabilities of each transition."""
    initial = np.asarray(jax.nn.log_softmax(params["initial"]))
    pairs = list(zip(*(np.asarray(part)[frames] for part in SEQUENCE)))
    weights = jax.jit(log_weight)
    table = [[float(weights(params, *pair, k)) for k in range(LABELS)] for pair in pairs]
    totals = []
    for path in itertools.product(range(LABELS), repeat=len(frames)):
        total = initial[path[0]] + sum(row[k] for row, k in zip(table, path))
        totals.append(total + sum(m[a, b] for m, a, b in zip(transitions, path, path[1:])))
    return scipy.special.logsumexp(totals)


def test_the_bound_of_a_chain_of_labels_is_a_sum_over_all_paths():
    """Also where a frame is missing: the chain then has two transitions between its neighbours."""
    move = np.asarray(jax.nn.log_softmax(CHAIN["transition"]))
    whole = along_all_paths(CHAIN, np.arange(STEPS), [move] * 4)
    np.testing.assert_allclose(chain_bound(CHAIN, jnp.ones(STEPS, bool)), whole, rtol=1e-12)
    twice = np.log(np.exp(move) @ np.exp(move))
    gap = along_all_paths(CHAIN, np.array([0, 1, 3, 4]), [move, twice, move])
    np.testing.assert_allclose(chain_bound(CHAIN, SEEN), gap, rtol=1e-12)


def test_the_exact_e_step_leaves_the_slope_of_the_chains_bound():
    """Fisher's identity: the M-step of networks and tables climbs log Σ over paths."""
    model, batch = Frames(), jax.tree.map(lambda leaf: leaf[None], (*SEQUENCE, SEEN))
    update = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.sgd(1.0)))
    state = update.init(CHAIN, elbax.Exact(model, CHAIN), key=KEYS[0])
    after, _ = jax.jit(update)(state, batch)

    def moved(name, shift):
        (leaf,), structure = jax.tree.flatten(CHAIN[name])
        return CHAIN | {name: structure.unflatten([leaf.at[first(leaf)].add(shift)])}

    first = lambda leaf: (0,) * leaf.ndim

    for name in ("codes", "transition", "encoder", "decoder"):
        ends = [chain_bound(moved(name, shift), SEEN) for shift in (1e-5, -1e-5)]
        (new,), (old,) = jax.tree.leaves(after.params[name]), jax.tree.leaves(CHAIN[name])
        slope = (new - old)[first(old)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


# ---- a state space: its path is Gaussian given what the network says


STATES = 2
DYNAMICS = {
    "matrix": jnp.array([[0.8, -0.3], [0.2, 0.9]]),
    "deviation": jnp.array([0.5, 0.8]),
    "loadings": jax.random.normal(KEYS[0], (COLUMNS, STATES)),
}


def state_prior(params, datum):
    steps = len(datum["frames"])
    unary = {"rows": jnp.zeros((1, STATES)), "target": jnp.zeros((steps, 1))}
    transition = {"matrix": params["matrix"], "offset": jnp.zeros(STATES)}
    return {
        "initial": {"mean": jnp.zeros(STATES), "root": jnp.eye(STATES)},
        "transition": transition | {"root": jnp.diag(params["deviation"])},
        "unary": unary,
        "length": jnp.asarray(steps),
    }


def frames_given(params, datum, z):
    each = norm.logpdf(datum["frames"], z @ params["loadings"].T, 0.7).sum(1)
    return jnp.sum(jnp.where(datum["seen"], each, 0.0))


STATE_SPACE = elbax.Model(
    likelihood=frames_given,
    prior=state_prior,
    latent=elbax.GaussianChain(STATES),
    estimator=elbax.estimators.StickingTheLanding(),
)


def says(loadings, datum):
    """What a linear decoder says of each state; nothing of the state of a missing frame."""
    seen = datum["seen"][:, None].astype(float) / 0.49
    return {
        "linear": seen * (datum["frames"] @ loadings),
        "precision": seen[:, :, None] * (loadings.T @ loadings),
    }


def joint_normal(seen):
    """log p of the frames that are seen, as one normal vector."""
    matrix, deviation, loadings = (np.asarray(leaf) for leaf in DYNAMICS.values())
    size = STEPS * STATES
    move, noise = np.eye(size), np.eye(size)
    for t in range(1, STEPS):
        now, last = slice(t * STATES, (t + 1) * STATES), slice((t - 1) * STATES, t * STATES)
        move[now, last] = -matrix
        noise[now, now] = np.diag(deviation**2)
    path = np.linalg.solve(move, np.linalg.solve(move, noise).T)
    wide = np.kron(np.eye(STEPS), loadings)
    covariance = wide @ path @ wide.T + 0.49 * np.eye(STEPS * COLUMNS)
    kept = np.repeat(np.asarray(seen), COLUMNS)
    x = np.asarray(SEQUENCE[0]).ravel()[kept]
    return scipy.stats.multivariate_normal.logpdf(x, cov=covariance[np.ix_(kept, kept)])


def test_a_state_space_with_a_linear_decoder_has_the_evidence_of_kalman():
    """For every draw, with all frames and with missing ones, whatever these hold. A wrong network has less."""

    @jax.jit
    def bound(weights, seen, key):
        hidden = jnp.where(seen[:, None], SEQUENCE[0], 99.0)
        q = Recognition(elbax.Network(says, weights), elbax.Exact(STATE_SPACE, DYNAMICS))
        batch = {"frames": hidden[None], "seen": seen[None]}
        return elbax.elbo(STATE_SPACE, DYNAMICS, q, batch, key=key)

    for seen in (jnp.ones(STEPS, bool), SEEN, SEEN.at[-1].set(False)):
        for key in KEYS[:2]:
            found = bound(DYNAMICS["loadings"], seen, key)
            np.testing.assert_allclose(found, joint_normal(seen), rtol=1e-11)
    draws = jnp.stack([bound(0.5 * DYNAMICS["loadings"], SEEN, key) for key in KEYS])
    assert draws.mean() < joint_normal(SEEN) - 0.1


@pytest.mark.parametrize("target", ["divergence", "free_bits"])
def test_the_divergence_of_a_state_space_is_warmed_up(target):
    """Its natural parameters do not scale, but its divergence does; free bits of 1000 nats leave none of it."""
    q = Recognition(elbax.Network(says, DYNAMICS["loadings"]), elbax.Exact(STATE_SPACE, DYNAMICS))
    batch = {"frames": SEQUENCE[0][None], "seen": SEEN[None]}
    step = elbax.JointGradientStep(STATE_SPACE, optax.sgd(0.0), through=True)

    def measured(beta):
        annealed = elbax.wrappers.Anneal(step, optax.constant_schedule(beta), target)
        _, info = annealed(annealed.init(DYNAMICS, q, key=KEYS[3]), batch)
        return info.elbo

    _, told = step(step.init(DYNAMICS, q, key=KEYS[3]), batch)
    if target == "divergence":
        expected = told.reconstruction - 0.5 * told.kl_prior
        np.testing.assert_allclose(measured(0.5), expected, rtol=1e-10)
    else:
        np.testing.assert_allclose(measured(1000.0), told.reconstruction - 1000, rtol=1e-10)


def test_bayes_rule_of_a_state_space_is_not_annealed(as_users_run):
    model = elbax.LinearGaussianStateSpace(STATES)
    frames = jnp.zeros((1, STEPS, COLUMNS))
    params = model.init(KEYS[0], frames + jax.random.normal(KEYS[1], frames.shape))
    em = elbax.em(model)
    with pytest.raises(TypeError, match="do not scale .* With an encoder use target='divergence'"):
        elbax.wrappers.Anneal(em, lambda _: 0.5).init(params, key=KEYS[0])
