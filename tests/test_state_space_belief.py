"""Beliefs over linear-Gaussian state spaces: dense matrices, quadrature, draws and EM as oracles."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from cases import moved
from scipy.special import digamma, gammaln, multigammaln, polygamma

import elbax
from elbax import priors
from elbax.models._linear_gaussian_state_space import check_prior


ROWS = priors.NormalInverseGamma(0.5, 2.0, 1.0, intercept_precision=0.1)
FIRST = priors.NormalInverseWishart(0.3, 0.7, 4.0, 1.5)


def model(dim=2, noise="diagonal", **arguments):
    given = {"initial_prior": FIRST, "transition_prior": ROWS, "emission_prior": ROWS} | arguments
    return elbax.LinearGaussianStateSpace(
        dim, transition_noise=noise, emission_noise=noise, floor=0.0, **given
    )


def series(num_data=4, length=5, dim=3, seed=0):
    return np.random.default_rng(seed).normal(size=(num_data, length, dim)).cumsum(1)


def with_gaps():
    """Sequences of 3, 4 and 5 steps, in which single numbers and one whole step are missing."""
    x = series(3)
    x[0, 1] = np.nan
    x[1, 2, 0] = np.nan
    x[2, 0, 1:] = np.nan
    return [row[: 3 + i] for i, row in enumerate(x)]


# --- the bound, from textbook formulas -------------------------------------------------------------


class Rows:
    """Moments of a belief over rows, with the offset first: E[w], Λ⁻¹, and the gamma over 1/σ²."""

    def __init__(self, block, offsets, isotropic):
        block = jax.tree.map(np.asarray, block)
        matrix = block["matrix"]["point"]
        self.mean = matrix
        if offsets:
            self.mean = np.concatenate([block["offset"][:, None], matrix], 1)
        self.offsets, self.isotropic = offsets, isotropic
        number, width = self.mean.shape
        factors = np.zeros((number, width, width))
        for raw, factor in zip(block["matrix"]["precision"], factors, strict=True):
            factor[np.tril_indices(width)] = raw
            factor[np.diag_indices(width)] = np.exp(np.diag(factor))
        self.precision = factors @ factors.mT
        self.shape = np.broadcast_to(np.exp(block["scale"]["log_count"]) / 2, number)
        self.inverse = np.broadcast_to(np.exp(-2 * block["scale"]["point"]), number)
        self.log_inverse = digamma(self.shape) - np.log(self.shape) + np.log(self.inverse)

    def expected(self, j):
        """E log N(y; w·ũ, σ²) of one row as (c, P), c − ½ vᵀ P v with v = (1, u, y)."""
        mean = self.mean[j] if self.offsets else np.append(0.0, self.mean[j])
        spread = np.linalg.inv(self.precision[j])
        if not self.offsets:
            spread = np.pad(spread, ((1, 0), (1, 0)))
        contrast = np.append(-mean, 1.0)
        form = self.inverse[j] * np.outer(contrast, contrast)
        form[:-1, :-1] += spread
        return 0.5 * (self.log_inverse[j] - np.log(2 * np.pi)), form

    def divergence(self):
        width = self.mean.shape[1]
        before = np.array([0.1] * self.offsets + [0.5] * (width - self.offsets))
        total = 0.0
        for j, mean in enumerate(self.mean):
            spread = np.linalg.inv(self.precision[j])
            square = np.sum(before * (self.inverse[j] * mean**2 + np.diag(spread))) - width
            logs = np.linalg.slogdet(self.precision[j])[1] - np.sum(np.log(before))
            total += 0.5 * (square + logs)
        for a, mean in list(zip(self.shape, self.inverse))[: 1 if self.isotropic else None]:
            rate = a / mean
            total += (a - 2.0) * digamma(a) - gammaln(a) + gammaln(2.0)
            total += 2.0 * np.log(rate / 1.0) + a * (1.0 / rate - 1)
        return total


class First:
    """Moments of the belief over the first state, N(m; μ, V/κ) IW(V; Ψ, ν)."""

    def __init__(self, block):
        self.block = jax.tree.map(np.asarray, block)
        self.mean = self.block["offset"]["point"]
        dim = len(self.mean)
        factor = np.zeros((dim, dim))
        factor[np.tril_indices(dim)] = self.block["scale"]["point"]
        factor[np.diag_indices(dim)] = np.exp(np.diag(factor))
        self.shrinkage = np.exp(self.block["offset"]["log_count"].item())
        self.dof = np.exp(self.block["scale"]["log_count"].item())
        self.scale = self.dof * factor @ factor.T
        self.precision = self.dof * np.linalg.inv(self.scale)
        self.log_precision = np.sum(digamma((self.dof - np.arange(dim)) / 2))
        self.log_precision += dim * np.log(2) - np.linalg.slogdet(self.scale)[1]

    def expected(self):
        """E log N(z; m, V) as (c, P), c − ½ vᵀ P v with v = (1, z)."""
        dim = len(self.mean)
        constant = 0.5 * (self.log_precision - dim * np.log(2 * np.pi) - dim / self.shrinkage)
        pull = -self.precision @ self.mean
        corner = np.array([[self.mean @ self.precision @ self.mean]])
        return constant, np.block([[corner, pull[None]], [pull[:, None], self.precision]])

    def divergence(self):
        dim, prior = len(self.mean), FIRST
        ratio, gap = prior.shrinkage / self.shrinkage, self.mean - 0.3
        found = 0.5 * (dim * (ratio - 1 - np.log(ratio)))
        found += 0.5 * prior.shrinkage * gap @ self.precision @ gap
        scale = 1.5 * np.eye(dim)
        normalizer = lambda dof, scale: (
            0.5 * dof * (np.linalg.slogdet(scale)[1] - dim * np.log(2)) - multigammaln(dof / 2, dim)
        )
        found += normalizer(self.dof, self.scale) - normalizer(prior.dof, scale)
        found += 0.5 * (self.dof - prior.dof) * self.log_precision
        return found + 0.5 * (np.trace(scale @ self.precision) - dim * self.dof)


def log_normalizer(first, transition, emission, x):
    """log ∫ exp E_q(θ)[log p(x, z | θ)] dz, as one Gaussian integral over all states."""
    length, dim = len(x), len(first.mean)
    size = length * dim
    total, form = 0.0, np.zeros((1 + size, 1 + size))
    state = lambda t: 1 + np.arange(t * dim, (t + 1) * dim)

    def add(constant, own, places, fixed=None):
        """Adds c − ½ vᵀ P v, v = (1, these states, and a number that is known)."""
        nonlocal total
        total += constant
        into = np.zeros((len(own), 1 + size))
        into[0, 0] = 1.0
        for i, place in enumerate(places):
            into[1 + i, place] = 1.0
        if fixed is not None:
            into[-1, 0] = fixed
        form[...] += into.T @ own @ into

    add(*first.expected(), state(0))
    for t in range(length):
        for j in range(dim if t + 1 < length else 0):
            add(*transition.expected(j), [*state(t), state(t + 1)[j]])
        for j in np.flatnonzero(np.isfinite(x[t])):
            add(*emission.expected(j), state(t), x[t, j])
    inner, pull = form[1:, 1:], form[1:, 0]
    total -= 0.5 * (form[0, 0] - pull @ np.linalg.solve(inner, pull))
    return total + 0.5 * (size * np.log(2 * np.pi) - np.linalg.slogdet(inner)[1])


@pytest.mark.parametrize(("offsets", "noise"), [(True, "diagonal"), (False, "isotropic")])
def test_the_bound_by_its_definition(offsets, noise):
    """At a q that is not the optimum, with numbers missing, against one dense Gaussian for each sequence."""
    bayesian = elbax.Bayesian(model(noise=noise, offsets=offsets))
    sequences = with_gaps()
    x = elbax.sequences(sequences)
    q = moved(bayesian.init(jax.random.key(0), x))
    terms = elbax.elbo_terms(bayesian, q, elbax.Exact(bayesian, q), x)
    first = First(q["initial"])
    rows = [Rows(q[name], offsets, noise == "isotropic") for name in ("transition", "emission")]
    ours = terms.expected_log_joint + terms.entropy
    theirs = np.mean([log_normalizer(first, *rows, one) for one in sequences])
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    divergence = sum(one.divergence() for one in (first, *rows))
    np.testing.assert_allclose(terms.global_term, -divergence / 3, rtol=1e-10)


# --- draws, EM and quadrature ------------------------------------------------------------------------


def test_the_expected_log_joint_is_that_of_draws():
    """Of the path at which it is largest, with all parts and with known ones."""
    bayesian = elbax.Bayesian(model(offsets=True, emission_prior=priors.Gamma(2.0, 1.0)))
    x = jnp.asarray(series(1)[0])
    params = model(offsets=True).init(jax.random.key(0), x[None])
    q = moved(bayesian.outside(params, 10.0))

    @jax.jit
    def both(q, keys):
        z = elbax.Exact(bayesian, q)(x).mode()
        draw = lambda key: bayesian.model.log_joint(bayesian.sample_params(q, key), x, z)
        return bayesian.log_joint(q, x, z), jax.vmap(draw)(keys)

    expected, drawn = both(q, jax.random.split(jax.random.key(1), 8000))
    assert abs(expected - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))


def test_of_many_data_it_is_em():
    """With a weight of 1e9 of each sequence, one sweep is one of maximum likelihood."""
    x = elbax.Batch(jnp.asarray(series()), weight=jnp.full(4, 1e9))
    plain = elbax.LinearGaussianStateSpace(2, transition_noise="diagonal", offsets=True, floor=0.0)
    bayesian = elbax.Bayesian(model(offsets=True))
    params = plain.init(jax.random.key(0), x)
    em, vb = elbax.em(plain), elbax.em(bayesian)
    expected, _ = eqx.filter_jit(em)(em.init(params, key=jax.random.key(1)), x)
    # All parts of q are as certain as the data make them; at the start the first state's is not.
    q = bayesian.outside(params, 2e10)
    for block in q["initial"].values():
        block["log_count"] += jnp.log(1e9)
    found, _ = eqx.filter_jit(vb)(vb.init(q, key=jax.random.key(1)), x)
    described = bayesian.describe(found.params), plain.describe(expected.params)
    for name, value in described[1].items():
        np.testing.assert_allclose(described[0][name], value, rtol=1e-6, atol=1e-6)


@functools.cache
def level():
    """The flow of the Nile as a local level, with beliefs over the two variances, in thousands."""
    x = elbax.datasets.nile().reshape(1, -1, 1) / 1000
    prior = priors.Gamma(1.0, 0.005)
    local = model(1, initial_prior=priors.Known(), transition_prior=prior, emission_prior=prior)
    params = local.from_description(
        initial_mean=[0.0],
        initial_covariance=[[100.0]],
        transition=[[1.0]],
        transition_covariance=[[0.005]],
        emission=[[1.0]],
        emission_covariance=[[0.01]],
    )
    bayesian = elbax.Bayesian(local)
    update = elbax.em(bayesian)
    start = update.init(bayesian.start(params, x), key=jax.random.key(0))
    return bayesian, params, x, elbax.fit(update, start, x, tolerance=1e-9, max_steps=2000)


def test_a_local_level_by_quadrature():
    """The bound is below the evidence, and q's log-variances are near the posterior's, with smaller deviations."""
    _, params, x, result = level()
    assert np.diff(result.trace).min() > -1e-12
    grid = np.linspace(-12.0, -2.0, 81)
    plain = elbax.LinearGaussianStateSpace(1, transition_noise="diagonal", floor=0.0)

    @jax.jit
    def evidence(pair):
        scales = dict(zip(("transition", "emission"), pair / 2))
        there = {n: params[n] | {"scale": s[None]} for n, s in scales.items()}
        return elbax.evidence(plain, params | there, x)

    pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    likelihood = np.asarray(jax.lax.map(evidence, jnp.asarray(pairs), batch_size=81))
    # The density of log σ² is that of 1/σ² times 1/σ².
    prior = scipy.stats.gamma.logpdf(np.exp(-pairs), 1.0, scale=1 / 0.005) - pairs
    log_joint = likelihood + prior.sum(-1)
    cell = (grid[1] - grid[0]) ** 2
    exact = np.log(np.sum(np.exp(log_joint - log_joint.max())) * cell) + log_joint.max()
    assert exact - 2 < result.elbo < exact
    share = np.exp(log_joint - exact) * cell
    for i, name in enumerate(("transition", "emission")):
        mean = share @ pairs[:, i]
        deviation = np.sqrt(share @ (pairs[:, i] - mean) ** 2)
        noise = jax.tree.map(np.asarray, result.params[name]["scale"])
        a = np.exp(noise["log_count"]) / 2
        found = 2 * noise["point"] + np.log(a) - digamma(a)
        assert abs(found - mean) < 0.3 * deviation
        # q has the path independent of the variances, and so knows too much (Turner and Sahani 2011).
        assert np.sqrt(polygamma(1, a)) < deviation


def test_what_is_known_stays():
    """In a fit and in draws; the density of new data is the average over draws."""
    bayesian, params, x, result = level()
    for name in ("transition", "emission"):
        for block in ("matrix", "scale"):
            was, found = params[name][block], bayesian.inside(result.params)[name][block]
            assert jnp.array_equal(was, found) == (block == "matrix")
    known = bayesian.describe(result.params)["initial_covariance"]
    np.testing.assert_allclose(known, [[100.0]], rtol=1e-12)
    drawn = bayesian.sample_params(result.params, jax.random.key(0))
    assert drawn["transition"]["matrix"] == 1.0
    model, draws = bayesian.predictive(result.params, key=jax.random.key(0), num_samples=200)
    later = x + 0.01
    each = jax.jit(jax.vmap(lambda params: elbax.evidence(bayesian.model, params, later)))(draws)
    average = jax.nn.logsumexp(each) - jnp.log(len(each))
    np.testing.assert_allclose(elbax.evidence(model, draws, later), average, rtol=1e-10)


@pytest.mark.slow
def test_relevance_finds_the_number_of_states():
    """Of four states the two of a rotation are left."""
    generator = np.random.default_rng(0)
    turn = 0.99 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    z, x, emission = np.ones(2), [], generator.normal(size=(4, 2))
    for _ in range(100):
        z = turn @ z + 0.3 * generator.normal(size=2)
        x.append(emission @ z + 0.3 * generator.normal(size=4))
    relevant = priors.NormalInverseGamma(priors.Gamma(0.1, 0.1), 2.0, 1.0)
    bayesian = elbax.Bayesian(model(4, transition_prior=relevant, emission_prior=relevant))
    x = np.array(x)[None]
    em = elbax.em(bayesian)
    start = em.init(bayesian.init(jax.random.key(0), x), key=jax.random.key(1))
    result = elbax.fit(em, start, x, max_steps=200)
    assert np.diff(result.trace).min() > -1e-10
    size = np.linalg.norm(bayesian.describe(result.params)["emission"], axis=0)
    assert np.sum(size > 0.1 * size.max()) == 2


@pytest.mark.slow
def test_parts_move_as_one():
    """A row of the emissions with its offset; the first state's mean as a whole."""
    bayesian = elbax.Bayesian(model(offsets=True))
    x = jnp.asarray(series())
    q = bayesian.init(jax.random.key(0), x)
    state = elbax.ExactEStep(bayesian).init(q, key=jax.random.key(0))
    rows = np.array([True, False, True])
    fixed = dict.fromkeys(q, False)

    def moved(**free):
        return elbax.ClosedFormMStep(bayesian, free=fixed | free)(state, x)[0].params

    found = moved(emission={"offset": rows, "matrix": rows[:, None], "scale": True})
    for name in ("point", "precision"):
        changed = found["emission"]["matrix"][name] != q["emission"]["matrix"][name]
        assert np.all(np.any(changed, -1) == rows)
    assert np.all((found["emission"]["offset"] != q["emission"]["offset"]) == rows)
    assert jnp.array_equal(
        found["transition"]["matrix"]["point"], q["transition"]["matrix"]["point"]
    )
    first = moved(initial={"offset": True, "scale": False})["initial"]
    assert np.all(first["offset"]["point"] != q["initial"]["offset"]["point"])
    assert np.all(first["scale"]["point"] == q["initial"]["scale"]["point"])
    bound = lambda q: elbax.elbo(bayesian, q, state.posterior, x)
    assert bound(q) < bound(q | {"initial": first}) < bound(found | {"initial": first})
    part = {"point": np.array([True, False]), "log_count": True}
    with pytest.raises(ValueError, match="Free or freeze whole rows"):
        elbax.em(bayesian, free=fixed | {"initial": {"offset": part, "scale": True}}).init(
            q, key=jax.random.key(0)
        )


