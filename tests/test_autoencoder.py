"""VAEs as users write them: decoders, posteriors and priors beside quadrature and closed forms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from laws import assert_close
from oracles import linear_gaussian_evidence, ppca_optimum
from sklearn.datasets import load_digits

import elbax
from elbax import programs


norm = jax.scipy.stats.norm
KEYS = jax.random.split(jax.random.key(0), 8)


def digits_autoencoder(x, num_steps, batch_size=100):
    """A variational autoencoder on digits, as in the guide to minibatches."""
    keys = jax.random.split(jax.random.key(0), 4)
    decoder = elbax.Network(eqx.nn.MLP(8, 64, 128, 1, key=keys[0]))

    def log_joint(decoder, x, z):
        logits = decoder(z)
        return norm.logpdf(z).sum() + (x * logits - jax.nn.softplus(logits)).sum()

    model = elbax.Model(log_joint, latent=elbax.DiagonalGaussian(8))
    encoder = elbax.Amortized(eqx.nn.MLP(64, 16, 128, 1, key=keys[1]), model.latent)
    vae = elbax.JointGradientStep(model, optax.adam(1e-3))
    state = vae.init(decoder, encoder, key=keys[2])

    def step(state, key):
        rows = jax.random.choice(key, len(x), (batch_size,), replace=False)
        return vae(state, elbax.Batch(x[rows], weight=len(x) / batch_size))

    return model, *jax.lax.scan(step, state, jax.random.split(keys[3], num_steps))


@pytest.fixture(scope="module")
def digits():
    return jnp.asarray(load_digits().data > 7, float)


@pytest.mark.slow
def test_digits(digits, tmp_path):
    model, state, info = digits_autoencoder(digits, 1500)
    first, last = info.elbo[:20].mean(), info.elbo[-100:].mean()
    # Independent pixels reach −25.4 nats an image; a VAE that has learned digits is well above.
    rate = digits.mean(0)
    independent = jnp.sum(
        jax.scipy.special.xlogy(rate, rate) + jax.scipy.special.xlog1py(1 - rate, -rate)
    )
    assert first < independent < last - 3

    file = tmp_path / "weights.eqx"
    eqx.tree_serialise_leaves(file, (state.params, state.posterior))
    params, posterior = eqx.tree_deserialise_leaves(file, (state.params, state.posterior))
    key = jax.random.key(5)
    before = elbax.elbo(model, state.params, state.posterior, digits, key=key)
    assert elbax.elbo(model, params, posterior, digits, key=key) == before


def linear_model(dim):
    def log_joint(params, x, z):
        density = norm.logpdf(x, params["loadings"] @ z, jnp.exp(params["log_noise"]))
        return norm.logpdf(z).sum() + density.sum()

    return elbax.Model(log_joint, elbax.Gaussian(dim), conjugate=True)


@pytest.mark.slow
def test_linear_case_reaches_the_optimum_of_ppca():
    """Exact E-step, then an encoder (warmed up) in its place, then back: one model, one state."""
    x = jnp.asarray(load_digits().data[:400] / 16)
    x, dim = x - x.mean(0), 3
    best = ppca_optimum(x, dim)
    model = linear_model(dim)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "loadings": 0.1 * jax.random.normal(keys[0], (x.shape[1], dim)),
        "log_noise": jnp.array(-1.0),
    }
    model.verify(params, x[:5])

    def run(update, state, num_steps):
        return jax.jit(
            lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=num_steps)[0]
        )(state, x)

    def gap(state):
        value = elbax.evidence(model, state.params, x)
        described = state.params["loadings"], jnp.exp(state.params["log_noise"])
        np.testing.assert_allclose(value, linear_gaussian_evidence(*described, x).mean(), rtol=1e-9)
        return best - float(value)

    exact = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2)))
    state = run(exact, exact.init(params, elbax.Exact(model, params), key=keys[1]), 40)
    after_exact = gap(state)
    assert after_exact > 1e-3  # Far enough from the optimum for the encoder to have work to do.

    linear = eqx.nn.Linear(x.shape[1], dim + dim * (dim + 1) // 2, key=keys[2], dtype=float)
    rate = optax.cosine_decay_schedule(3e-2, 300)
    amortize = elbax.GradientEStep(model, optax.adam(rate))
    encoder = elbax.Amortized(linear, model.latent)
    state = run(amortize, amortize.init(state.params, encoder, key=state.key), 300)
    assert gap(state) == pytest.approx(after_exact, abs=1e-12)  # θ has not moved.

    vae = elbax.JointGradientStep(model, optax.adam(optax.cosine_decay_schedule(1e-2, 600)))
    state = run(vae, vae.init(state.params, state.posterior, key=state.key), 600)
    assert gap(state) < 1e-3

    gentle = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-3)))
    bayes = elbax.Exact(model, state.params)
    state = run(gentle, gentle.init(state.params, bayes, key=state.key), 20)
    assert gap(state) < 1e-3


# --- decoders ---------------------------------------------------------------------------------------------


def mixed(params, z):
    """Six numbers of a decoder for a latent of one number."""
    return params["mean"] + params["slope"] * jnp.sin(z[0] * params["bend"])


def categorical_pixels(params, x, z):
    """Two pixels of three grey values."""
    logits = jax.nn.log_softmax(mixed(params, z).reshape(2, 3))
    return jnp.take_along_axis(logits, x[:, None], 1).sum()


def normal_with_variance(params, x, z):
    mean, log_deviation = jnp.split(mixed(params, z), 2)
    return norm.logpdf(x, mean, jnp.exp(log_deviation)).sum()


def poisson(params, x, z):
    return jax.scipy.stats.poisson.logpmf(x, jnp.exp(mixed(params, z))).sum()


def negative_binomial(params, x, z):
    mean, size = jnp.split(jnp.exp(mixed(params, z)), 2)
    return jax.scipy.stats.nbinom.logpmf(x, size, size / (size + mean)).sum()


def by_scipy(likelihood, output, x):
    """Returns log p(x | z) for the decoder's outputs at many z, of shape (z, 6)."""
    first, second = output[:, :3], output[:, 3:]
    if likelihood is categorical_pixels:
        shares = scipy.special.softmax(output.reshape(-1, 2, 3), -1)
        return np.log(shares[:, 0, x[0]] * shares[:, 1, x[1]])
    if likelihood is normal_with_variance:
        return scipy.stats.norm(first, np.exp(second)).logpdf(x).sum(1)
    if likelihood is poisson:
        return scipy.stats.poisson(np.exp(output)).logpmf(x).sum(1)
    size = np.exp(second)
    return scipy.stats.nbinom(size, size / (size + np.exp(first))).logpmf(x).sum(1)


