"""Draws, importance weights, tables and refined encoders: what they say of q, by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import encoder, find, SYSTEMS
from jax.flatten_util import ravel_pytree

import elbax
from elbax._reference import split_coordinates


MIXTURE = find("mixture-full-auto:exact/closed").system
FACTORS = next(s for s in SYSTEMS if s.name == "factors-diagonal")
CHAIN = find("hidden-markov:exact/closed").system


def exact(system):
    return elbax.Exact(system.model, system.params)


@pytest.mark.parametrize(
    "system",
    [MIXTURE, *(pytest.param(s, marks=pytest.mark.slow) for s in (FACTORS, CHAIN))],
    ids=lambda s: s.name,
)
def test_draws_of_the_exact_posterior_measure_the_evidence(system):
    """log p(x, z) − log p(z | x) is log p(x) at every z, and means of many draws are the exact ones."""
    posterior = elbax.posteriors.MonteCarlo(exact(system), 2)
    bound = elbax.elbo(system.model, system.params, posterior, system.x, key=jax.random.key(0))
    global_term = jnp.asarray(system.model.log_prior(system.params)) / system.num_data
    log_evidence = elbax.evidence(system.model, system.params, system.x)
    np.testing.assert_allclose(bound, log_evidence + global_term, rtol=1e-10)

    x = jax.tree.map(lambda leaf: leaf[0], system.x)

    @jax.jit
    def means(x, key):
        return elbax.posteriors.MonteCarlo(exact(system), 20_000)(x, key=key).mean(), exact(system)(
            x
        ).mean()

    ours, theirs = means(x, jax.random.key(1))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)


@pytest.mark.slow
def test_importance_weighted_bound_by_hand():
    """log mean p(x, z)/r(z), and its gradient in the proposal is that of the plain formula."""
    model, params, x = FACTORS.model, FACTORS.params, FACTORS.x[0]
    proposal = encoder(FACTORS, 4)
    key = jax.random.key(3)

    def ours(proposal):
        q = elbax.posteriors.Importance(proposal, exact(FACTORS), 5)(x, key=key)
        prepared = model.prepare(model.natural(params))
        return model.elbo(prepared, x, q, key)

    def by_hand(proposal):
        key_q, key_draws = jax.random.split(key)
        r = proposal(x, key=key_q)
        z = jax.vmap(r.sample)(jax.random.split(key_draws, 5))
        log_weights = jax.vmap(lambda z: model.log_joint(params, x, z) - r.log_prob(z))(z)
        return jax.nn.logsumexp(log_weights) - jnp.log(5.0)

    found, expected = (
        eqx.filter_jit(eqx.filter_value_and_grad(f))(proposal) for f in (ours, by_hand)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_more_draws_weigh_up_a_poor_proposal():
    """Self-normalized means approach the exact posterior's."""
    x = FACTORS.x[0]
    theirs = exact(FACTORS)(x).mean()[0]
    proposal = encoder(FACTORS, 4)
    errors = []
    for number in (10, 1000, 100_000):
        q = elbax.posteriors.Importance(proposal, exact(FACTORS), number)
        many = jax.jit(jax.vmap(lambda key, q=q: q(x, key=key).mean()[0]))(
            jax.random.split(jax.random.key(5), 10)
        )
        errors.append(float(jnp.sqrt(jnp.mean((many - theirs) ** 2))))
    assert errors[2] < errors[1] / 3 < errors[0] / 9


