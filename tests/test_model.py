"""A model from a plain function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import linear_gaussian_log_joint, plain_categorical, plain_gaussian
from oracles import linear_gaussian_evidence, log_sum, quadrature_evidence

import elbax


norm = jax.scipy.stats.norm


def test_evidence_by_enumeration():
    system = plain_categorical()
    table = [
        [float(system.model.log_joint(system.params, x, z)) for z in range(3)] for x in system.x
    ]
    ours = elbax.evidence(system.model, system.params, system.x)
    np.testing.assert_allclose(ours, log_sum(np.array(table)).mean(), rtol=1e-12)


def test_evidence_by_derivatives():
    system = plain_gaussian()
    system.model.verify(system.params, system.x)
    theirs = linear_gaussian_evidence(
        system.params["loadings"], np.exp(system.params["log_noise"]), system.x
    )
    ours = elbax.evidence(system.model, system.params, system.x)
    np.testing.assert_allclose(ours, theirs.mean(), rtol=1e-12)


def test_evidence_by_quadrature():
    """Poisson counts with a Gaussian log-rate have no closed form: the ELBO stays below quadrature."""

    def log_joint(params, x, z):
        log_rate = params + z[0]
        return norm.logpdf(z).sum() + x * log_rate - jnp.exp(log_rate) - jax.lax.lgamma(x + 1)

    model = elbax.Model(
        log_joint, elbax.Gaussian(1), estimator=elbax.estimators.Reparameterized(64)
    )
    x = jnp.array(3.0)
    truth = quadrature_evidence(log_joint, jnp.array(0.5), x)
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.array([0.4, -0.5])), model.latent)
    fit = elbax.GradientEStep(model, optax.adam(1e-2))
    state = fit.init(jnp.array(0.5), encoder, key=jax.random.key(0))
    state, info = jax.lax.scan(lambda s, _: fit(s, x[None]), state, length=500)
    bound = float(info.elbo[-200:].mean())
    assert truth - 0.02 < bound < truth + 0.005


def test_minibatches_estimate_the_full_gradient():
    """B of N rows, weight N / B: the mean over a partition is the full batch, prior included."""
    system = plain_categorical()
    full = elbax.elbo(
        system.model, system.params, elbax.Exact(system.model, system.params), system.x
    )
    parts = [
        elbax.elbo(
            system.model,
            system.params,
            elbax.Exact(system.model, system.params),
            elbax.Batch(rows, weight=len(system.x) / len(rows)),
        )
        for rows in jnp.split(system.x, 4)
    ]
    np.testing.assert_allclose(np.mean(parts), full, rtol=1e-12)


def test_terms_add_up():
    system = plain_gaussian()
    shifted = jax.tree.map(lambda leaf: leaf + 0.2, system.params)
    terms = elbax.elbo_terms(
        system.model, system.params, elbax.Exact(system.model, shifted), system.x
    )
    np.testing.assert_allclose(
        terms.elbo, terms.expected_log_joint + terms.entropy + terms.global_term, rtol=1e-12
    )
    np.testing.assert_allclose(
        terms.elbo, terms.reconstruction - terms.kl_prior + terms.global_term, rtol=1e-12
    )
    np.testing.assert_allclose(
        terms.elbo, terms.evidence - terms.kl_posterior + terms.global_term, rtol=1e-12
    )
    assert f"{float(terms.entropy):.6f}" in str(terms)
    assert terms.kl_posterior > 0
    assert terms.kl_prior > 0


def test_verify_refutes_what_is_not_quadratic():
    def log_joint(params, x, z):
        return norm.logpdf(z).sum() + norm.logpdf(x, params * jnp.tanh(z)).sum()

    model = elbax.Model(log_joint, elbax.Gaussian(1), conjugate=True)
    with pytest.raises(ValueError, match="does not lie in the span of the Gaussian family"):
        model.verify(jnp.array(2.0), jnp.array([[1.0], [2.0]]))


def test_verify_refutes_what_has_no_integral():
    model = elbax.Model(lambda params, x, z: x[0] + z @ z, elbax.Gaussian(2), conjugate=True)
    with pytest.raises(ValueError, match="no normalizable Gaussian conditional"):
        model.verify(jnp.array(1.0), jnp.ones((2, 1)))


def test_verify_refutes_correlated_latents_in_a_diagonal_family():
    model = elbax.Model(linear_gaussian_log_joint, elbax.DiagonalGaussian(2), conjugate=True)
    with pytest.raises(ValueError, match="DiagonalGaussian"):
        model.verify(plain_gaussian().params, plain_gaussian().x)


def test_verify_needs_a_claim():
    model = elbax.Model(linear_gaussian_log_joint, elbax.Gaussian(2))
    with pytest.raises(TypeError, match="got a model without conjugate=True"):
        model.verify(plain_gaussian().params, plain_gaussian().x)


def test_bayes_rule_is_refused_where_it_is_not_known():
    model = elbax.Model(linear_gaussian_log_joint, elbax.Gaussian(2))
    with pytest.raises(TypeError, match="Use Amortized"):
        elbax.evidence(model, plain_gaussian().params, plain_gaussian().x)


def test_closed_form_is_refused_where_there_is_none():
    system = plain_categorical()
    em = elbax.em(system.model)
    with pytest.raises(TypeError, match="Model has no closed-form M-step. Use GradientMStep"):
        em.init(system.params, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((linear_gaussian_log_joint, 3), TypeError, "latent must be a family"),
        (("density", elbax.Gaussian(1)), TypeError, "log_joint must be a function"),
        (
            (elbax.Network(lambda w, *a: w.sum(), jnp.ones(2)), elbax.Gaussian(1)),
            TypeError,
            "holds 1 arrays",
        ),
    ],
)
def test_bad_arguments(as_users_run, arguments, error, message):
    with pytest.raises(error, match=message):
        elbax.Model(*arguments)
