"""Divergences of two programs step by step, beside closed forms and the differences of log-densities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ancestral_programs import climbing, generate, LADDER, PARAMS, X

import elbax
from elbax import estimators, programs
from elbax.families import Bernoulli


KEYS = jax.random.split(jax.random.key(0), 4)
PLAIN, STEPWISE = (
    elbax.Model(programs.log_joint(generate), estimator=estimators.Reparameterized(stepwise=yes))
    for yes in (False, True)
)


def normal_divergence(mean, deviation, other_mean, other_deviation):
    ratio = (deviation / other_deviation) ** 2
    return jnp.sum(
        0.5 * (ratio - 1 - jnp.log(ratio) + ((mean - other_mean) / other_deviation) ** 2)
    )


# --- which steps have a closed form --------------------------------------------------------------------------


def run(names, slope, draw):
    """Draws these names, each given all before; a tuple of names is a scan of three steps."""

    def go(names, total, draw):
        for name in names:
            if isinstance(name, tuple):
                step = lambda total, _, draw, name=name: (go(name, total, draw), None)
                total, _ = draw.scan(step, total, length=3)
            else:
                mean = slope * jnp.sin(2 * total + ord(name))
                total = 0.8 * total + draw(name, programs.Normal(mean, 0.4 + slope))
        return total

    go(names, jnp.zeros(()), draw)


def ancestral(names, slope):
    return programs.Ancestral(functools.partial(run, names), jnp.array(slope))


@pytest.mark.parametrize(
    ("p", "q", "closed"),
    [
        ("abc", "abc", "abc"),
        ("ba", "ab", "b"),
        ("abc", "acb", "ab"),
        ("abc", "cab", "ab"),
        ((("a", "b"),), (("a", "b"),), "ab"),
        ((("a", "b"),), (("b", "a"),), "a"),
        ((("a", "b"),), (("a",), ("b",)), "b"),
        ((("a",), ("b",)), (("a", "b"),), "a"),
        (("a", ("b",)), (("b",), "a"), "a"),
        (("a", ("b",)), ("a", ("b",)), "ab"),
        ((("a", ("b", "c")),), (("a", ("b", "c")),), "abc"),
        ((("a", ("b", "c")),), ((("c", "b"), "a"),), "a"),
    ],
)
def test_a_step_has_a_closed_form_if_q_has_drawn_all_before_it(p, q, closed):
    """The mean under q stays, and a term without a closed form is the difference of log-densities."""
    p, q = ancestral(tuple(p), 0.7), ancestral(tuple(q), 0.5)

    def terms(key):
        z = q.sample(key)
        log_p, log_q = p.log_probs(z), q.log_probs(z)
        return p.log_ratios(z, q), {name: log_p[name] - log_q[name] for name in log_p}

    found, plain = jax.jit(jax.vmap(terms))(jax.random.split(KEYS[0], 20_000))
    alike = {name: bool(np.allclose(found[name], plain[name], atol=1e-9)) for name in found}
    assert {name for name, same in alike.items() if not same} == set(closed)
    for name in closed:
        gap = found[name] - plain[name]
        assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))
        assert found[name].std() < plain[name].std()


def test_a_mask_counts_as_in_the_model():
    """Steps of a scan that p leaves out have no divergence; a draw with entries left out is no closed form."""

    def walk(where, slope, draw):
        def step(z, _, draw):
            z = draw("z", programs.Normal(slope * z, 0.5))
            return z, None

        last, _ = draw.scan(step, jnp.ones(2), length=4, where=where)
        draw("end", programs.Normal(last, slope))

    inside = jnp.arange(4) < 3
    p, q = (programs.Ancestral(walk, inside, jnp.array(slope)) for slope in (0.9, 0.4))
    z = q.sample(KEYS[1])
    before = jnp.concatenate([jnp.ones((1, 2)), z["z"][:2]])
    expected = -normal_divergence(0.4 * before, jnp.array(0.5), 0.9 * before, jnp.array(0.5))
    found = p.log_ratios(z, q)
    np.testing.assert_allclose(found["z"], expected, rtol=1e-12)
    last = normal_divergence(z["z"][-1], jnp.full(2, 0.4), z["z"][-1], jnp.full(2, 0.9))
    np.testing.assert_allclose(found["end"], -last, rtol=1e-12)


class Wider(programs.Normal):
    """A density of its own."""

    def log_prob(self, z):
        return programs.Normal(self.mean, 2 * self.deviation).log_prob(z)


LOGITS = jnp.array([0.3, -1.0, 0.5])
ONE, OTHER = programs.Normal(jnp.zeros(3), 1.0), programs.Normal(jnp.ones(3), 2.0)


@pytest.mark.parametrize(
    ("q", "p", "where", "closed"),
    [
        (ONE, OTHER, True, True),
        (ONE, programs.Normal(jnp.ones(()), 2.0), True, True),
        (programs.Normal(jnp.zeros(()), 1.0), OTHER, True, False),
        (Wider(jnp.zeros(3), 1.0), OTHER, True, False),
        (ONE, Wider(jnp.zeros(3), 1.0), True, False),
        (ONE, OTHER, jnp.array(True), False),
        (elbax.Categorical(3)(LOGITS), elbax.Categorical(3)(2 * LOGITS), True, True),
        (Bernoulli()(LOGITS), Bernoulli()(2 * LOGITS), True, True),
        (elbax.DiagonalGaussian(1)((LOGITS[:1], jnp.ones(1))), ONE, True, False),
    ],
)
def test_which_distributions_have_a_closed_form(q, p, where, closed):
    """It is the mean of the difference, and does not depend on the draw; otherwise the term is the difference."""
    one = lambda distribution: programs.Ancestral(
        lambda distribution, draw: draw("z", distribution, where=where), distribution
    )
    p, q = one(p), one(q)
    z = jax.vmap(q.sample)(jax.random.split(KEYS[2], 5000))
    found = jax.vmap(lambda z: p.log_ratio(z, q))(z)
    plain = jax.vmap(lambda z: p.log_prob(z) - q.log_prob(z))(z)
    if not closed:
        np.testing.assert_allclose(found, plain, rtol=1e-10)
    else:
        np.testing.assert_allclose(found, found[0], rtol=1e-12)
        assert abs(found[0] - plain.mean()) < 5 * plain.std() / np.sqrt(5000)


def test_names_are_those_of_the_density():
    p, q = ancestral("ab", 0.7), ancestral("abc", 0.5)
    with pytest.raises(ValueError, match=r"\['c'\] are given, but"):
        p.log_ratio(q.sample(KEYS[0]), q)
    with pytest.raises(ValueError, match="draws 'c', but"):
        q.log_ratio(p.sample(KEYS[0]), p)


# --- in the bound ------------------------------------------------------------------------------------------------


def closed_form(params, weights, x):
    """The bound of a ladder: all means are linear in z2, so that two points have the mean over it."""
    top, scale = weights["top"] @ x, jnp.exp(weights["scale"])
    above, says = params["a"] ** -2, jnp.exp(weights["precision"])
    precision = above + says

    def at(z2):
        mean = (above * (params["A"] @ z2) + says * (weights["up"] @ x)) / precision
        below = normal_divergence(mean, precision**-0.5, params["A"] @ z2, params["a"])
        error = jnp.sum((x - params["B"] @ mean) ** 2) + jnp.sum(params["B"] ** 2 @ (1 / precision))
        log_noise = jnp.log(2 * jnp.pi * params["b"] ** 2)
        return -0.5 * (error / params["b"] ** 2 + len(x) * log_noise) - below

    first = normal_divergence(top, scale, jnp.zeros(1), jnp.ones(1))
    return 0.5 * (at(top + scale) + at(top - scale)) - first


def slopes(model, number):
    """The gradients of the bound of one datum in θ, which also moves q, and in φ, for many keys."""

    def one(params, weights, key):
        return model.elbo(params, X[0], climbing(model, params, weights)(X[0]), key)

    each = jax.vmap(jax.value_and_grad(one, (0, 1)), (None, None, 0))
    return jax.jit(each)(PARAMS, LADDER, jax.random.split(KEYS[3], number))


def test_the_bound_of_a_ladder_and_its_gradient_are_those_of_the_closed_form():
    """So in the mean; and the gradient in φ is less noisy."""
    exact = jax.value_and_grad(lambda *at: closed_form(*at, X[0]), (0, 1))(PARAMS, LADDER)
    stepwise, plain = (slopes(model, 4000) for model in (STEPWISE, PLAIN))
    for found in (stepwise, plain):
        for each, right in zip(*map(jax.tree.leaves, (found, exact)), strict=True):
            error = each.std(0) / np.sqrt(4000)
            np.testing.assert_array_less(abs(each.mean(0) - right), 5 * error + 1e-12)
    noise = lambda found: sum(leaf.var(0).sum() for leaf in jax.tree.leaves(found[1][1]))
    assert noise(stepwise) < 0.7 * noise(plain)


def test_one_layer_leaves_only_the_noise_of_the_reconstruction():
    """With an x that does not depend on z, the value and its gradient are the closed form at every draw."""

    def model(params, draw):
        draw("z", programs.Normal(jnp.zeros(2), jnp.exp(params)))
        draw("x", programs.Normal(jnp.zeros(3), 1.0))

    def infer(weights, x, draw):
        draw("z", programs.Normal(weights[:2] @ x, jnp.exp(weights[2, :2])))

    stepwise = elbax.Model(
        programs.log_joint(model), estimator=estimators.Reparameterized(2, stepwise=True)
    )

    def bound(params, weights):
        posterior = programs.encoder(infer, weights)
        return elbax.elbo(stepwise, params, posterior, X, key=KEYS[0])

    def expected(params, weights):
        def one(x):
            kl = normal_divergence(weights[:2] @ x, jnp.exp(weights[2, :2]), 0.0, jnp.exp(params))
            return programs.Normal(jnp.zeros(3), 1.0).log_prob(x) - kl

        return jnp.mean(jax.vmap(one)(X))

    at = jnp.array([0.1, -0.2]), 0.3 * jax.random.normal(KEYS[1], (3, 3))
    found, right = (jax.value_and_grad(f, (0, 1))(*at) for f in (bound, expected))
    for one, other in zip(*map(jax.tree.leaves, (found, right)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def test_a_prior_apart_has_the_same_terms():
    def prior(params, draw):
        z2 = draw("z2", programs.Normal(jnp.zeros(1), 1.0))
        draw("z1", programs.Normal(params["A"] @ z2, params["a"]))

    def likelihood(params, x, z):
        return programs.Normal(params["B"] @ z["z1"], params["b"]).log_prob(x)

    apart = elbax.Model(
        likelihood=likelihood, prior=programs.prior(prior), estimator=STEPWISE.estimator
    )
    terms = elbax.elbo_terms(apart, PARAMS, climbing(apart), X, key=KEYS[0])
    whole = elbax.elbo(STEPWISE, PARAMS, climbing(STEPWISE), X, key=KEYS[0])
    np.testing.assert_allclose(terms.elbo, whole, rtol=1e-12)
    np.testing.assert_allclose(terms.reconstruction - terms.kl_prior, whole, rtol=1e-12)
    q = climbing(apart)(X[0])
    each = apart.divergences(q, apart.latent_prior(PARAMS, X[0]), KEYS[0])
    total = apart.divergence(q, apart.latent_prior(PARAMS, X[0]), KEYS[0])
    np.testing.assert_allclose(sum(each.values()), total, rtol=1e-12)
    first = normal_divergence(LADDER["top"] @ X[0], jnp.exp(LADDER["scale"]), 0.0, 1.0)
    np.testing.assert_allclose(each["z2"], first, rtol=1e-12)