def standard(params, x):
    return jnp.zeros(1), jnp.ones(1)


GRID = np.linspace(-9, 9, 3601)
DECODER = {
    "mean": jnp.array([0.3, -0.4, 0.8, 0.1, 0.6, -0.2]),
    "slope": jnp.array([1.0, -0.7, 0.5, 0.4, -0.3, 0.6]),
    "bend": jnp.array(0.8),
}


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        (categorical_pixels, jnp.array([[0, 2], [1, 1]])),
        (normal_with_variance, jnp.array([[0.3, -1.0, 0.5], [2.0, 0.1, -0.4]])),
        (poisson, jnp.array([[0, 3, 1, 0, 2, 5], [1, 0, 0, 4, 1, 1]])),
        (negative_binomial, jnp.array([[0, 3, 1], [7, 0, 2]])),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_bound_of_a_decoder(likelihood, x):
    """By scipy's densities on a grid of z, its slope by differences; it is below the evidence."""
    model = elbax.Model(
        likelihood=likelihood,
        prior=standard,
        latent=elbax.DiagonalGaussian(1),
        estimator=elbax.estimators.Quadrature(60),
    )
    q = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.array([0.4, -0.5])), model.latent)
    log_q = scipy.stats.norm(0.4, np.exp(-0.5)).logpdf(GRID)
    step = GRID[1] - GRID[0]

    def joint(slope):
        output = np.asarray(
            DECODER["mean"] + slope * np.sin(GRID[:, None] * float(DECODER["bend"]))
        )
        rows = [by_scipy(likelihood, output, np.asarray(row)) for row in x]
        return np.stack(rows) + scipy.stats.norm.logpdf(GRID)

    def bound(slope):
        return np.mean(np.sum(np.exp(log_q) * (joint(slope) - log_q), 1)) * step

    value = lambda params: elbax.elbo(model, params, q, x)
    with jax.numpy_dtype_promotion("standard"):
        found, gradient = jax.jit(jax.value_and_grad(value))(DECODER)
    slope = np.asarray(DECODER["slope"])
    np.testing.assert_allclose(found, bound(slope), rtol=1e-8)
    differences = [(bound(slope + move) - bound(slope - move)) / 2e-5 for move in 1e-5 * np.eye(6)]
    np.testing.assert_allclose(gradient["slope"], differences, rtol=1e-5, atol=1e-7)
    assert found < np.mean(scipy.special.logsumexp(joint(slope), axis=1) + np.log(step)) - 0.01


