"""A faster form is the model itself to rounding, wherever it says that it may be taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import equations

import elbax
from elbax import components


K, DIM, ROWS = 8, 8, 32


def poisson(rng):
    rates = 10.0 ** rng.uniform(-5, 3, DIM) * np.exp(rng.normal(size=(K, DIM)))
    return {"log_rates": np.log(rates)}, rng.poisson(rates[rng.integers(0, K, ROWS)])


def multinomial(rng):
    logits = rng.choice([0.1, 1, 5]) * rng.normal(size=(K, DIM))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = int(10 ** rng.uniform(0, 3.5))
    x = [rng.multinomial(total, shares[k]) for k in rng.integers(0, K, ROWS)]
    return {"logits": logits}, np.stack(x)


def gamma(rng):
    shapes = 10.0 ** rng.uniform(-1, rng.uniform(0, 3), (K, DIM))
    means = 10.0 ** rng.uniform(-6, 6, DIM) * np.exp(0.3 * rng.normal(size=(K, DIM)))
    which = rng.integers(0, K, ROWS)
    # Of a shape below 1 some numbers are too small for float32, were they not held above its smallest.
    x = np.maximum(rng.gamma(shapes[which]) * (means / shapes)[which], 2e-38)
    return {"log_shapes": np.log(shapes), "log_rates": np.log(shapes / means)}, x


def normal(rng):
    """Draws covariances that differ a little from a common one, of any correlation, at any distance."""
    common = np.linalg.cholesky(
        rng.uniform(-0.3, 0.999) ** np.abs(np.subtract.outer(*[range(DIM)] * 2))
    )
    common = 10.0 ** rng.uniform(-3, 3, (DIM, 1)) * common
    apart = 10.0 ** rng.uniform(-1, 2.2)
    factors = np.exp(0.3 * rng.normal(size=(K, 1, 1))) * common
    means = 10.0 ** rng.uniform(-3, 6, DIM) + apart * rng.normal(size=(K, DIM)) @ common.T
    covariances = factors @ factors.swapaxes(1, 2)
    params = components.Normal().from_description(means=means, covariances=covariances)
    which = rng.integers(0, K, ROWS)
    noise = rng.normal(size=(ROWS, DIM))
    return params, means[which] + np.einsum("nij,nj->ni", factors[which], noise)


COMPONENTS = {
    "normal": (components.Normal(), normal),
    "poisson": (components.Poisson(), poisson),
    "multinomial": (components.Multinomial(), multinomial),
    "gamma": (components.Gamma(), gamma),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_where_it_may_be_taken_it_is_the_same(name):
    """In float32, to what 4096 of its epsilons are; and tables of all kinds come in both ways."""
    component, draw = COMPONENTS[name]

    @jax.jit
    def densities(params, x):
        natural = component.natural(params)
        found = component.shortcut(params, x)
        prepared = found.form.prepare(natural)
        fast = jax.vmap(lambda x: found.form.log_densities(prepared, x))(x)
        if found.base is not None:
            fast += jax.vmap(found.base)(x)[:, None]
        return fast, found.allowed

    reference = jax.jit(
        jax.vmap(lambda params, x: component.log_densities(component.natural(params), x), (None, 0))
    )
    seen = []
    for seed in range(60):
        params, x = draw(np.random.default_rng(seed))
        narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x))
        fast, allowed = densities(*narrow)
        exact = reference(*jax.tree.map(lambda leaf: leaf.astype(jnp.float64), narrow))
        seen.append(bool(allowed))
        if not allowed:
            continue
        # What has no share in a row is no matter.
        counts = exact > exact.max(-1, keepdims=True) - 30
        gap = jnp.where(counts, jnp.abs(fast.astype(float) - exact), 0) / (
            1 + jnp.abs(exact) / 4096.0
        )
        assert jnp.max(gap) < 4096 * 1.2e-7, seed
    assert 5 < sum(seen) < 55


@pytest.mark.parametrize("name", ["poisson", "multinomial", "gamma"])
def test_what_padding_holds_does_not_decide(name):
    """Rows that count for nothing may hold anything, and the form stays the same."""
    component, draw = COMPONENTS[name]
    model = elbax.Mixture(component, K)
    params, x = draw(np.random.default_rng(2))
    params = {"logits": jnp.zeros(K), "components": jax.tree.map(jnp.asarray, params)}
    x = jnp.tile(jnp.asarray(x, float), (40, 1))
    padded = jnp.concatenate([x, jnp.full((3, DIM), 1e30), jnp.full((1, DIM), jnp.nan)])
    plain = jnp.concatenate([x, x[:4]])
    real = jnp.arange(len(padded)) < len(x)
    evidence = jax.jit(lambda x: elbax.evidence(model, params, elbax.Batch(x, mask=real)))
    assert evidence(padded) == evidence(plain)


@pytest.mark.parametrize("update", ["em", "gradient"])
def test_rows_that_fit_in_the_cache(update, monkeypatch):
    """A pass over many rows with many products takes a few at a time, to the same end."""
    monkeypatch.setattr(elbax._shortcut, "_CACHE", 3e4)
    x = jax.random.normal(jax.random.key(0), (401, 12))
    batch = elbax.Batch(x, mask=jnp.arange(401) < 397)

    def end(form):
        model = elbax.Mixture(components.Normal(form=form), 2)
        params = model.init(jax.random.key(1), x)
        gradient = elbax.GradientMStep(model, optax.sgd(0.1))
        step = elbax.em(model) if update == "em" else gradient
        start = step.init(params, elbax.Exact(model, params), key=jax.random.key(2))
        program = jax.make_jaxpr(step)(start, batch)
        loops = sum(equation.primitive.name == "scan" for equation in equations(program.jaxpr))
        return step(start, batch), loops

    (few, loops), (whole, fewer) = end("auto"), end("expanded")
    assert loops > fewer
    for ours, theirs in zip(*map(jax.tree.leaves, (few, whole)), strict=True):
        if jnp.issubdtype(theirs.dtype, jnp.inexact):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_sweep_holds_a_few_rows(backend, monkeypatch):
    """Neither form takes all rows at a time; a program reserves memory for both."""
    monkeypatch.setattr(elbax._shortcut, "_CACHE", 3e5)
    monkeypatch.setattr(elbax._shortcut, "_MEMORY", 3e5)
    count, number, dim = 5000, 20, 12
    model = elbax.GaussianMixture(number)
    x = jax.random.normal(jax.random.key(0), (count, dim))
    params = model.init(jax.random.key(1), x[:200])
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    em = elbax.em(model)
    program = jax.jit(lambda state, x: em(state, x)[0])
    needed = program.lower(em.init(params, key=jax.random.key(2)), x).compile()
    assert needed.memory_analysis().temp_size_in_bytes < x.itemsize * count * number * dim / 5


def test_a_network_sees_all_rows(monkeypatch):
    """Unless the user says otherwise: what it returns may depend on the rows beside."""
    monkeypatch.setattr(elbax._shortcut, "_CACHE", 3e4)
    x = jax.random.normal(jax.random.key(0), (401, 12)) + jnp.linspace(0, 3, 401)[:, None]
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(1), x)

    def network(weights, x):
        return weights @ (x - jax.lax.pmean(x, "rows"))

    weights = jnp.linspace(-0.5, 0.5, 24).reshape(2, 12)
    encoder = elbax.Amortized(elbax.Network(network, weights), model.latent)
    bound = lambda chunk_size: elbax.elbo(model, params, encoder, x, chunk_size=chunk_size)
    assert bound(None) == bound(401)
    assert bound(None) != bound(50)
