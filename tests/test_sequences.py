"""Language and music: all paths, all texts, loops by hand and joint normal densities as oracles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import elbax
from elbax import estimators, programs
from elbax.families import Bernoulli


KEYS = jax.random.split(jax.random.key(0), 8)
STATES, SYMBOLS, STEPS = 3, 4, 5


# ---- a neural hidden Markov model


def tables(params):
    """Tables of a hidden Markov model, of embeddings of its states."""
    states = params["states"]
    return {
        "initial": states @ params["start"],
        "transition": jnp.tanh(states @ params["out"]) @ states.T,
        "components": {"logits": jnp.tanh(states @ params["emit"])[:, None]},
    }


HMM = elbax.HiddenMarkovModel(elbax.components.Categorical(SYMBOLS), STATES)
NEURAL = elbax.Tied(HMM, tables)
SHAPES = {"states": (STATES, 2), "start": (2,), "out": (2, 2), "emit": (2, SYMBOLS)}
PARAMS = {name: jax.random.normal(key, shape) for (name, shape), key in zip(SHAPES.items(), KEYS)}
TEXT = jax.random.randint(KEYS[4], (6, STEPS, 1), 0, SYMBOLS)


def over_all_paths(params, text):
    """log p(text) as a sum over the states of all steps."""
    at = tables(params)
    first = jax.nn.log_softmax(at["initial"])
    move = jax.nn.log_softmax(at["transition"])
    emit = jax.nn.log_softmax(at["components"]["logits"][:, 0])
    paths = np.array(list(itertools.product(range(STATES), repeat=STEPS)))
    scores = first[paths[:, 0]] + move[paths[:, :-1], paths[:, 1:]].sum(1)
    scores += emit[paths, text[:, 0]].sum(1)
    return jax.nn.logsumexp(scores)


def test_the_exact_e_step_leaves_the_gradient_of_the_evidence():
    """Fisher's identity: at Bayes' rule the M-step's slope is that of log p(x), through the networks."""
    update = elbax.Chain(elbax.ExactEStep(NEURAL), elbax.GradientMStep(NEURAL, optax.sgd(1.0)))
    state = update.init(PARAMS, key=KEYS[5])
    after, info = jax.jit(update)(state, TEXT)
    mean = lambda params: jnp.mean(jax.vmap(over_all_paths, (None, 0))(params, TEXT))
    value, slope = jax.jit(jax.value_and_grad(mean))(PARAMS)
    np.testing.assert_allclose(info.elbo, value, rtol=1e-12)
    for name in PARAMS:
        np.testing.assert_allclose(after.params[name] - PARAMS[name], slope[name], atol=1e-12)


def test_the_probabilities_of_all_texts_add_up_to_one():
    """So a perplexity by the forward algorithm is that of a distribution over texts, without draws or bounds."""
    texts = jnp.array(list(itertools.product(range(SYMBOLS), repeat=3)))[..., None]
    logs = jax.jit(jax.vmap(lambda x: elbax.evidence(NEURAL, PARAMS, x[None])))(texts)
    np.testing.assert_allclose(jnp.exp(logs).sum(), 1, rtol=1e-12)


def test_an_encoder_that_says_what_the_model_says_has_the_evidence():
    """And any other has less."""
    at = HMM.natural(tables(PARAMS))
    own = {"emit": at["components"]["logits"][:, 0].T, "initial": at["initial"]}
    own |= {"transition": at["transition"]}

    def apply(weights, x):
        return {
            "unary": weights["emit"][x[:, 0]],
            "initial": weights["initial"],
            "transition": weights["transition"],
        }

    def bound(weights):
        encoder = elbax.Amortized(elbax.Network(apply, weights), HMM.latent)
        return elbax.elbo(NEURAL, PARAMS, encoder, TEXT)

    evidence = elbax.evidence(NEURAL, PARAMS, TEXT)
    np.testing.assert_allclose(bound(own), evidence, rtol=1e-12)
    assert bound(own | {"transition": 0.5 * own["transition"]}) < evidence - 1e-3


