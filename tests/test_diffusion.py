"""Diffusion as a hierarchy whose q is fixed: Gaussian data and grey levels, whose bounds are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import elbax
from elbax import estimators, programs


KEYS = jax.random.split(jax.random.key(0), 4)

# The log of noise over signal rises linearly in time: x at time t is N(α x, σ²), α² + σ² = 1, σ²/α² = exp γ.
FIRST, LAST = -6.0, 4.0
SPREAD, X = 1.5, np.array([0.7])


def gamma(t):
    return FIRST + (LAST - FIRST) * t


def alpha(t):
    return jnp.sqrt(jax.nn.sigmoid(-gamma(t)))


def sigma(t):
    return jnp.sqrt(jax.nn.sigmoid(gamma(t)))


def towards(z, x, t, s):
    """q(z_s | z_t, x) of an earlier time s < t (Kingma et al. 2021, appendix A)."""
    kept = jnp.exp(gamma(s) - gamma(t))
    mean = alpha(s) * (kept * z / alpha(t) + (1 - kept) * x)
    return programs.Normal(mean, sigma(s) * jnp.sqrt(1 - kept))


def mean_given(log_spread, z, t):
    """E[x | z_t] of data N(0, spread²)."""
    variance = jnp.exp(2 * log_spread)
    return alpha(t) * variance / (alpha(t) ** 2 * variance + sigma(t) ** 2) * z


def last_step(z):
    """p(x | z_0)."""
    return programs.Normal(z / alpha(0.0), sigma(0.0) / alpha(0.0))


def hierarchy(num_steps):
    """p and q of a finite schedule: the same steps, with the datum guessed and with the datum known."""

    def descend(datum, z, draw):
        def step(z, times, draw):
            t, s = times
            return draw("z", towards(z, datum(z, t), t, s)), None

        grid = jnp.linspace(1.0, 0.0, num_steps + 1)
        return draw.scan(step, z, (grid[:-1], grid[1:]))[0]

    def prior(log_spread, draw):
        z = draw("last", programs.Normal(jnp.zeros(1), 1.0))
        return descend(functools.partial(mean_given, log_spread), z, draw)

    def generate(log_spread, draw):
        draw("x", last_step(prior(log_spread, draw)))

    def noise(_, x, draw):
        z = draw("last", programs.Normal(alpha(1.0) * x, sigma(1.0)))
        descend(lambda z, t: x, z, draw)

    return prior, generate, noise


LATENT = elbax.DiagonalGaussian(1)
FIXED = elbax.Amortized(elbax.Network(lambda _, x: jnp.zeros(2), ()), LATENT)


def one_time(rate, denoised=mean_given, reconstruct=True, num_points=3):
    """The bound at one time t of the datum (x, t), whose mean over times is that of all steps.

    Its latent is the noise, of the same law under q and under the prior. Quadrature is exact, as the error of a
    linear denoiser is quadratic in the noise.
    """

    def likelihood(params, datum, noise):
        x, t = datum
        z = alpha(t) * x + sigma(t) * noise
        error = (x - denoised(params, z, t)) * alpha(t) / sigma(t)
        diffusion = rate * jnp.sum(error**2)
        last = programs.Normal(alpha(1.0) * x, sigma(1.0))
        prior = 0.5 * (last.mean**2 + last.deviation**2 - 1) - jnp.log(last.deviation)
        ratio = sigma(0.0) / alpha(0.0)
        first = programs.Normal(x, ratio).log_prob(x + ratio * noise) if reconstruct else 0.0
        return first - prior.sum() - diffusion

    return elbax.Model(
        likelihood=likelihood,
        prior=lambda params, datum: (jnp.zeros(1), jnp.ones(1)),
        latent=LATENT,
        estimator=estimators.Quadrature(num_points),
    )


def rate_of(num_steps):
    """Half of T (SNR_s / SNR_t − 1), for which the error is measured in units of the noise."""
    return 0.5 * num_steps * np.expm1((LAST - FIRST) / num_steps)


CONTINUOUS = 0.5 * (LAST - FIRST)


def at_steps(x, num_steps):
    """A row for each of the T times."""
    times = jnp.linspace(0.0, 1.0, num_steps + 1)[1:]
    return jnp.tile(x, (num_steps, 1)), times


def at_all_times(x):
    """Gauss–Legendre points in time; their weights are those of the rows."""
    points, weights = np.polynomial.legendre.leggauss(60)
    return elbax.Batch((jnp.tile(x, (60, 1)), jnp.asarray((points + 1) / 2)), weight=weights)


def by_matrices(x, num_steps):
    """E_q[log p(x, z) − log q(z | x)] as a divergence of two Gaussians in T + 1 dimensions, and the likelihood."""
    grid = np.linspace(1, 0, num_steps + 1)
    kept = np.exp(gamma(grid[1:]) - gamma(grid[:-1]))
    a, s = np.asarray(alpha(grid)), np.asarray(sigma(grid))

    def chain(mean, deviation, gains, offset):
        """The mean and the covariance of z_T, …, z_0 where each is linear in the one before."""
        root, means = np.zeros((num_steps + 1, num_steps + 1)), [mean]
        root[0, 0] = deviation
        for i, (gain, known) in enumerate(zip(gains, offset), 1):
            root[i] = gain * root[i - 1]
            root[i, i] = s[i] * np.sqrt(1 - kept[i - 1])
            means.append(gain * means[-1] + known)
        return np.array(means), root @ root.T

    forward = a[1:] * kept / a[:-1]
    guessed = a[:-1] * SPREAD**2 / (a[:-1] ** 2 * SPREAD**2 + s[:-1] ** 2)
    mean_q, q = chain(a[0] * x, s[0], forward, a[1:] * (1 - kept) * x)
    mean_p, p = chain(0.0, 1.0, forward + a[1:] * (1 - kept) * guessed, np.zeros(num_steps))
    away, inverse = mean_p - mean_q, np.linalg.inv(p)
    divergence = np.trace(inverse @ q) + away @ inverse @ away - num_steps - 1
    divergence += np.linalg.slogdet(p)[1] - np.linalg.slogdet(q)[1]
    ratio = s[-1] / a[-1]
    return scipy.stats.norm.logpdf(0, 0, ratio) - 0.5 - 0.5 * divergence


@pytest.mark.parametrize("num_steps", [1, 4, 25])
def test_one_time_a_row_is_the_bound_of_all_steps(num_steps):
    model = one_time(rate_of(num_steps))
    found = elbax.elbo(model, jnp.log(SPREAD), FIXED, at_steps(X, num_steps))
    np.testing.assert_allclose(found, by_matrices(X[0], num_steps), rtol=1e-9)


def test_two_programs_have_the_bound_of_the_hierarchy():
    """q is p with the datum known, has nothing to train, and the reconstruction stands apart."""
    num_steps, number = 40, 2000
    prior, generate, noise = hierarchy(num_steps)
    posterior = programs.encoder(noise, ())
    model = elbax.Model(programs.log_joint(generate))
    each = jax.vmap(lambda key: model.elbo(jnp.log(SPREAD), X, posterior(X), key))
    found = jax.jit(each)(jax.random.split(KEYS[0], number))
    error = np.std(found) / np.sqrt(number)
    assert error < 0.04
    assert abs(np.mean(found) - by_matrices(X[0], num_steps)) < 4 * error

    def likelihood(log_spread, x, z):
        return last_step(z["z"][-1]).log_prob(x)

    apart = elbax.Model(likelihood=likelihood, prior=programs.prior(prior))
    rows = jnp.tile(X, (3, 1))
    terms = elbax.elbo_terms(apart, jnp.log(SPREAD), posterior, rows, key=KEYS[1])
    whole = elbax.elbo(model, jnp.log(SPREAD), posterior, rows, key=KEYS[1])
    np.testing.assert_allclose(terms.reconstruction - terms.kl_prior, whole, rtol=1e-10)


def test_more_steps_raise_the_bound_to_that_of_continuous_time():
    bound = lambda rate, rows: float(elbax.elbo(one_time(rate), jnp.log(SPREAD), FIXED, rows))
    limit = bound(CONTINUOUS, at_all_times(X))
    gaps = np.array([limit - bound(rate_of(n), at_steps(X, n)) for n in (64, 256, 1024)])
    assert (gaps > 0).all()
    # The gap is of the order 1 / T.
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 4, rtol=0.1)


def test_the_exact_denoiser_loses_only_at_the_two_ends():
    """E_x[ELBO] = E log p(x) − KL(q(z_1) ‖ N(0, 1)) − E KL(q(x | z_0) ‖ p(x | z_0)).

    The bound is linear in x², so that its mean is its value at x² = spread².
    """
    rows = at_all_times(np.array([SPREAD]))
    found = elbax.elbo(one_time(CONTINUOUS), jnp.log(SPREAD), FIXED, rows)
    evidence = -0.5 * np.log(2 * np.pi * np.e * SPREAD**2)
    last = float(alpha(1.0) ** 2 * SPREAD**2 + sigma(1.0) ** 2)
    prior = 0.5 * (last - 1 - np.log(last))
    ratio = np.exp(FIRST)  # the variance of p(x | z_0)
    inside = 1 / (1 / ratio + 1 / SPREAD**2)
    # The two means differ by a multiple of z_0 / α_0, whose variance is that of the data and the noise.
    away = (1 - inside / ratio) ** 2 * (SPREAD**2 + ratio)
    first = 0.5 * (inside / ratio - 1 - np.log(inside / ratio) + away / ratio)
    np.testing.assert_allclose(found, evidence - prior - first, rtol=1e-9)


def test_the_code_length_of_grey_levels_is_their_entropy():
    """With the exact score the integral of the error over the signal-to-noise ratio is the entropy (Guo et al.
    2005), up to what the two ends leave."""
    levels, shares = np.array([-1.0, -0.2, 1.0]), np.array([0.5, 0.3, 0.2])

    def mean_of_levels(_, z, t):
        own = -0.5 * ((z - alpha(t) * levels) / sigma(t)) ** 2
        return jax.nn.softmax(jnp.log(shares) + own) @ levels

    model = one_time(CONTINUOUS, mean_of_levels, reconstruct=False, num_points=60)
    bounds = [elbax.elbo(model, (), FIXED, at_all_times(np.array([x]))) for x in levels]
    entropy = -shares @ np.log(shares)
    found = -shares @ np.array(bounds)
    last = (
        alpha(1.0) ** 2 * shares @ levels**2
    )  # all of KL(q(z_1 | x) ‖ N(0, 1)), a bound of what it costs
    assert entropy < found < entropy + 0.5 * last


def test_the_spread_of_the_data_is_learned_under_a_fixed_q():
    x = np.array([[0.5], [-1.1], [2.0]])
    rows = jnp.repeat(x, 4, 0), jnp.tile(jnp.linspace(0.25, 1.0, 4), 3)
    step = elbax.GradientMStep(
        one_time(rate_of(4)), optax.adam(optax.cosine_decay_schedule(0.1, 300))
    )
    state = step.init(jnp.zeros(()), FIXED, key=KEYS[2])
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, rows), s, length=300)[0])
    state = run(state)
    np.testing.assert_allclose(np.exp(2 * state.params), (x**2).mean(), rtol=1e-6)


def test_times_spread_over_the_rows_are_less_noisy():
    """t_i = u + i / B modulo 1 (Kingma et al. 2021) beside independent times."""
    model, rows = one_time(CONTINUOUS), 16

    def bound(times):
        return elbax.elbo(model, jnp.log(SPREAD), FIXED, (jnp.tile(X, (rows, 1)), times))

    u = jax.random.uniform(KEYS[3], (200, rows))
    spread = jax.jit(jax.vmap(bound))((u[:, :1] + jnp.arange(16.0) / 16) % 1)
    apart = jax.jit(jax.vmap(bound))(u)
    limit = elbax.elbo(model, jnp.log(SPREAD), FIXED, at_all_times(X))
    for found in (spread, apart):
        assert abs(found.mean() - limit) < 4 * found.std() / np.sqrt(200)
    assert spread.std() < 0.2 * apart.std()


def test_ancestral_draws_are_distributed_as_the_data():
    _, generate, _ = hierarchy(60)
    draw = lambda key: programs.Ancestral(generate, jnp.log(SPREAD)).sample(key)["x"]
    x = jax.jit(jax.vmap(draw))(jax.random.split(KEYS[0], 5000))
    assert scipy.stats.kstest(np.ravel(x), "norm", (0, SPREAD)).pvalue > 1e-3