def ascend(update, state, x, num_steps):
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, x), s, length=num_steps))(state)


def test_a_learned_variance_meets_the_optimum():
    """Of a decoder and an encoder that are linear: probabilistic PCA's, in closed form."""
    x = jax.random.normal(KEYS[0], (30, 4)) * jnp.array([2.0, 1.0, 0.7, 0.4])
    x = x - x.mean(0)

    def likelihood(params, x, z):
        return norm.logpdf(x, params["loadings"] @ z, jnp.exp(params["log_noise"])).sum()

    model = elbax.Model(
        likelihood=likelihood,
        prior=standard,
        latent=elbax.DiagonalGaussian(1),
        estimator=elbax.estimators.Quadrature(2),
    )
    params = {"loadings": jnp.ones((4, 1)), "log_noise": jnp.array(0.0)}
    linear = elbax.Network(
        lambda w, x: w["x"] @ x + w["1"], {"x": jnp.zeros((2, 4)), "1": jnp.zeros(2)}
    )
    vae = elbax.JointGradientStep(model, optax.adam(optax.cosine_decay_schedule(0.1, 600)))
    state = vae.init(params, elbax.Amortized(linear, model.latent), key=KEYS[1])
    state, info = ascend(vae, state, x, 600)
    assert float(info.elbo[-1]) == pytest.approx(ppca_optimum(x, 1), abs=1e-6)
    spread = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:-1].mean()
    assert float(jnp.exp(2 * state.params["log_noise"])) == pytest.approx(spread, rel=1e-3)


# --- posteriors -------------------------------------------------------------------------------------------


LOADINGS = jnp.array([[1.0, 0.8], [0.3, 1.0], [0.0, 0.5]])
ROWS = jax.random.normal(KEYS[2], (10, 3))


def test_a_full_covariance_reaches_the_evidence():
    """An encoder of independent numbers lacks ½ (Σ log Jᵢᵢ − log |J|), where J is the posterior's precision."""

    def gap(family, outputs):
        def joint(params, x, z):
            return norm.logpdf(z).sum() + norm.logpdf(x, params @ z).sum()

        model = elbax.Model(joint, family, estimator=elbax.estimators.Quadrature(2))
        weights = {"x": jnp.zeros((outputs, 3)), "1": jnp.zeros(outputs)}
        encoder = elbax.Amortized(elbax.Network(lambda w, x: w["x"] @ x + w["1"], weights), family)
        learn = elbax.GradientEStep(model, optax.adam(optax.cosine_decay_schedule(0.1, 400)))
        state = learn.init(LOADINGS, encoder, key=KEYS[0])
        _, info = ascend(learn, state, ROWS, 400)
        return linear_gaussian_evidence(LOADINGS, 1.0, ROWS).mean() - float(info.elbo[-1])

    precision = np.eye(2) + LOADINGS.T @ LOADINGS
    lacking = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert gap(elbax.Gaussian(2), 5) == pytest.approx(0, abs=1e-6)
    assert gap(elbax.DiagonalGaussian(2), 4) == pytest.approx(lacking, abs=1e-6)
    assert lacking > 0.1


