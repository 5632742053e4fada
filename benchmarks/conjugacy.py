"""Updates that are read off a log-joint, beside those that the library's models have by hand.

    python benchmarks/conjugacy.py [--rounds 5]

It writes `results/conjugacy.md`. The derived and the written model have the same updates, from one start.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measuring import heading, markdown, ratio, slopes, spread, sweeps, write

import elbax
from elbax import components, families, priors
from elbax.conjugacy import Block, conjugate_updates, ConjugateJoint


RESULTS = Path(__file__).parent / "results" / "conjugacy.md"
KEY = jax.random.key(0)
System = tuple[elbax.AbstractUpdate, elbax.ELBOState]


def normals(rng: np.random.Generator, rows: int, dim: int, number: int) -> jax.Array:
    means = 3 * rng.normal(size=(number, dim))
    return jnp.asarray(means[rng.integers(number, size=rows)] + rng.normal(size=(rows, dim)), float)


def derived_mixture(x: jax.Array, number: int) -> System:
    dim = x.shape[1]
    prior = families.NormalWishart(dim).from_description(
        mean=x.mean(0), shrinkage=0.1, dof=dim + 2.0, inverse_scale=jnp.cov(x.T)
    )
    shares = families.Dirichlet(number).from_description(concentration=1.0)

    def log_joint(shared, x, local):
        mean, precision = shared["normals"]
        gap = x - mean
        square = jnp.einsum("ki,kij,kj->k", gap, precision, gap)
        half = 0.5 * (jnp.linalg.slogdet(precision)[1] - square - dim * jnp.log(2 * jnp.pi))
        return jnp.sum(local["component"] * (jnp.log(shared["weights"]) + half))

    def log_prior(shared):
        return shares.log_prob(shared["weights"]) + jnp.sum(prior.log_prob(shared["normals"]))

    joint = ConjugateJoint(
        log_joint,
        {
            "weights": families.Dirichlet(number),
            "normals": Block(families.NormalWishart(dim), number),
        },
        {"component": elbax.Categorical(number)},
        log_prior=log_prior,
    )
    scale = jnp.broadcast_to(jnp.linalg.inv(jnp.cov(x.T)), (number, dim, dim))
    start = joint.init(KEY, x, check=False, normals=(x[:number], scale))
    update = conjugate_updates(joint)
    return update, update.init(*start, key=KEY)


def written_mixture(x: jax.Array, number: int) -> System:
    prior = priors.NormalInverseWishart(x.mean(0), 0.1, x.shape[1] + 2.0, np.cov(x.T))
    model = elbax.GaussianMixture(number, prior=prior, weights_prior=priors.Dirichlet(1.0))
    update = elbax.em(elbax.Bayesian(model))
    return update, update.init(elbax.Bayesian(model).init(KEY, x), key=KEY)


def log_mass(rates, x):
    return jnp.sum(jax.scipy.stats.poisson.logpmf(x, rates))


def poissons(component: components.AbstractComponent, x: jax.Array, number: int) -> System:
    model = elbax.Mixture(component, number)
    return elbax.em(model), elbax.em(model).init(model.init(KEY, x), key=KEY)


def chain(component: components.AbstractComponent, x: jax.Array, number: int) -> System:
    model = elbax.HiddenMarkovModel(component, number)
    return elbax.em(model), elbax.em(model).init(model.init(KEY, x), key=KEY)


def factors(x: jax.Array, number: int) -> System:
    """Factor analysis with relevance: four blocks, of which the library has no model."""
    dim, gamma = x.shape[1], families.Gamma()
    prior = gamma.from_description(shape=1.5, rate=1.0)

    def log_joint(shared, x, local):
        mean, precision = shared["loadings"] @ local["factors"], shared["precisions"]
        seen = 0.5 * jnp.sum(jnp.log(precision) - precision * (x - mean) ** 2)
        constant = 0.5 * (dim + number) * jnp.log(2 * jnp.pi)
        return seen - 0.5 * jnp.sum(local["factors"] ** 2) - constant

    def log_prior(shared):
        relevance = shared["relevance"]
        rows = 0.5 * jnp.sum(jnp.log(relevance) - relevance * shared["loadings"] ** 2)
        rates = jnp.sum(prior.log_prob(relevance)) + jnp.sum(prior.log_prob(shared["precisions"]))
        return rows + rates - 0.5 * dim * number * jnp.log(2 * jnp.pi)

    joint = ConjugateJoint(
        log_joint,
        {
            "loadings": Block(elbax.Gaussian(number), dim),
            "precisions": Block(gamma, dim),
            "relevance": Block(gamma, number),
        },
        {"factors": elbax.Gaussian(number)},
        log_prior=log_prior,
    )
    update = conjugate_updates(joint)
    return update, update.init(*joint.init(KEY, x, check=False), key=KEY)


def seconds_to_compile(system: System, x: jax.Array) -> float:
    update, state = system
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=10))
    begin = time.perf_counter()
    run.lower(state, x).compile()
    return time.perf_counter() - begin


def report(rounds: int) -> Iterator[str]:
    note = "float32. Compiling is from tracing on, of ten sweeps in a scan."
    yield heading("Updates read off a log-joint", "python benchmarks/conjugacy.py", {}, note)
    rng = np.random.default_rng(0)
    few, many = normals(rng, 300, 2, 3), normals(rng, 5000, 4, 8)
    counts = jnp.asarray(
        rng.poisson(rng.gamma(2.0, 3.0, (4, 8))[rng.integers(4, size=5000)]), float
    )
    sequences = counts.reshape(50, 100, 8)
    derived = components.Conjugate(log_mass, families.Gamma(), 8)
    written = components.Poisson()
    pairs = {
        "Bayesian mixture of 3 normals, 300 x 2": (
            derived_mixture(few, 3),
            written_mixture(few, 3),
            few,
        ),
        "Bayesian mixture of 8 normals, 5000 x 4": (
            derived_mixture(many, 8),
            written_mixture(many, 8),
            many,
        ),
        "component: mixture of 4 Poissons, 5000 x 8": (
            poissons(derived, counts, 4),
            poissons(written, counts, 4),
            counts,
        ),
        "component: hidden Markov model, 4 Poissons, 50 x 100 x 8": (
            chain(derived, sequences, 4),
            chain(written, sequences, 4),
            sequences,
        ),
        "factor analysis with relevance, 3 factors, 300 x 10": (
            factors(normals(rng, 300, 10, 4), 3),
            None,
            normals(rng, 300, 10, 4),
        ),
    }
    rows = []
    for name, (one, other, x) in pairs.items():
        systems = {"derived": one} | ({} if other is None else {"written": other})
        compiled = {kind: seconds_to_compile(system, x) for kind, system in systems.items()}
        runs = {kind: sweeps(update, state, x) for kind, (update, state) in systems.items()}
        found = slopes(runs, (5, 25), rounds)
        by_hand = found.get("written")
        rows.append(
            {
                "model": name,
                "derived, ms a sweep": spread(found["derived"], 1e-3),
                "written, ms": "" if by_hand is None else spread(by_hand, 1e-3),
                "ratio": "" if by_hand is None else ratio(found["derived"], by_hand),
                "compile derived, s": f"{compiled['derived']:.1f}",
                "compile written, s": f"{compiled['written']:.1f}" if other else "",
            }
        )
    yield markdown(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    write(RESULTS, report(parser.parse_args().rounds))
