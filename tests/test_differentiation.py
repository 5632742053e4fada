"""A sweep is a differentiable, shardable function like any other."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from cases import find, gaussian_mixture

import elbax


@pytest.mark.slow
@pytest.mark.parametrize("form", ["difference", "expanded"])
def test_the_jacobian_of_a_sweep(form):
    """Forward, reverse and finite differences agree: nothing is cut from the graph."""
    system = gaussian_mixture("full", form)
    em = elbax.Chain(elbax.ExactEStep(system.model), elbax.ClosedFormMStep(system.model))
    flat, restore = jax.flatten_util.ravel_pytree(system.params)

    @jax.jit
    def sweep(flat):
        params = restore(flat)
        state = em.init(params, elbax.Exact(system.model, params), key=jax.random.key(0))
        return jax.flatten_util.ravel_pytree(em(state, system.x)[0].params)[0]

    forward = jax.jit(jax.jacfwd(sweep))(flat)
    step = 1e-6
    for i in (0, 4, len(flat) - 1):
        nudge = jnp.zeros_like(flat).at[i].set(step)
        difference = (sweep(flat + nudge) - sweep(flat - nudge)) / (2 * step)
        np.testing.assert_allclose(forward[:, i], difference, rtol=1e-4, atol=1e-6)
    weight = jnp.linspace(-1, 1, len(flat))
    reverse = jax.jit(jax.grad(lambda flat: weight @ sweep(flat)))(flat)
    np.testing.assert_allclose(reverse, weight @ forward, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_the_rate_of_em_is_the_spectral_radius():
    """At the fixed point of EM the error shrinks by the largest eigenvalue of the sweep's Jacobian."""
    x = elbax.datasets.old_faithful()[:, 1:]
    model = elbax.GaussianMixture(2, floor=0.0, form="difference")
    em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    params = model.init(jax.random.key(0), x)
    state = em.init(params, elbax.Exact(model, params), key=jax.random.key(0))

    def sweep(flat):
        theta = restore(flat)
        return jax.flatten_util.ravel_pytree(em(state.replace(params=theta), x)[0].params)[0]

    _, restore = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def iterates(state):
        def step(state, _):
            state, _ = em(state, x)
            return state, jax.flatten_util.ravel_pytree(state.params)[0]

        return jax.lax.scan(step, state, length=400)[1]

    path = iterates(state)
    radius = float(jnp.abs(jnp.linalg.eigvals(jax.jacfwd(sweep)(path[-1]))).max())
    error = jnp.linalg.norm(path - path[-1], axis=1)
    observed = float((error[60] / error[20]) ** (1 / 40))
    assert observed == pytest.approx(radius, rel=1e-2)


def test_sharded_data():
    """A batch over two devices: the same step, and the chunks stay on both."""
    assert len(jax.devices()) == 2
    case = find("mixture-full-auto:exact/closed")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.P())
    x = jax.device_put(case.system.x, rows)
    state = jax.device_put(case.state, whole)
    model = case.system.model
    single, seen = case.step(case.state, case.system.x)
    for chunk_size in (None, 8):
        em = elbax.Chain(
            elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=chunk_size)
        )
        compiled = jax.jit(lambda s, x, em=em: em(s, x)).lower(state, x).compile()
        end, info = compiled(state, x)
        np.testing.assert_allclose(info.elbo, seen.elbo, rtol=1e-12)
        for ours, theirs in zip(jax.tree.leaves(end.params), jax.tree.leaves(single.params)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        text = compiled.as_text()
        assert "all-reduce" in text
        assert "all-gather" not in text  # No device sees another's rows.