class Given(eqx.Module):
    """A flow of flowjax at a datum."""

    flow: Any
    x: jax.Array

    def sample(self, key):
        return self.flow.sample(key, condition=self.x)

    def log_prob(self, z):
        return self.flow.log_prob(z, condition=self.x)


class Flow(eqx.Module):
    flow: Any

    def __call__(self, x):
        return Given(self.flow, x)


def of_flowjax():
    flows = pytest.importorskip("flowjax.flows")
    base = pytest.importorskip("flowjax.distributions").Normal(jnp.zeros(2))
    flow = flows.masked_autoregressive_flow(
        KEYS[3], base_dist=base, cond_dim=2, flow_layers=2, nn_width=16, invert=False
    )
    return elbax.Amortized(Flow(flow), lambda q: q)


def by_a_program():
    """An autoregressive posterior: the second number given the first."""

    def normal(output):
        return programs.Normal(output[0], jnp.exp(output[1]))

    def infer(networks, x, draw):
        first = draw("0", normal(networks["0"](x)))
        draw("1", normal(networks["1"](jnp.append(x, first))))

    sizes = {"0": 2, "1": 3}
    networks = {
        name: elbax.Network(eqx.nn.MLP(size, 2, 16, 1, key=KEYS[4])) for name, size in sizes.items()
    }
    return programs.encoder(infer, networks)


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_flowjax, by_a_program])
def test_a_flow_comes_nearer_to_the_evidence_than_a_normal(make):
    """The posterior of z is bent. The evidence is known by quadrature, and no bound is above it."""
    x = jnp.array([[0.5, 0.0], [1.0, 0.5], [-1.0, 0.5], [0.0, -1.0]])

    def joint(params, x, z):
        z = jnp.stack([z["0"], z["1"]]) if isinstance(z, dict) else z
        seen = norm.logpdf(x, jnp.stack([z[0], z[1] + z[0] ** 2]), jnp.array([2.0, 0.2]))
        return norm.logpdf(z).sum() + seen.sum()

    axis = jnp.linspace(-6, 6, 601)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    each = jax.vmap(lambda x: jax.nn.logsumexp(jax.vmap(lambda z: joint((), x, z))(grid)))(x)
    evidence = float(each.mean() + 2 * jnp.log(axis[1] - axis[0]))

    def end(posterior, latent=None):
        model = elbax.Model(joint, latent, estimator=elbax.estimators.StickingTheLanding(8))
        learn = elbax.GradientEStep(model, optax.adam(optax.cosine_decay_schedule(0.02, 300)))
        _, info = ascend(learn, learn.init((), posterior, key=KEYS[5]), x, 300)
        tail = np.asarray(info.elbo[-50:])
        return float(info.elbo[0]), tail.mean(), tail.std() / 50**0.5

    first, last, error = end(make())
    assert first + 1 < last < evidence + 5 * error
    family = elbax.Gaussian(2)
    _, normal, _ = end(elbax.Amortized(eqx.nn.MLP(2, 5, 16, 1, key=KEYS[6]), family), family)
    assert last > normal + 0.1


# --- priors -----------------------------------------------------------------------------------------------


