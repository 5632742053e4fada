"""Deep latent variables where the answer is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm
from sklearn.datasets import load_wine

import elbax
from elbax import estimators
from elbax.families import Product


def standard(dim):
    return lambda params, x: (jnp.zeros(dim), jnp.ones(dim))  # linear term and precision


def linear_likelihood(params, x, z):
    mean = params["mean"] + params["loadings"] @ z
    return norm.logpdf(x, mean, jnp.exp(params["log_noise"])).sum()


def linear_encoder(weights, x):
    return jnp.append(weights["slope"] @ x + weights["shift"], weights["log_deviations"])


def test_a_linear_vae_ends_at_probabilistic_pca():
    """From a random start, with an encoder of independent coordinates: its best posterior is Bayes' rule where the
    loadings are orthogonal, so that no local maximum is lower (Lucas et al. 2019), and it turns them that way."""
    x = load_wine().data
    x = jnp.asarray((x - x.mean(0)) / x.std(0))
    pca = elbax.ProbabilisticPCA(2, floor=0.0)
    known = elbax.Chain(elbax.ExactEStep(pca), elbax.EvidenceMStep(pca))
    start = pca.init(jax.random.key(0), x)
    best, _ = known(known.init(start, elbax.Exact(pca, start), key=jax.random.key(0)), x)
    optimum = elbax.evidence(pca, best.params, x)

    latent = elbax.DiagonalGaussian(2)
    # Two points in each dimension integrate a quadratic exactly.
    model = elbax.Model(
        likelihood=linear_likelihood,
        prior=standard(2),
        latent=latent,
        estimator=estimators.Quadrature(2),
    )
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "mean": jnp.zeros(13),
        "loadings": 0.3 * jax.random.normal(keys[0], (13, 2)),
        "log_noise": jnp.array(0.0),
    }
    weights = {
        "slope": 0.3 * jax.random.normal(keys[1], (2, 13)),
        "shift": jnp.zeros(2),
        "log_deviations": jnp.zeros(2),
    }
    encoder = elbax.Amortized(elbax.Network(linear_encoder, weights), latent)
    vae = elbax.JointGradientStep(model, optax.adam(optax.cosine_decay_schedule(0.05, 1200)))
    state = vae.init(params, encoder, key=keys[2])
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: vae(s, x), s, length=1200))(state)

    gap = optimum - elbax.elbo(model, state.params, state.posterior, x)
    assert -1e-9 < gap < 1e-3
    product = state.params["loadings"].T @ state.params["loadings"]
    assert abs(product[0, 1]) < 1e-3 < 0.3 < abs(jnp.diff(jnp.diag(product))[0])


LATENT = elbax.DiagonalGaussian(2)
BOTH = Product(z=LATENT, c=elbax.Categorical(3))


def component_densities(params, z):
    """log p(z, c) of each component c of the prior."""
    return jnp.log(1 / 3) + norm.logpdf(z, params["centers"], 0.5).sum(1)


def of_z(params, x, z):
    return linear_likelihood(params, x, z)


def of_both(params, x, z):
    return linear_likelihood(params, x, z["z"])


def summed(params, x):
    return lambda z: jax.nn.logsumexp(component_densities(params, z))


def apart(params, x):
    return lambda z: component_densities(params, z["z"])[z["c"]]


SWAPS = {
    "summed": elbax.Model(likelihood=of_z, prior=summed, latent=LATENT),
    "amortized": elbax.Model(
        likelihood=of_both, prior=apart, latent=BOTH, estimator=estimators.Enumeration()
    ),
    "sampled": elbax.Model(
        likelihood=of_both, prior=apart, latent=BOTH, estimator=estimators.ScoreFunction(2)
    ),
}


def both_outputs(weights, x):
    return {"z": linear_encoder(weights["z"], x), "c": weights["c"] @ x}


def z_output(weights, x):
    return linear_encoder(weights["z"], x)


def test_the_component_of_a_prior_is_summed_amortized_or_sampled():
    """The three bounds at the same weights. Summed over c is higher by E_q KL(q(c | x) ‖ p(c | z)). c from an
    encoder is summed or drawn, with the same mean and more noise; so is the gradient that the encoder learns by.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "mean": jnp.zeros(4),
        "loadings": jax.random.normal(keys[0], (4, 2)),
        "log_noise": jnp.array(-0.5),
        "centers": 2 * jax.random.normal(keys[1], (3, 2)),
    }
    weights = {
        "z": {
            "slope": 0.3 * jax.random.normal(keys[2], (2, 4)),
            "shift": jnp.zeros(2),
            "log_deviations": jnp.full(2, -0.7),
        },
        "c": jax.random.normal(keys[3], (3, 4)),
    }
    encoders = dict.fromkeys(SWAPS, elbax.Amortized(elbax.Network(both_outputs, weights), BOTH))
    encoders["summed"] = elbax.Amortized(elbax.Network(z_output, weights), LATENT)
    x = jax.random.normal(jax.random.key(1), (6, 4))

    def estimates(name):
        def bound(weights, key):
            encoder = encoders[name]
            encoder = eqx.tree_at(lambda q: q.network.weights, encoder, weights)
            return elbax.elbo(SWAPS[name], params, encoder, x, key=key)

        every = jax.vmap(jax.value_and_grad(bound), (None, 0))
        return jax.jit(every)(weights, jax.random.split(jax.random.key(2), 2000))

    found = {name: estimates(name) for name in SWAPS}
    mean = {name: float(values.mean()) for name, (values, _) in found.items()}
    error = max(float(values.std()) for values, _ in found.values()) / np.sqrt(2000)

    points, shares = np.polynomial.hermite_e.hermegauss(30)
    noise = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
    shares = np.outer(shares, shares).ravel() / shares.sum() ** 2

    def divergence(x):
        part = LATENT.distribution(z_output(weights, x))
        deviation = jnp.exp(weights["z"]["log_deviations"])
        of_c = jax.vmap(lambda z: component_densities(params, z))(part.mode() + deviation * noise)
        log_q = jax.nn.log_softmax(both_outputs(weights, x)["c"])
        gap = jnp.exp(log_q) * (log_q - jax.nn.log_softmax(of_c, 1))
        return shares @ gap.sum(1)

    expected = float(jax.vmap(divergence)(x).mean())
    assert expected > 0.1
    assert abs(mean["summed"] - mean["amortized"] - expected) < 8 * error < expected / 2
    assert abs(mean["amortized"] - mean["sampled"]) < 8 * error

    slopes = {name: slope["c"].reshape(2000, -1) for name, (_, slope) in found.items()}
    assert not slopes["summed"].any()
    assert (2 * slopes["amortized"].std(0) < slopes["sampled"].std(0)).all()