# ---- recurrent networks with and without latents


LENGTH, LATENT, HIDDEN, PITCHES = 4, 2, 3, 5
SIZES = {
    "prior": (2 * LATENT, HIDDEN),
    "emission": (PITCHES, LATENT + HIDDEN),
    "recurrent": (HIDDEN, PITCHES + LATENT + HIDDEN),
}
NETWORKS = {n: 0.4 * jax.random.normal(k, s) for (n, s), k in zip(SIZES.items(), KEYS)}
ENCODER = 0.4 * jax.random.normal(KEYS[3], (2 * LATENT, PITCHES + HIDDEN))
PIECE = elbax.Sequence(
    jax.random.bernoulli(KEYS[6], shape=(LENGTH, PITCHES)).astype(float), jnp.array(3)
)


def normal(output):
    mean, log_deviation = jnp.split(output, 2)
    return programs.Normal(mean, jnp.exp(log_deviation))


def inside(x):
    return jnp.arange(len(x.values)) < x.length


def generate(params, x, draw):
    def step(h, _, draw):
        z = draw("z", normal(params["prior"] @ h))
        x = draw("x", Bernoulli()(params["emission"] @ jnp.concatenate([z, h])))
        return jnp.tanh(params["recurrent"] @ jnp.concatenate([x.astype(float), z, h])), None

    draw.scan(step, jnp.zeros(HIDDEN), length=len(x.values), where=inside(x))


def recognize(weights, params, x, draw):
    def step(h, x, draw):
        z = draw("z", normal(weights @ jnp.concatenate([x, h])))
        return jnp.tanh(params["recurrent"] @ jnp.concatenate([x, z, h])), None

    draw.scan(step, jnp.zeros(HIDDEN), x.values, where=inside(x))


def by_hand(params, weights, z):
    """log p(x, z) and log q(z | x) of the piece, step by step."""
    h, joint, own = np.zeros(HIDDEN), 0.0, 0.0
    for t in range(3):
        x = np.asarray(PIECE.values[t])
        mean, log = np.split(params["prior"] @ h, 2)
        joint += scipy.stats.norm.logpdf(z[t], mean, np.exp(log)).sum()
        logits = params["emission"] @ np.concatenate([z[t], h])
        joint += scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum()
        mean, log = np.split(weights @ np.concatenate([x, h]), 2)
        own += scipy.stats.norm.logpdf(z[t], mean, np.exp(log)).sum()
        h = np.tanh(params["recurrent"] @ np.concatenate([x, z[t], h]))
    return joint, own


def test_the_bound_of_a_variational_recurrent_network_is_a_loop_by_hand():
    estimator = estimators.DoublyReparameterized(3)
    model = elbax.Model(programs.log_joint(generate), estimator=estimator)
    target = elbax.Exact(model, NETWORKS)
    q = programs.encoder(recognize, ENCODER, target=target)(PIECE)
    z = jax.vmap(q.sample)(jax.random.split(KEYS[7], 3))["z"]
    host = jax.tree.map(np.asarray, (NETWORKS, ENCODER))
    weights = [np.subtract(*by_hand(*host, one)) for one in np.asarray(z)]
    expected = np.log(np.mean(np.exp(weights)))
    found = model.elbo(NETWORKS, PIECE, q, KEYS[7])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_program_without_latents_has_its_likelihood_as_every_bound():
    def recurrent(params, x, draw):
        def step(h, _, draw):
            x = draw("x", Bernoulli()(params["emission"][:, LATENT:] @ h))
            both = jnp.concatenate([x.astype(float), jnp.zeros(LATENT), h])
            return jnp.tanh(params["recurrent"] @ both), None

        draw.scan(step, jnp.zeros(HIDDEN), length=len(x.values), where=inside(x))

    h, expected = np.zeros(HIDDEN), 0.0
    for x in np.asarray(PIECE.values[:3]):
        chances = 1 / (1 + np.exp(-NETWORKS["emission"][:, LATENT:] @ h))
        expected += scipy.stats.bernoulli.logpmf(x, np.asarray(chances)).sum()
        h = np.tanh(NETWORKS["recurrent"] @ np.concatenate([x, np.zeros(LATENT), h]))
    posterior = programs.encoder(lambda weights, x, draw: None, ())
    batch = jax.tree.map(lambda leaf: leaf[None], PIECE)
    kinds = "Reparameterized", "StickingTheLanding", "ImportanceWeighted", "DoublyReparameterized"
    for kind in kinds:
        estimator = getattr(estimators, kind)(3)
        model = elbax.Model(programs.log_joint(recurrent), estimator=estimator)
        found = elbax.elbo(model, NETWORKS, posterior, batch, key=KEYS[0])
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    step = elbax.GradientMStep(model, optax.adam(0.05))
    state = step.init(NETWORKS, posterior, key=KEYS[1])
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, length=50))
    assert run(state)[1].elbo[-1] > expected + 2


