"""Priors that are learned: the closed-form evidence of one component and models of other priors as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import betaln, gammaln

import elbax
from elbax import components, priors


def fitted(model, learned, x, steps=40):
    bayesian = elbax.Bayesian(model, learned=learned)
    em = elbax.em(bayesian)
    state = em.init(bayesian.init(jax.random.key(0), x), key=jax.random.key(1))
    state, info = jax.jit(
        lambda state, x: jax.lax.scan(lambda s, _: em(s, x), state, length=steps)
    )(state, x)
    return bayesian, state.params, info.elbo


def poisson(x):
    def evidence(shape, rate):
        after, exposure = shape + x.sum(0), rate + len(x)
        each = gammaln(after) - gammaln(shape) + shape * np.log(rate) - after * np.log(exposure)
        return np.sum(each) - np.sum(gammaln(x + 1))

    return components.Poisson(prior=priors.Gamma(1.0, 1.0)), "log_rates", evidence


def bernoulli(x):
    def evidence(a, b):
        on = x.sum(0)
        return np.sum(betaln(a + on, b + len(x) - on) - betaln(a, b))

    return components.Bernoulli(prior=priors.Beta(1.0, 1.0)), "logits", evidence


def categorical(x):
    def evidence(alpha):
        counts = np.stack([np.bincount(column, minlength=3) for column in x.T.astype(int)])
        after = alpha + counts
        each = gammaln(3 * alpha) - gammaln(3 * alpha + len(x))
        return np.sum(each + np.sum(gammaln(after) - gammaln(alpha), -1))

    return components.Categorical(3, prior=priors.Dirichlet(1.0)), "logits", evidence


def data(name):
    """Twelve columns, each with a parameter of its own."""
    rng = np.random.default_rng(0)
    if name == "poisson":
        return rng.poisson(rng.gamma(3.0, 2.0, 12), (20, 12)).astype(float)
    if name == "bernoulli":
        return (rng.random((20, 12)) < rng.beta(2.0, 4.0, 12)).astype(float)
    shares = rng.dirichlet([2.0, 2.0, 2.0], 12)
    return np.stack([rng.choice(3, 20, p=p) for p in shares], -1)


@pytest.mark.parametrize("name", ["poisson", "bernoulli", "categorical"])
def test_one_component_has_the_prior_of_the_highest_evidence(name):
    x = data(name)
    component, block, evidence = globals()[name](x)
    model = elbax.Mixture(component, 1, prior=priors.Dirichlet(1.0))
    _, params, elbo = fitted(model, f"components/{block}", jnp.asarray(x), steps=3)
    learned = params["log_priors"][f"components/{block}"]
    number = len(component.prior.learnable)
    best = scipy.optimize.minimize(
        lambda logs: -evidence(*np.exp(logs)), np.zeros(number), tol=1e-10
    )
    found = np.array([learned[one] for one in component.prior.learnable])
    np.testing.assert_allclose(found, best.x, atol=1e-5)
    np.testing.assert_allclose(len(x) * elbo[-1], -best.fun, rtol=1e-10)


def sticks():
    rng = np.random.default_rng(1)
    x = rng.poisson(np.repeat([2.0, 30.0, 90.0], [60, 30, 10])[:, None], (100, 2)).astype(float)
    component = components.Poisson(prior=priors.Gamma(1.0, 0.1))
    make = lambda concentration: elbax.Mixture(
        component, 6, prior=priors.StickBreaking(concentration)
    )
    return make, "logits", "concentration", jnp.asarray(x)


def regression():
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(80, 4))
    labels = rng.random(80) < 1 / (1 + np.exp(-inputs @ [1.5, -1.0, 0.7, 0.0]))
    make = lambda deviation: elbax.LogisticRegression(priors.Normal(deviation))
    return make, "coefficients", "deviation", (jnp.asarray(inputs), jnp.asarray(labels))


def topics():
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(3, 0.5), 30) @ rng.dirichlet(np.full(8, 0.2), 3)
    counts = np.stack([rng.multinomial(30, p) for p in shares]).astype(float)
    words = np.broadcast_to(np.arange(8), counts.shape)
    make = lambda concentration: elbax.LatentDirichletAllocation(
        3, 8, prior=priors.Dirichlet(concentration)
    )
    batch = {"words": jnp.asarray(words), "counts": jnp.asarray(counts)}
    return make, "topics", "concentration", batch


@pytest.mark.parametrize("setting", [sticks, regression])
def test_no_prior_nearby_has_a_higher_bound(setting):
    """The bounds at q of models with fixed priors, a little to either side, are lower by second order."""
    make, block, number, x = setting()
    _, params, elbo = fitted(make(0.5), block, x, steps=300)
    assert np.all(np.diff(elbo) > -1e-12)
    log = float(params["log_priors"][block][number])
    q = params["belief"]

    def bound(log):
        model = elbax.Bayesian(make(float(np.exp(log))))
        return elbax.elbo(model, q, elbax.Exact(model, q), x)

    below, at, above = (float(bound(log + step)) for step in (-0.01, 0.0, 0.01))
    assert abs(log - np.log(0.5)) > 0.1
    assert max(below, above) < at
    assert abs(above - below) < 0.01 * (2 * at - above - below)


def test_a_topic_s_words_have_a_concentration():
    make, block, number, batch = topics()
    model = elbax.Bayesian(make(1.0), learned=block)
    params = model.init(jax.random.key(0), batch)
    table = elbax.posteriors.MeanField.init(model, params, batch)
    vb = elbax.Chain(elbax.MeanFieldEStep(model, 5), elbax.ClosedFormMStep(model))
    state = vb.init(params, table, key=jax.random.key(1))
    run = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: vb(s, x), state, length=100))
    state, info = run(state, batch)
    assert np.all(np.diff(info.elbo) > -1e-12)
    assert 0.05 < np.exp(state.params["log_priors"][block][number]) < 0.6


def test_numbers_that_are_frozen_stay():
    x = jnp.asarray(data("poisson"))
    component, _, _ = poisson(x)
    model = elbax.Bayesian(
        elbax.Mixture(component, 1, prior=priors.Dirichlet(1.0)), learned="components/log_rates"
    )
    flags = {"components/log_rates": {"shape": False, "rate": True}}
    em = elbax.em(model, free={"belief": True, "log_priors": flags})
    state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
    state, _ = em(state, x)
    numbers = state.params["log_priors"]["components/log_rates"]
    assert numbers["shape"] == 0 and numbers["rate"] != 0


def test_names_are_those_of_elbo_terms():
    component, _, _ = poisson(data("poisson"))
    model = elbax.Mixture(component, 2, prior=priors.Dirichlet(1.0))
    with pytest.raises(
        ValueError, match=r"\['components/log_rates', 'logits'\], got \['weights'\]"
    ):
        elbax.Bayesian(model, learned=["weights"])
    learned = elbax.Bayesian(model, learned=["logits", "components/log_rates"])
    x = jnp.asarray(data("poisson"))
    params = learned.init(jax.random.key(0), x)
    terms = elbax.elbo_terms(learned, params, elbax.Exact(learned, params), x)
    assert set(params["log_priors"]) == set(terms.global_terms)
