"""Published fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbax


DAYS = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])


@pytest.mark.parametrize("repeat", [False, True], ids=["weights", "rows"])
def test_hasselblads_deaths(repeat):
    """Two Poissons for the deaths of women of 80 and more, in The Times of 1910-12 (Hasselblad 1969)."""
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    params = model.from_description(weights=[0.5, 0.5], rates=[[1.0], [3.0]])
    values = jnp.arange(10.0)[:, None]
    batch = jnp.repeat(values, DAYS, axis=0) if repeat else elbax.Batch(values, weight=DAYS)
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(0))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: em(s, batch), s, length=6000))
    state, info = run(state)
    assert np.all(np.diff(info.elbo) > -1e-13)
    described = model.describe(state.params)
    density = scipy.stats.poisson(np.asarray(described["rates"])[:, 0]).pmf(np.arange(10)[:, None])
    theirs = -DAYS @ np.log(density @ np.asarray(described["weights"]))
    assert theirs == pytest.approx(1989.945859883, abs=1e-6)
    ours = float(elbax.evidence(model, state.params, batch))
    np.testing.assert_allclose(-DAYS.sum() * ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(described["weights"], [0.3599, 0.6401], atol=1e-4)
    np.testing.assert_allclose(described["rates"][:, 0], [1.2561, 2.6634], atol=1e-4)