@pytest.mark.slow
def test_monte_carlo_em_learns_an_unknown_conditional():
    """A probit observation of a Gaussian latent: no conjugacy, so draws of a proposal are weighted."""

    def log_joint(params, x, z):
        norm = jax.scipy.stats.norm
        return (
            norm.logpdf(z[0])
            + norm.logcdf((2 * x - 1) * (params["slope"] * z[0] + params["bias"])).sum()
        )

    model = elbax.Model(log_joint, elbax.DiagonalGaussian(1))
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 1))
    x = jnp.asarray(rng.random((400, 3)) < scipy_cdf(z * np.array([1.5, 1.0, -2.0]) + 0.3), float)
    params = {"slope": jnp.array([0.5, 0.5, -0.5]), "bias": jnp.zeros(3)}
    prior = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), model.latent)
    update = elbax.Chain(elbax.MonteCarloEStep(model), elbax.GradientMStep(model, optax.adam(0.05)))
    posterior = elbax.posteriors.Importance(prior, elbax.Exact(model, params), 50)
    state = update.init(params, posterior, key=jax.random.key(0))
    state, _ = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=150))(
        state, x
    )

    points, weights = np.polynomial.hermite_e.hermegauss(40)

    @jax.jit
    def quadrature(params, x):
        """Over z."""
        logits = params["slope"] * points[:, None] + params["bias"]
        each = jax.scipy.stats.norm.logcdf((2 * x[:, None] - 1) * logits).sum(-1)
        return jnp.mean(jax.nn.logsumexp(each, b=jnp.asarray(weights / weights.sum()), axis=1))

    log_likelihood = lambda params: float(quadrature(params, x))
    best = scipy_best(log_likelihood, params)
    gained = log_likelihood(state.params) - log_likelihood(params)
    assert gained > 0.95 * (best - log_likelihood(params))


def scipy_cdf(x):
    import scipy.stats

    return scipy.stats.norm.cdf(x)


def scipy_best(function, params):
    import scipy.optimize

    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    return -scipy.optimize.minimize(
        lambda flat: -function(unflatten(jnp.asarray(flat))), flat, method="Powell"
    ).fun


def test_steps_through_steps():
    """The encoder's gradient goes through the local steps: against finite differences."""
    system = MIXTURE
    weights = encoder(system, 3)
    arrays, rest = eqx.partition(weights, eqx.is_inexact_array)
    flat, unflatten = jax.flatten_util.ravel_pytree(arrays)

    @jax.jit
    def bound(flat):
        start = eqx.combine(unflatten(flat), rest)
        posterior = elbax.posteriors.SemiAmortized(start, exact(system), optax.sgd(0.4), 3)
        return elbax.elbo(system.model, system.params, posterior, system.x)

    slope = jax.jit(jax.grad(bound))(flat)
    for i in (0, 7, len(flat) - 1):
        step = jnp.zeros_like(flat).at[i].set(1e-5)
        found = (bound(flat + step) - bound(flat - step)) / 2e-5
        np.testing.assert_allclose(slope[i], found, rtol=1e-5, atol=1e-9)


def test_local_steps_close_the_amortization_gap():
    """More steps from the same encoder, a higher bound, up to the evidence."""
    system = MIXTURE
    bounds = []
    for number in (1, 8, 1024):
        posterior = elbax.posteriors.SemiAmortized(
            encoder(system, 3), exact(system), optax.sgd(1.0), number
        )
        bounds.append(float(elbax.elbo(system.model, system.params, posterior, system.x)))
    # The evidence plus the penalty of the floor.
    highest = float(elbax.elbo(system.model, system.params, exact(system), system.x))
    assert bounds[0] < bounds[1] < bounds[2] <= highest + 1e-12
    # Plain steps crawl where a choice is sure: the gap falls as one over their number.
    np.testing.assert_allclose(bounds[2], highest, atol=2e-3)


@pytest.mark.slow
def test_a_snapshot_is_kept_up_to_date_and_not_trained():
    system = MIXTURE
    posterior = elbax.posteriors.SemiAmortized(encoder(system, 3), exact(system), optax.sgd(0.4), 2)
    step = elbax.GradientEStep(system.model, optax.adam(0.1))
    state = step.init(system.params, posterior, key=jax.random.key(0))
    elsewhere = jax.tree.map(lambda leaf: leaf + 0.1, system.params)
    moved, _ = step(state.replace(params=elsewhere), system.x)
    for new, given in zip(*map(jax.tree.leaves, (moved.posterior.target.params, elsewhere))):
        np.testing.assert_array_equal(new, given)
    before, after = (
        jax.tree.leaves(eqx.filter(p.encoder, eqx.is_inexact_array))
        for p in (posterior, moved.posterior)
    )
    assert any(bool(jnp.any(a != b)) for a, b in zip(before, after))