# ---- a deep Markov model whose networks are linear


A, C, Q, R = 0.8, 1.3, 0.6, 0.5


def chain(params, draw):
    def step(z, _, draw):
        z = draw("z", programs.Normal(params["A"] * z, Q))
        draw("y", programs.Normal(params["C"] * z, R))
        return z, None

    draw.scan(step, jnp.zeros(1), length=LENGTH)


def smooth(weights, y, draw):
    """q(z_t | z_{t-1}, y_t, ..., y_T)."""

    def step(z, rows, draw):
        gain, deviation = rows
        z = draw("z", programs.Normal(gain @ jnp.concatenate([z, y[:, 0]]), deviation))
        return z, None

    draw.scan(step, jnp.zeros(1), (weights["gain"], weights["deviation"]))


def joint_covariance():
    """Of z_1, ..., z_T, y_1, ..., y_T."""
    z = np.tril(A ** np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)).clip(0))
    root = np.block([[Q * z, np.zeros_like(z)], [C * Q * z, R * np.eye(LENGTH)]])
    return root @ root.T


def bayes():
    """The gains and deviations of z_t given z_{t-1} and all y."""
    covariance, rows = joint_covariance(), []
    for t in range(LENGTH):
        given = [*([t - 1] if t else []), *range(LENGTH, 2 * LENGTH)]
        gain = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given, t])
        spread = covariance[t, t] - gain @ covariance[given, t]
        rows.append((np.concatenate([np.zeros(int(t == 0)), gain])[None], np.sqrt(spread)))
    gains, deviations = map(jnp.asarray, zip(*rows))
    return {"gain": gains, "deviation": deviations}


def test_a_linear_deep_markov_model_has_the_evidence_of_the_kalman_filter_as_its_bound():
    """With equality at the smoother, for every draw; below it elsewhere, by the divergence of q."""
    y = jax.random.normal(KEYS[2], (3, LENGTH, 1))
    params = {"A": jnp.array(A), "C": jnp.array(C)}
    among_y = joint_covariance()[LENGTH:, LENGTH:]
    evidence = scipy.stats.multivariate_normal(np.zeros(LENGTH), among_y).logpdf(y[..., 0]).mean()
    estimator = estimators.StickingTheLanding(2000)
    model = elbax.Model(programs.log_joint(chain, observed="y"), estimator=estimator)
    exact = bayes()
    bound = jax.jit(
        lambda weights: elbax.elbo(model, params, programs.encoder(smooth, weights), y, key=KEYS[3])
    )
    np.testing.assert_allclose(bound(exact), evidence, rtol=1e-10)
    # Wider deviations at the same gains: KL(q ‖ p) is known, up to what errors of z_t carry along the chain.
    factor = 1.2
    wider = exact | {"deviation": factor * exact["deviation"]}
    least = LENGTH * (0.5 * (factor**2 - 1) - np.log(factor))
    gap = evidence - bound(wider)
    np.testing.assert_allclose(gap, least, rtol=0.15)