def test_a_conditional_autoencoder():
    """Prior and likelihood read an input u. The bound is the evidence given u less the KL of q."""
    params = {"prior": jnp.array([[0.5, -1.0], [1.0, 0.3]]), "z": LOADINGS, "u": LOADINGS[:, ::-1]}

    def likelihood(params, datum, z):
        mean = params["z"] @ z + params["u"] @ datum["u"]
        return norm.logpdf(datum["x"], mean, 0.7).sum()

    def prior(params, datum):
        return params["prior"] @ datum["u"], jnp.ones(2)

    family = elbax.DiagonalGaussian(2)
    model = elbax.Model(
        likelihood=likelihood,
        prior=prior,
        latent=family,
        estimator=elbax.estimators.Quadrature(2),
    )
    weights = {"x": 0.3 * LOADINGS.T, "u": jnp.eye(2)}

    def encode(weights, datum):
        return jnp.append(
            weights["x"] @ datum["x"] + weights["u"] @ datum["u"], jnp.array([-0.2, -0.6])
        )

    encoder = elbax.Amortized(elbax.Network(encode, weights), family)
    inputs = jax.random.normal(KEYS[6], (10, 2))
    found = elbax.elbo_terms(model, params, encoder, {"x": ROWS, "u": inputs})

    w, noise = np.asarray(LOADINGS), 0.49
    precision = np.eye(2) + w.T @ w / noise
    covariance = np.linalg.inv(precision)
    spread = np.exp([-0.4, -1.2])
    evidence, gaps, divergences = [], [], []
    for x, u in zip(np.asarray(ROWS), np.asarray(inputs)):
        center = np.asarray(params["prior"]) @ u
        shift = np.asarray(params["u"]) @ u
        marginal = scipy.stats.multivariate_normal(w @ center + shift, w @ w.T + noise * np.eye(3))
        evidence.append(marginal.logpdf(x))
        best = covariance @ (center + w.T @ (x - shift) / noise)
        mean = np.asarray(weights["x"]) @ x + u
        off = mean - best
        log_volumes = np.log(spread).sum() + np.linalg.slogdet(precision)[1]
        gaps.append(0.5 * (np.diag(precision) @ spread + off @ precision @ off - 2 - log_volumes))
        off = mean - center
        divergences.append(0.5 * (spread.sum() + off @ off - 2 - np.log(spread).sum()))
    assert float(found.elbo) == pytest.approx(np.mean(evidence) - np.mean(gaps), rel=1e-10)
    assert float(found.kl_prior) == pytest.approx(np.mean(divergences), rel=1e-10)


PAIR = elbax.DiagonalGaussian(1)
PRIORS = {
    "decoder": jnp.array([[0.9], [-0.4], [0.3]]),
    "encoder": {"x": 0.2 * LOADINGS.T, "1": jnp.array([0.2, -0.3])},
    "pseudo": jnp.array([[0.3, -0.2, 0.1], [-0.5, 0.1, 0.3], [0.0, 0.2, -0.3]]),
    "centers": jnp.array([-0.5, 0.2, 0.6]),
    "logits": jnp.array([0.3, -0.5, 0.1]),
}


def output(params, x):
    return params["encoder"]["x"] @ x + params["encoder"]["1"]


def learned_mixture(params, x):
    def log_density(z):
        return jax.nn.logsumexp(
            jax.nn.log_softmax(params["logits"]) + norm.logpdf(z, params["centers"])
        )

    return log_density


def vamp(params, x):
    """The mean of the encoder's own posteriors of pseudo-inputs (Tomczak and Welling 2018)."""
    parts = jax.vmap(lambda x: PAIR.distribution(output(params, x)))(params["pseudo"])

    def log_density(z):
        each = jax.vmap(lambda q: q.log_prob(z))(parts)
        return jax.nn.logsumexp(each) - jnp.log(jnp.array(len(each), each.dtype))

    return log_density


def parts_by_hand(prior, params):
    """Weights, means and deviations of the prior's components."""
    if prior is learned_mixture:
        return jax.nn.softmax(params["logits"]), params["centers"], jnp.ones(3)
    mean, log_deviation = (params["pseudo"] @ params["encoder"]["x"].T + params["encoder"]["1"]).T
    return jnp.full(3, 1 / 3), mean, jnp.exp(log_deviation)


def with_prior(prior):
    def likelihood(params, x, z):
        return norm.logpdf(x, params["decoder"] @ z).sum()

    return elbax.Model(
        likelihood=likelihood,
        prior=prior,
        latent=PAIR,
        estimator=elbax.estimators.Quadrature(120),
    )


def reading(model, params=PRIORS):
    """An encoder that is all in the params."""
    network = elbax.Network(lambda weights, params, x: output(params, x), ())
    return elbax.Amortized(network, PAIR, target=elbax.Exact(model, params))


