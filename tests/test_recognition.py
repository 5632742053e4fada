"""A posterior that depends on θ, and the gradient through it."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbax
from elbax._reference import split_coordinates
from elbax.passes import elbo_and_gradient


KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (7, 2))


def mixture():
    model = elbax.GaussianMixture(3)
    params = model.init(KEYS[1], X)
    network = elbax.Network(lambda w, x: w @ x, 0.3 * jax.random.normal(KEYS[2], (3, 2)))
    off = elbax.Network(lambda w, x: jnp.zeros(3) * w[0, 0], jnp.ones((3, 2)))
    return model, params, network, off


def counts():
    """A Poisson log-rate with a learned normal prior: Bayes' rule is not known, p(z) is."""

    def likelihood(params, x, z):
        rate = x * z - jnp.exp(z)
        return jnp.sum(rate)

    def prior(params, x):
        precision = jnp.exp(params["log_precision"])
        return precision * params["mean"], precision

    model = elbax.Model(
        likelihood=likelihood,
        prior=prior,
        latent=elbax.DiagonalGaussian(2),
        estimator=elbax.estimators.Quadrature(12),
    )
    params = {"mean": jnp.array([0.2, -0.3]), "log_precision": jnp.array([0.1, 0.4])}
    network = elbax.Network(lambda w, x: w @ x, 0.3 * jax.random.normal(KEYS[3], (4, 2)))
    # Infinite variance is potential 0.
    off = elbax.Network(
        lambda w, x: jnp.array([0.0, 0.0, 400.0, 400.0]) * w[0, 0], jnp.ones((4, 2))
    )
    return model, params, network, off


SYSTEMS = [pytest.param(mixture, id="mixture"), pytest.param(counts, id="counts")]


def bound(model, params, network, x):
    """The ELBO, its global term aside, as one function of both blocks: what `through` takes the gradient of."""
    q = elbax.posteriors.Recognition(network, elbax.Exact(model, params))
    return elbax.elbo(model, params, q, x) - model.log_prior(params) / len(x)


@pytest.mark.parametrize("make", SYSTEMS)
def test_gradient_is_that_of_differences_in_both_blocks(make):
    model, params, network, _ = make()
    x = jnp.abs(jnp.round(X))
    posterior = elbax.posteriors.Recognition(network, elbax.Exact(model, params))
    blocks = ("params", "posterior")

    @jax.jit
    def gradients(params, posterior):
        posterior = elbax.posteriors.Recognition(posterior.network, elbax.Exact(model, params))
        both = [
            elbo_and_gradient(
                model, params, posterior, x, wrt=blocks, key=KEYS[4], through=through
            )[1]
            for through in (True, False)
        ]
        return both

    through, fixed = gradients(params, posterior)
    value = jax.jit(lambda params, weights: bound(model, params, at(network, weights), x))

    def at(network, weights):
        return elbax.Network(network.function, weights)

    coordinates, constants = split_coordinates(params)
    moved = {
        "params": lambda tree: value(eqx.combine(tree, constants), network.weights),
        "posterior": lambda tree: value(params, tree),
    }
    for name, tree in (("params", coordinates), ("posterior", network.weights)):
        flat, build = jax.flatten_util.ravel_pytree(tree)
        given = lambda flat, name=name, build=build: moved[name](build(flat))
        step = 1e-5
        differences = jnp.stack(
            [
                (given(flat.at[i].add(step)) - given(flat.at[i].add(-step))) / (2 * step)
                for i in range(len(flat))
            ]
        )
        ours = jax.flatten_util.ravel_pytree(through[name])[0] / len(x)
        np.testing.assert_allclose(ours, differences, rtol=1e-6, atol=1e-8)
        other = jax.flatten_util.ravel_pytree(fixed[name])[0] / len(x)
        # A fixed snapshot leaves something out for θ, nothing for the network.
        assert np.allclose(other, differences, rtol=1e-6, atol=1e-8) == (name == "posterior")


