"""Updates, wrappers, families, posteriors and components written by public names only."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import elbax


PAGE = pathlib.Path(__file__).parent.parent / "docs" / "extending.md"
KEY = jax.random.key(0)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page():
    """What the page defines, after it ran."""
    names: dict = {}
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    # The page is for JAX as it starts; this suite has strict promotion.
    with jax.numpy_dtype_promotion("standard"):
        exec("\n".join(code), names)
    return names


@pytest.fixture(autouse=True)
def as_jax_starts():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_the_update(page):
    """It moves by the sign of the gradient of the bound, raises the evidence, and measures the bound."""
    info, model, counts, update = (page[name] for name in ("info", "model", "counts", "update"))
    assert info.elbo[-1] > info.elbo[0] + 1e-3
    state = update.init(model.init(KEY, counts), key=KEY)
    bound = lambda params: elbax.elbo(model, params, state.posterior, counts)
    slope = jax.jit(jax.grad(bound))(state.params)
    moved, info = update(state, counts)
    for new, old, up in zip(
        *map(jax.tree.leaves, (moved.params, state.params, slope)), strict=True
    ):
        np.testing.assert_allclose(new - old, 0.01 * jnp.sign(up), atol=1e-12)
    np.testing.assert_allclose(info.elbo, bound(state.params), rtol=1e-12)


def test_the_update_goes_where_ours_go(page):
    """Under wrappers and vmap, and with weights."""
    model, counts, step = page["model"], page["counts"], page["SignMStep"]

    def end(rate, batch):
        chain = elbax.Chain(elbax.ExactEStep(model), elbax.wrappers.Repeat(step(model, rate), 2))
        state = chain.init(model.init(KEY, counts), key=KEY)
        return jax.lax.scan(lambda s, _: chain(s, batch), state, length=5)[1].elbo[-1]

    several = jax.jit(jax.vmap(end, (0, None)))(jnp.array([0.001, 0.02]), counts)
    assert several[1] != several[0]
    twice = elbax.Batch(counts, weight=jnp.full(len(counts), 2.0))
    np.testing.assert_allclose(end(0.02, twice), several[1], rtol=1e-10)


def test_the_wrapper(page):
    """No move is longer than allowed, and it ends where EM does."""
    careful, model, counts, result = (
        page[name] for name in ("careful", "model", "counts", "result")
    )
    state = careful.init(model.init(KEY, counts), key=KEY)

    def step(state, _):
        moved, _ = careful(state, counts)
        apart = jax.tree.map(jnp.subtract, moved.params, state.params)
        return moved, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(apart)))

    _, sizes = jax.lax.scan(step, state, length=50)
    assert jnp.max(sizes) <= 0.02 + 1e-12 and jnp.any(sizes > 0.019)
    assert not careful.ascends
    plain = elbax.fit(elbax.em(model), counts, key=KEY, restarts=1, tolerance=1e-10)
    ours = elbax.fit(careful, counts, key=KEY, restarts=1, tolerance=1e-10)
    np.testing.assert_allclose(ours.elbo, plain.elbo, atol=1e-7)
    assert result.code == "converged"


def test_the_posterior(page):
    """What it says is trained moves, the encoder inside stays to the bit, and the bound rises."""
    begin, tuned, trace = page["begin"], page["tuned"], page["trace"]
    assert trace.elbo[-1] > trace.elbo[0]
    assert np.all(tuned.posterior.shift != begin.posterior.shift)
    for left, right in zip(
        *(jax.tree.leaves(state.posterior.encoder) for state in (begin, tuned)), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    kept = jax.tree.leaves(tuned.memory)
    assert sum(leaf.size for leaf in kept if leaf.ndim) == 4  # Adam's two moments of the shift


def test_the_wrapper_that_remembers(page):
    """Under a guard and in a fit it remembers the largest ELBO that was measured."""
    watched = page["watched"]
    np.testing.assert_array_equal(watched.state.memory.update.elbo, watched.trace.max())


def test_the_family(page):
    """A coin is a categorical latent of two values: evidence, posterior, bound, draws."""
    coin, params, log_joint = page["coin"], page["params"], page["log_joint"]
    x = page["x"][:, :1]
    known = elbax.Model(log_joint, elbax.Categorical(2))
    evidences = [elbax.evidence(model, params, x) for model in (coin, known)]
    np.testing.assert_allclose(*evidences, rtol=1e-12)
    q, other = (jax.vmap(elbax.Exact(model, params))(x) for model in (coin, known))
    np.testing.assert_allclose(q.mean(), other.mean()[:, 1], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(q.entropy(), other.entropy(), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(q.mode(), other.mode())
    ones = jax.jit(jax.vmap(q.sample))(jax.random.split(KEY, 2000)).mean(0)
    np.testing.assert_allclose(ones, q.mean(), atol=0.06)


def test_the_family_in_an_encoder(page):
    coin, params, x = page["coin"], page["params"], page["x"][:, :1]
    network = elbax.Network(lambda w, x: w[0] * x + w[1], jnp.zeros(2))
    step = elbax.GradientEStep(coin, optax.adam(0.3))
    state = step.init(params, elbax.Amortized(network, coin.latent), key=KEY)
    state, info = jax.lax.scan(lambda s, _: step(s, x), state, length=400)
    # The log-odds of two normals of one variance are linear in x, so the gap closes.
    np.testing.assert_allclose(info.elbo[-1], elbax.evidence(coin, params, x), atol=1e-4)


def test_the_component(page):
    """Densities are scipy's, every sweep ascends, and what was drawn is found again."""
    model, drawn, truth, result = (page[name] for name in ("geometric", "drawn", "truth", "result"))
    weights, success = np.array([0.4, 0.6]), np.array([0.8, 0.1])
    density = scipy.stats.geom.pmf(np.asarray(drawn) + 1, success) @ weights
    ours = elbax.evidence(model, truth, drawn)
    np.testing.assert_allclose(ours, np.log(density).mean(), rtol=1e-12)
    found = model.describe(result.params)
    order = np.argsort(-found["success"])
    np.testing.assert_allclose(np.asarray(found["success"])[order], success, atol=0.1)
    np.testing.assert_allclose(np.asarray(found["weights"])[order], weights, atol=0.1)
    certified = elbax.wrappers.Certify(elbax.em(model), model)
    state = certified.init(truth, key=KEY)
    _, infos = jax.lax.scan(lambda s, _: certified(s, drawn), state, length=20)
    assert np.all(infos.broken == -1)
    # The slope of the expected log-joint vanishes where the closed form ends.
    end = elbax.fit(elbax.em(model), drawn, key=KEY, restarts=1, tolerance=1e-13).params
    slope = jax.jit(jax.grad(lambda params: elbax.evidence(model, params, drawn)))(end)
    assert all(np.all(np.abs(leaf) < 1e-4) for leaf in jax.tree.leaves(slope))


def test_the_component_along_a_chain(page):
    """It serves a hidden Markov model as it stands: with uniform transitions the evidence is the mixture's."""
    component, drawn = page["Geometric"](), page["drawn"]
    chain = elbax.HiddenMarkovModel(component, 2)
    params = chain.from_description(
        initial=[0.4, 0.6], transition=[[0.4, 0.6], [0.4, 0.6]], success=[0.8, 0.1]
    )
    sequences = drawn.reshape(20, 50, 1)
    mixture = elbax.evidence(page["geometric"], page["truth"], drawn)
    np.testing.assert_allclose(elbax.evidence(chain, params, sequences), 50 * mixture, rtol=1e-10)


def test_layers_of_flax_with_running_statistics(page):
    """Evaluated without a key, the encoder comes close to Bayes' rule, by statistics that are the data's."""
    x, model, state = page["x"], page["mixture"], page["trained"]
    statistics = state.posterior.network.state.value["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], x.var(0), rtol=1e-5)
    evidence = elbax.evidence(model, state.params, x)
    untrained = elbax.elbo(model, state.params, page["encoder"], x)
    bound = elbax.elbo(model, state.params, state.posterior, x)
    assert untrained < evidence - 0.5 and evidence - 0.02 < bound < evidence