# --- errors ------------------------------------------------------------------------------------------


KNOWN, NOISE = priors.Known(), priors.Gamma(1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: elbax.Bayesian(model(emission_prior=None)), "no emission_prior.*priors.Gamma"),
        (
            lambda: elbax.Bayesian(model(initial_prior=None)),
            r"no initial_prior.*NormalInverseWishart\(0.0, 1.0, 3.0, 1.0\) or .*Known",
        ),
        (lambda: model(noise="full"), 'is "full".*coordinates.*GaussianBelief'),
        (
            lambda: check_prior("initial", ROWS, priors.NormalInverseWishart),
            "initial_prior must be an .*Wishart or .*Known, got",
        ),
        (
            lambda: elbax.Bayesian(
                model(initial_prior=KNOWN, transition_prior=KNOWN, emission_prior=KNOWN)
            ),
            "nothing to infer. Pass a prior",
        ),
        (
            lambda: elbax.Bayesian(
                model(3, initial_prior=priors.NormalInverseWishart(0.0, 1.0, 1.5, 1.0))
            ),
            "dof 1.5. Pass more than 2",
        ),
        (
            lambda: model(emission_prior=NOISE).init(jax.random.key(0), series()),
            r"known part are not to be drawn \(emission\).*from_description",
        ),
        (
            lambda: elbax.em(model(1, transition_prior=NOISE)).init(
                model(1).init(jax.random.key(0), series()), key=jax.random.key(0)
            ),
            "for Bayesian only.*free=",
        ),
        (lambda: elbax.SwitchingStateSpace(model(1), 2), "regime has priors.*Leave them out"),
    ],
)
def test_what_has_no_belief_says_why(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