@pytest.mark.parametrize("make", SYSTEMS)
def test_without_the_network_it_is_the_models_own(make):
    model, params, _, off = make()
    x = jnp.abs(jnp.round(X))
    q = elbax.posteriors.Recognition(off, elbax.Exact(model, params))
    if model.exact:
        found = elbax.elbo(model, params, q, x) - model.log_prior(params) / len(x)
        np.testing.assert_allclose(found, elbax.evidence(model, params, x), rtol=1e-12)
    else:
        prior = model.latent_prior(params, x[0])
        for ours, theirs in zip(q(x[0]).natural, prior.natural, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(elbax.elbo_terms(model, params, q, x).kl_prior, 0, atol=1e-12)


@pytest.mark.parametrize("make", SYSTEMS)
def test_a_joint_step_keeps_the_target_at_the_params_and_climbs(make):
    model, params, network, _ = make()
    x = jnp.abs(jnp.round(X))
    update = elbax.JointGradientStep(model, optax.adam(0.02), through=True)
    state = update.init(
        params, elbax.posteriors.Recognition(network, elbax.Exact(model, params)), key=KEYS[5]
    )
    end, info = jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, x), s, length=60))(state)
    assert info.elbo[-1] > info.elbo[0]
    # Without `settle`: a bound at these params is that of this posterior.
    jax.tree.map(np.testing.assert_array_equal, end.posterior.target.params, end.params)


def test_what_it_refuses(as_users_run):
    model = elbax.Model(lambda p, x, z: -jnp.sum((x - z) ** 2), elbax.DiagonalGaussian(2))
    with pytest.raises(TypeError, match=r"knows neither .* Use Model\(likelihood"):
        elbax.posteriors.Recognition(lambda x: x, elbax.Exact(model, ()))
    with pytest.raises(TypeError, match=r"through must be True or False"):
        elbax.JointGradientStep(model, optax.sgd(0.1), through="yes")
    dense = elbax.Model(
        likelihood=lambda p, x, z: -jnp.sum((x - z) ** 2),
        prior=lambda p, x: lambda z: -jnp.sum(z**2),
        latent=elbax.DiagonalGaussian(2),
    )
    q = elbax.posteriors.Recognition(lambda x: jnp.zeros(4), elbax.Exact(dense, ()))
    with pytest.raises(TypeError, match=r"is a LogDensity; expected natural parameters"):
        q(jnp.zeros(2))


def chains():
    """A hidden Markov model, and what a network says of each step."""
    model = elbax.HiddenMarkovModel(elbax.components.Normal("diagonal"), 3)
    x = jax.random.normal(KEYS[4], (2, 6, 2))
    network = elbax.Network(lambda w, x: x @ w, jax.random.normal(KEYS[5], (2, 3)))
    return model, model.init(KEYS[0], x), x, network


def states():
    """A state space, and what a network says of each state."""
    model = elbax.LinearGaussianStateSpace(2, transition_noise="diagonal")
    x = jax.random.normal(KEYS[4], (2, 6, 2))
    network = elbax.Network(lambda w, x: x @ w, 0.3 * jax.random.normal(KEYS[5], (2, 4)))
    return model, model.init(KEYS[0], x), x, network


@pytest.mark.parametrize("make", [chains, states])
def test_structures_are_tilted_exactly(make):
    """log p(x, z) + r(z) - log q(z) is the same for every path z: q is normalized and has the right density."""
    model, params, x, network = make()
    q = elbax.posteriors.Recognition(network, elbax.Exact(model, params))(x[0])
    paths = jax.jit(jax.vmap(q.sample))(jax.random.split(KEYS[1], 4))
    output = network(x[0])

    def says(z):
        if z.dtype.kind == "i":
            return output[jnp.arange(len(z)), z].sum()
        return -0.5 * jnp.sum(((z - output[:, :2]) / jnp.exp(output[:, 2:])) ** 2)

    one = lambda z: model.log_joint(params, x[0], z) + says(z) - q.log_prob(z)
    found = jax.jit(jax.vmap(one))(paths)
    np.testing.assert_allclose(found, found[0], rtol=1e-9)
    # And it climbs, with the gradient in θ through q.
    update = elbax.JointGradientStep(model, optax.adam(0.02), through=True)
    posterior = elbax.posteriors.Recognition(network, elbax.Exact(model, params))
    state = update.init(params, posterior, key=KEYS[2])
    _, info = jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, x), s, length=15))(state)
    assert info.elbo[-1] > info.elbo[0]


def test_what_a_network_says_of_states_has_their_shape():
    model, params, x, _ = states()
    q = elbax.posteriors.Recognition(lambda x: jnp.zeros((6, 3)), elbax.Exact(model, params))
    with pytest.raises(ValueError, match=r"shape \(6, 4\), or a dictionary.*got shape \(6, 3\)"):
        q(x[0])