def test_local_steps_on_minibatches():
    """Rows in the batch climb, each by itself; the others stay, to the bit."""
    system = MIXTURE
    step = elbax.LocalGradientEStep(system.model, optax.adam(0.3), num_steps=40)
    table = elbax.posteriors.Local(jnp.zeros((system.num_data, 3)), system.model.latent)
    state = step.init(system.params, table, key=jax.random.key(0))
    rows = jnp.array([5, 2, 11])
    moved, _ = step(state, elbax.Batch(system.x[rows], index=rows))
    rest = np.setdiff1d(np.arange(system.num_data), rows)
    np.testing.assert_array_equal(moved.posterior.table[rest], 0)
    for row in rows:
        ours = moved.posterior(system.x[row], index=row).mean()
        np.testing.assert_allclose(ours, exact(system)(system.x[row]).mean(), atol=2e-3)


def test_a_place_beyond_the_table_is_nan():
    table = elbax.posteriors.Local(jnp.zeros((3, 2)), elbax.Categorical(2))
    assert bool(jnp.all(jnp.isnan(table(None, index=3).mean())))


QUADRATIC = next(s for s in SYSTEMS if s.name == "plain-gaussian")


def test_laplace_is_bayes_rule_where_the_log_joint_is_quadratic():
    x = QUADRATIC.x[0]
    ours = elbax.posteriors.Laplace(exact(QUADRATIC))(x).natural
    for a, b in zip(ours, exact(QUADRATIC)(x).natural):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def logistic(params, x, z):
    """Answers to three questions by one trait, z twice as wide as it looks from them."""
    norm = jax.scipy.stats.norm
    logits = params["slope"] @ z - params["level"]
    return norm.logpdf(z).sum() + (x * logits - jax.nn.softplus(logits)).sum()


def test_laplace_stands_on_the_mode():
    """Flat there, with the curvature as precision; from far away too, where Newton's step alone would
    overshoot."""
    model = elbax.Model(logistic, elbax.Gaussian(2))
    params = {
        "slope": 4 * jnp.array([[1.0, 0.2], [-0.5, 1.0], [2.0, 1.0]]),
        "level": jnp.zeros(3) - 9,
    }
    x = jnp.array([1.0, 0.0, 1.0])
    q = elbax.posteriors.Laplace(elbax.Exact(model, params))(x)
    log_joint = lambda z: logistic(params, x, z)
    mode = q.mode()
    np.testing.assert_allclose(jax.jit(jax.grad(log_joint))(mode), 0, atol=1e-9)
    np.testing.assert_allclose(q.natural[1], -jax.jit(jax.hessian(log_joint))(mode), rtol=1e-8)


def metropolis(key, z, log_density):
    key_move, key_accept = jax.random.split(key)
    other = z + 0.8 * jax.random.normal(key_move, z.shape, z.dtype)
    gain = log_density(other) - log_density(z)
    return jnp.where(jnp.log(jax.random.uniform(key_accept)) < gain, other, z)


