"""Published numbers beside ours.

python benchmarks/fidelity.py    prints the table, writes results/fidelity.md

Every number is computed here, in float64, from data that are in the library or in scikit-learn. The exit status
is 1 if one of ours, rounded as it was published, is another number.
"""

import datetime
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris

import elbax


RESULTS = Path(__file__).parent / "results" / "fidelity.md"
KEY = jax.random.key(0)
# Deaths of women of 80 and more in The Times, 1910 to 1912: days with 0, 1, ..., 9 of them.
DAYS = [162, 267, 271, 185, 111, 61, 27, 8, 3, 1]

Fact = tuple[str, str, str, Callable[[], Any]]


def best(model: Any, x: Any, number: int = 16) -> elbax.Restarts:
    em = elbax.em(model)
    states = elbax.initial_states(em, x, key=KEY, num_restarts=number)
    return elbax.fit_restarts(
        em, states, x, reject=model.collapsed, tolerance=1e-12, max_steps=5000
    )


def faithful() -> float:
    x = elbax.datasets.old_faithful()
    return float(best(elbax.GaussianMixture(2, floor=0.0), x).best.elbo) * len(x)


@functools.cache
def waiting() -> dict[str, Any]:
    x, model = elbax.datasets.old_faithful()[:, 1:], elbax.GaussianMixture(2, floor=0.0)
    described = model.describe(best(model, x).best.state.params)
    order = np.argsort(described["means"][:, 0])
    return {name: np.asarray(value)[order] for name, value in described.items()}


@functools.cache
def deaths() -> dict[str, Any]:
    x = elbax.Batch(jnp.arange(10.0)[:, None], weight=jnp.asarray(DAYS, float))
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    fitted = best(model, x).best
    described = model.describe(fitted.state.params)
    order = np.argsort(described["rates"][:, 0])
    found = {name: np.asarray(value)[order] for name, value in described.items()}
    return found | {"total": float(fitted.elbo) * sum(DAYS)}


def iris() -> float:
    x, model = load_iris().data, elbax.GaussianMixture(2, floor=0.0)
    params = best(model, x).best.state.params
    return -elbax.diagnostics.information_criteria(model, params, x).bic


@functools.cache
def linkage() -> tuple[float, float, float]:
    """θ, Louis's observed information and the rate of EM for the linkage of 197 animals."""

    def log_joint(logit, x, z):
        theta = jax.nn.sigmoid(logit)
        # The first of four cells is two: one of probability 1/2, one of θ / 4.
        tables = jnp.log(
            jnp.array(
                [
                    [0.5, (1 - theta) / 4, (1 - theta) / 4, theta / 4],
                    [theta / 4, 1e-300, 1e-300, 1e-300],
                ]
            )
        )
        return tables[z, x]

    model = elbax.Model(log_joint, latent=elbax.Categorical(2))
    counts = elbax.Batch(jnp.arange(4), weight=jnp.array([125.0, 18.0, 20.0, 34.0]))
    newton = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    state = newton.init(jnp.array(0.0), elbax.Exact(model, jnp.array(0.0)), key=KEY)
    state, _ = jax.lax.scan(lambda s, _: newton(s, counts), state, length=60)
    theta = float(jax.nn.sigmoid(state.params))
    found = elbax.diagnostics.observed_information(model, state.params, counts)
    return theta, float(found.observed[0, 0]) / (theta * (1 - theta)) ** 2, float(found.rate)


@functools.cache
def earthquakes(states: int) -> float:
    x = jnp.asarray(elbax.datasets.earthquakes())[None]
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), states)
    return -float(best(model, x, 4 * states).best.elbo)


@functools.cache
def nile() -> dict[str, Any]:
    x = jnp.asarray(elbax.datasets.nile(), float).reshape(1, -1, 1)
    model = elbax.LinearGaussianStateSpace(1, floor=0.0)
    one = np.ones((1, 1))
    start = {"initial_mean": [0.0], "initial_covariance": 1e11 * one, "transition": one}
    start |= {
        "transition_covariance": 1000 * one,
        "emission": one,
        "emission_covariance": 1e4 * one,
    }
    scale = {"matrix": False, "scale": True}
    em = elbax.em(model, free={"initial": False, "transition": scale, "emission": scale})
    state = em.init(model.from_description(**start), key=KEY)
    sweeps = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: em(s, x), state, length=3000))
    return model.describe(sweeps(state, x)[0].params)


MCLUST = "mclust 6, Scrucca, Fraley, Murphy and Raftery (2023)"
ZUCCHINI = "Zucchini, MacDonald and Langrock (2016), chapter 4"
DEATHS = "Lange (2010), on Hasselblad's (1969) data"
MIXTOOLS = "mixtools, Benaglia and others (2009)"
RAO = "Dempster, Laird and Rubin (1977); Louis (1982)"
NILE = "R, StructTS(Nile, 'level')"
FACTS: list[Fact] = [
    ("Old Faithful, 2 full, log-likelihood", MCLUST, "-1130.264", faithful),
    ("iris, 2 full, BIC in its sign", MCLUST, "-574.018", iris),
    ("waiting times, the first weight", MIXTOOLS, "0.36089", lambda: waiting()["weights"][0]),
    ("the first mean, minutes", MIXTOOLS, "54.615", lambda: waiting()["means"][0, 0]),
    ("the second mean, minutes", MIXTOOLS, "80.091", lambda: waiting()["means"][1, 0]),
    ("deaths, the first rate", DEATHS, "1.2561", lambda: deaths()["rates"][0, 0]),
    ("deaths, the second rate", DEATHS, "2.6634", lambda: deaths()["rates"][1, 0]),
    ("deaths, log-likelihood", DEATHS, "-1989.946", lambda: deaths()["total"]),
    ("linkage, θ", RAO, "0.6268", lambda: linkage()[0]),
    ("linkage, observed information", RAO, "377.5", lambda: linkage()[1]),
    ("linkage, the rate of EM", RAO, "0.1328", lambda: linkage()[2]),
    ("earthquakes, 2 states, −log-likelihood", ZUCCHINI, "341.8787", lambda: earthquakes(2)),
    ("earthquakes, 3 states, −log-likelihood", ZUCCHINI, "328.5275", lambda: earthquakes(3)),
    (
        "Nile, variance of the observations",
        NILE,
        "15099",
        lambda: nile()["emission_covariance"][0, 0],
    ),
    ("Nile, variance of the level", NILE, "1469", lambda: nile()["transition_covariance"][0, 0]),
]


def rows() -> Iterator[tuple[str, str, str, str, bool]]:
    """What, where it was published, the published number, ours rounded like it, and whether they are equal."""
    for what, source, published, compute in FACTS:
        digits = len(published.partition(".")[2])
        ours = f"{float(compute()):.{digits}f}"
        yield what, source, published, ours, ours == published


def main() -> int:
    jax.config.update("jax_enable_x64", True)
    found = list(rows())
    lines = [
        "# Fidelity",
        "",
        f"Published numbers, and ours rounded like them. {datetime.date.today()}, jax {jax.__version__}, float64. "
        "`python benchmarks/fidelity.py`.",
        "",
        "| number | source | published | ours | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, source, published, ours, equal in found:
        lines.append(
            f"| {what} | {source} | {published} | {ours} | {'=' if equal else 'differs'} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text)
    return int(not all(equal for *_, equal in found))


if __name__ == "__main__":
    sys.exit(main())
