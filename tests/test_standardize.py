"""An encoder on data as they are: in their own units, far from 0."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_wine

import elbax


@pytest.mark.slow
def test_an_encoder_on_raw_data_finds_bayes_rule():
    """The encoder alone, at EM's optimum: standardized it ends at the evidence; as it stands it does not.

    Columns of deviations 1 and 300, far from 0.
    """
    x = jnp.asarray(load_wine().data[:, [0, 12]] + 1e4, float)
    model = elbax.GaussianMixture(2)
    params = elbax.fit(elbax.em(model), x, key=jax.random.key(0), restarts=4).params
    update = elbax.GradientEStep(model, optax.adam(0.03))
    network = eqx.nn.MLP(2, 2, 16, 1, key=jax.random.key(1))
    gaps = []
    for data in (x, None):
        encoder = elbax.Amortized(network, model.latent, standardize=data)
        state = update.init(params, encoder, key=jax.random.key(2))
        run = jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, x), s, length=1000)[0])
        bound = elbax.elbo(model, params, run(state).posterior, x)
        # The prior of the floor is in the bound.
        gaps.append(
            float(elbax.evidence(model, params, x) + model.log_prior(params) / len(x) - bound)
        )
    assert gaps[0] < 0.02 and gaps[1] > 2 * gaps[0]


def test_what_the_network_sees():
    x = {"a": jnp.array([[1.0, 5.0], [3.0, 5.0]]), "b": jnp.array([1, 2])}
    encoder = elbax.Amortized(
        lambda x: jnp.append(x["a"], x["b"].astype(float)), elbax.Categorical(3), standardize=x
    )
    seen = jax.vmap(lambda x: encoder(x).natural)(x)
    # A constant column has no spread to divide by; whole numbers stay.
    np.testing.assert_allclose(seen, [[-1, 0, 1], [1, 0, 2]], atol=1e-12)


def test_what_is_known_of_columns_is_not_trained_and_weights_of_0_do_not_count():
    model = elbax.GaussianMixture(2)
    x = jnp.asarray(elbax.datasets.old_faithful(), float)
    padded = elbax.Batch(jnp.concatenate([x, jnp.full((3, 2), 1e6)]), mask=jnp.arange(275) < 272)
    make = lambda data: elbax.Amortized(
        eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(1)), model.latent, standardize=data
    )
    for left, right in zip(
        jax.tree.leaves(make(padded).inputs), jax.tree.leaves(make(x).inputs), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    update = elbax.GradientEStep(model, optax.adam(0.1))
    state = update.init(model.init(jax.random.key(0), x), make(x), key=jax.random.key(2))
    moved, _ = update(state, x)
    for left, right in zip(
        jax.tree.leaves(moved.posterior.inputs), jax.tree.leaves(make(x).inputs), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_whole_numbers_and_real_ones_are_seen_alike():
    x = jnp.array([[0.2], [0.9], [1.4]])
    encoder = elbax.Amortized(lambda x: jnp.append(x, 0), elbax.Categorical(2), standardize=x)
    whole, real = encoder(jnp.array([1])), encoder(jnp.array([1.0]))
    np.testing.assert_array_equal(whole.natural, real.natural)


def test_steps_from_an_encoder_start_where_it_says():
    x = jnp.asarray(elbax.datasets.old_faithful(), float)
    model = elbax.GaussianMixture(2)
    network = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(1))
    encoder = elbax.Amortized(network, model.latent, standardize=x)
    target = elbax.Exact(model, model.init(jax.random.key(0), x))
    still = elbax.posteriors.SemiAmortized(encoder, target, optax.sgd(0.0), 1)
    np.testing.assert_allclose(still(x[0]).natural, encoder(x[0]).natural, rtol=1e-12)