@pytest.mark.slow
def test_chains_reach_the_exact_posterior():
    """And keep to it when their row is not in the batch: to the bit."""
    model, params, x = FACTORS.model, FACTORS.params, FACTORS.x
    step = elbax.MarkovChainMonteCarloEStep(model, metropolis, num_steps=300)
    chains = elbax.posteriors.PersistentChains(jnp.zeros((len(x), 400, 2)), model.latent)
    state = step.init(params, chains, key=jax.random.key(0))
    rows = jnp.array([4, 9])
    moved, _ = step(state, elbax.Batch(x[rows], index=rows))
    for row in rows:
        ours, theirs = moved.posterior(x[row], index=row).mean(), exact(FACTORS)(x[row]).mean()
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, atol=0.25)
    rest = np.setdiff1d(np.arange(len(x)), rows)
    np.testing.assert_array_equal(moved.posterior.table[rest], 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_chains_of_whole_numbers(dtype):
    """The mean of log p(x, z) where they stand, in the precision of the data."""
    model = MIXTURE.model
    x, params = jax.tree.map(lambda leaf: leaf.astype(dtype), (MIXTURE.x, MIXTURE.params))
    table = jnp.arange(2 * len(x)).reshape(len(x), 2) % 3
    bound = elbax.elbo(model, params, elbax.posteriors.PersistentChains(table, model.latent), x)
    each = jax.vmap(lambda x, zs: jax.vmap(lambda z: model.log_joint(params, x, z))(zs))(x, table)
    expected = jnp.mean(each) + jnp.asarray(model.log_prior(params)) / len(x)
    assert bound.dtype == dtype
    np.testing.assert_allclose(bound, expected, rtol=1e-5 if dtype == jnp.float32 else 1e-12)


GRAPH = find("bayesian-network:exact/closed").system
GRAMMAR = find("grammar:exact/closed").system


@pytest.mark.slow
@pytest.mark.parametrize("system", [CHAIN, GRAMMAR, GRAPH], ids=lambda s: s.name)
def test_draws_of_structures_have_derivatives(system):
    """Their mean is the slope of the evidence (and prior), as for any draws."""
    trained, rest = split_coordinates(system.params)

    def bound(trained, key):
        params = eqx.combine(trained, rest)
        draws = elbax.posteriors.MonteCarlo(elbax.Exact(system.model, params), 60)
        return elbax.elbo(system.model, params, draws, system.x, key=key)

    def exact(trained):
        params = eqx.combine(trained, rest)
        return elbax.elbo(system.model, params, elbax.Exact(system.model, params), system.x)

    flat = lambda tree: ravel_pytree(tree)[0]
    keys = jax.random.split(jax.random.key(0), 16)
    drawn = jax.lax.map(lambda key: flat(jax.grad(bound)(trained, key)), keys)
    error = jnp.std(drawn, 0) / 4
    gap = jnp.abs(jnp.mean(drawn, 0) - flat(jax.jit(jax.grad(exact))(trained)))
    assert jnp.all(gap <= 5 * error + 1e-9), (gap, error)


@pytest.mark.slow
def test_stochastic_approximation_em():
    """One chain a row and remembered statistics: at least 95 % of EM's gain."""
    model, params, x = FACTORS.model, FACTORS.params, FACTORS.x

    def end(update, posterior, length):
        state = update.init(params, posterior, key=jax.random.key(0))
        run = lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=length)
        return elbax.evidence(model, jax.jit(run)(state, x)[0].params, x)

    start = elbax.evidence(model, params, x)
    em = elbax.em(model)
    best = end(em, exact(FACTORS), 500)
    saem = elbax.Chain(
        elbax.MarkovChainMonteCarloEStep(model, metropolis, num_steps=10),
        elbax.OnlineMStep(model, lambda t: (t + 1.0) ** -0.8),
    )
    found = end(
        saem, elbax.posteriors.PersistentChains(jnp.zeros((len(x), 1, 2)), model.latent), 3000
    )
    assert found - start > 0.95 * (best - start)


@pytest.mark.slow
def test_dreams_teach_bayes_rule():
    """An affine encoder of a linear-Gaussian model: asleep it learns the exact posterior, whatever the data."""
    model = elbax.Model(
        linear_gaussian, elbax.DiagonalGaussian(1), estimator=elbax.estimators.Quadrature(20)
    )
    slope = jnp.array([1.0, -0.5])

    def sample(slope, key):
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (1,))
        return slope * z + jax.random.normal(key_x, (2,)), z

    affine = eqx.nn.MLP(2, 2, 1, 0, key=jax.random.key(0), dtype=float)
    encoder = elbax.Amortized(affine, model.latent)
    sleep = elbax.SleepEStep(
        model, optax.adam(optax.cosine_decay_schedule(0.05, 1500)), sample, 400
    )
    state = sleep.init(slope, encoder, key=jax.random.key(1))
    x = jnp.array([[1.0, -1.0], [0.3, 2.0]])
    state, _ = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: sleep(s, x), s, length=1500))(
        state, x
    )
    precision = 1 + slope @ slope
    for row in x:
        q = state.posterior(row)
        np.testing.assert_allclose(q.mode(), slope @ row / precision, atol=0.03)
        np.testing.assert_allclose(q.natural[1], precision, rtol=0.05)
    np.testing.assert_array_equal(state.params, slope)


def linear_gaussian(slope, x, z):
    norm = jax.scipy.stats.norm
    return norm.logpdf(z).sum() + norm.logpdf(x, slope * z).sum()


def test_an_exact_posterior_inside_of_another_is_not_the_bounds_own():
    """A posterior may ask Bayes' rule at another x than the bound is of: the evidence is then no bound."""
    x = elbax.datasets.old_faithful().astype(float)
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), x)

    class Shifted(eqx.Module):
        exact: elbax.Exact

        def __call__(self, x, *, key=None):
            return self.exact(x + jnp.array([3.0, 30.0]))

    same = elbax.elbo(model, params, Shifted(elbax.Exact(model, params)), x)
    copy = jax.tree.map(lambda leaf: leaf + 0, params)
    other = elbax.elbo(model, params, Shifted(elbax.Exact(model, copy)), x)
    np.testing.assert_allclose(same, other, rtol=1e-12)
    assert same < elbax.evidence(model, params, x) - 1