@pytest.mark.parametrize("prior", [learned_mixture, vamp])
def test_a_prior_of_several_normals(prior):
    """Bound and gradient on a grid, by hand: in decoder, encoder, centers, weights and pseudo-inputs."""
    model = with_prior(prior)
    step = elbax.JointGradientStep(model, optax.sgd(1.0), through=True)
    state, info = jax.jit(step)(step.init(PRIORS, reading(model), key=KEYS[0]), ROWS)

    grid = jnp.linspace(-12.0, 12.0, 4801)

    def by_hand(params):
        weights, means, deviations = parts_by_hand(prior, params)
        log_prior = jnp.log(jnp.exp(norm.logpdf(grid[:, None], means, deviations)) @ weights)

        def one(x):
            mean, log_deviation = output(params, x)
            log_q = norm.logpdf(grid, mean, jnp.exp(log_deviation))
            fits = norm.logpdf(x, grid[:, None] * params["decoder"][:, 0]).sum(1)
            return jnp.sum(jnp.exp(log_q) * (fits + log_prior - log_q)) * (grid[1] - grid[0])

        return jax.vmap(one)(ROWS).mean()

    value, slope = jax.jit(jax.value_and_grad(by_hand))(PRIORS)
    assert float(info.elbo) == pytest.approx(float(value), rel=1e-6)
    moves = jax.tree.map(jnp.subtract, state.params, PRIORS)
    for name in slope:
        assert_close(moves[name], slope[name], 1e-5)


def test_pseudo_inputs_that_are_the_data():
    """Then q is the prior of its own datum, and not of another one."""
    params, model = PRIORS | {"pseudo": jnp.tile(ROWS[:1], (3, 1))}, with_prior(vamp)
    terms = elbax.elbo_terms(model, params, reading(model, params), ROWS[:1])
    assert float(terms.kl_prior) == pytest.approx(0, abs=1e-12)
    other = elbax.elbo_terms(model, params, reading(model, params), ROWS[1:2])
    assert float(other.kl_prior) > 1e-2


def test_a_prior_of_another_size_is_refused():
    """One number would stand for all coordinates in the density, and for one in its normalizer."""
    narrow = elbax.Model(
        likelihood=lambda params, x, z: params * z.sum(),
        prior=lambda params, x: (jnp.zeros(1), jnp.ones(1)),
        latent=elbax.DiagonalGaussian(4),
    )
    q = narrow.latent((jnp.zeros(4), jnp.ones(4)))
    message = r"prior returned natural parameters of shapes \(\(1,\), \(1,\)\); those of one latent of Diagonal"
    with pytest.raises(ValueError, match=message):
        elbax.elbo(
            narrow, jnp.array(1.0), lambda x, key: q, jnp.zeros((3, 1)), key=jax.random.key(0)
        )


def test_densities_of_several_numbers_are_refused():
    """Each would count as a density of all of z, and the bound be too high."""

    class Entries:
        def sample(self, key):
            return jax.random.normal(key, (2,))

        def log_prob(self, z):
            return norm.logpdf(z)

    def model(prior):
        likelihood = lambda params, x, z: norm.logpdf(x, z).sum()
        return elbax.Model(likelihood=likelihood, prior=prior, latent=elbax.DiagonalGaussian(2))

    x, key = jnp.zeros((3, 2)), jax.random.key(0)
    q = lambda x, key=None: elbax.DiagonalGaussian(2)((x, jnp.ones(2)))
    for prior in (lambda params, x: norm.logpdf, lambda params, x: Entries()):
        with pytest.raises(ValueError, match=r"the log-density of all of one latent.*shape \(2,\)"):
            elbax.elbo(model(prior), (), q, x, key=key)
    standard = model(lambda params, x: (jnp.zeros(2), jnp.ones(2)))
    with pytest.raises(TypeError, match="log_prob returned shape"):
        elbax.diagnostics.importance_evidence(standard, (), lambda x: Entries(), x, key=key)


def test_a_prior_of_whole_numbers_is_one_of_numbers():
    def divergence(dtype):
        model = elbax.Model(
            likelihood=lambda params, x, z: jnp.sum(x * z),
            prior=lambda params, x: (jnp.zeros(2, dtype), 2 * jnp.ones(2, dtype)),
            latent=elbax.DiagonalGaussian(2),
        )
        q = lambda x, key=None: model.latent((x, jnp.ones(2)))
        terms = elbax.elbo_terms(model, (), q, jnp.ones((3, 2)), key=jax.random.key(0))
        return terms.kl_prior

    np.testing.assert_allclose(divergence(int), divergence(float), rtol=1e-12)