@pytest.mark.slow
def test_sleep_keeps_a_snapshot_up_to_date():
    norm = jax.scipy.stats.norm

    def log_joint(slope, x, z):
        return norm.logpdf(z).sum() + norm.logpdf(x, slope * z).sum()

    def sample(slope, key):
        z, noise = jax.random.normal(key, (2, 1))
        return slope * z + noise, z

    model, slope = elbax.Model(log_joint, elbax.DiagonalGaussian(1)), jnp.array(1.0)
    network = eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(0))
    posterior = elbax.posteriors.SemiAmortized(
        elbax.Amortized(network, model.latent), elbax.Exact(model, slope), optax.sgd(0.1), 3
    )
    sleep = elbax.SleepEStep(model, optax.adam(1e-2), sample)
    chain = elbax.Chain(sleep, elbax.GradientMStep(model, optax.sgd(0.1)))
    x = jnp.array([[0.3], [-2.0]])
    first = chain.init(slope, posterior, key=jax.random.key(1))
    state, _ = chain(chain(first, x)[0], x)
    assert state.posterior.target.params == chain(first, x)[0].params != slope
    assert chain.settle(state, x).posterior.target.params == state.params


def test_laplace_takes_as_many_steps_as_it_is_told():
    step, params = elbax.LaplaceEStep(QUADRATIC.model), QUADRATIC.params
    posterior = elbax.posteriors.Laplace(exact(QUADRATIC), num_steps=3)
    state, _ = step(step.init(params, posterior, key=jax.random.key(0)), QUADRATIC.x)
    assert state.posterior.num_steps == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: elbax.posteriors.SemiAmortized(
                exact(MIXTURE), exact(MIXTURE), optax.sgd(1.0), 2
            ),
            TypeError,
            "encoder must be an elbax.Amortized",
        ),
        (
            lambda: elbax.posteriors.SemiAmortized(
                encoder(MIXTURE, 3), exact(MIXTURE), optax.sgd(1.0), 0
            ),
            ValueError,
            "num_steps must be at least 1",
        ),
        (
            lambda: elbax.LocalGradientEStep(MIXTURE.model, optax.sgd(1.0), num_steps=0),
            ValueError,
            "num_steps must be at least 1",
        ),
        (
            lambda: elbax.posteriors.Local(jnp.zeros((5, 3)), elbax.Categorical(2)),
            ValueError,
            "must return 2 logits",
        ),
        (
            lambda: elbax.posteriors.Laplace(exact(MIXTURE)),
            TypeError,
            "the model has a Categorical",
        ),
        (
            lambda: elbax.posteriors.Laplace(exact(QUADRATIC), 0),
            ValueError,
            "num_steps must be at least 1",
        ),
        (
            lambda: elbax.MarkovChainMonteCarloEStep(FACTORS.model, metropolis, num_steps=0),
            ValueError,
            "num_steps must be at least 1",
        ),
        (
            lambda: elbax.SleepEStep(MIXTURE.model, optax.sgd(1.0), metropolis, 0),
            ValueError,
            "num_samples must be at least 1",
        ),
        (
            lambda: elbax.SleepEStep(MIXTURE.model, optax.sgd(1.0), metropolis).init(
                MIXTURE.params, exact(MIXTURE), key=jax.random.key(0)
            ),
            TypeError,
            "SleepEStep: got .* posterior, which has no weights to train",
        ),
        (
            lambda: elbax.LaplaceEStep(QUADRATIC.model).init(
                QUADRATIC.params, exact(QUADRATIC), key=jax.random.key(0)
            ),
            TypeError,
            r"Laplace\(Exact\(model, params\)\)",
        ),
        (
            lambda: elbax.posteriors.Importance(encoder(MIXTURE, 3), exact(MIXTURE), 0),
            ValueError,
            "Importance: num_samples",
        ),
    ],
)
def test_what_is_refused(as_users_run, make, error, message):
    with pytest.raises(error, match=message):
        make()
