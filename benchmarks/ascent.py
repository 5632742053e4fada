"""Does EM ever fall, or leave the finite numbers? Every family on many random tables, in float32 and in float64.

python benchmarks/ascent.py [--fits 10000] [--seed 0] [--write]

Tables have columns of any scale from 1e-6 to 1e6, offsets up to 1e4 standard deviations, duplicated rows, rows of
weight 0, columns that are sums of others, missing entries, and at times fewer rows than components. A fit is 30
sweeps from `model.init`. It falls where a sweep lowers the bound by more than `fit` lets pass (1e-10 of
1 + |bound|, or 64 machine epsilons): there `fit` stops with the code "decreased", and says whether rounding
explains it (up to 1024 epsilons) or not.
"""

import argparse
import dataclasses
import datetime
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import elbax


RESULTS = Path(__file__).parent / "results" / "ascent.md"
SWEEPS = 30
components = elbax.components


@dataclasses.dataclass(frozen=True)
class Family:
    """`data(rng, rows, dim)` is one table; `shapes` are (rows, columns, components)."""

    name: str
    model: Callable[[int], Any]
    data: Callable[[np.random.Generator, int, int], Any]
    shapes: tuple[tuple[int, int, int], ...] = ((40, 2, 2), (30, 5, 4), (3, 2, 4))
    weighted: bool = True


def clusters(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    means = rng.uniform(0, 10) * rng.normal(size=(3, dim))
    return means[rng.integers(3, size=rows)] + rng.normal(size=(rows, dim))


def hard(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Clusters in units, at places and with defects of any kind."""
    x = clusters(rng, rows, dim)
    if rng.random() < 0.3:
        copies = rng.random(rows) < rng.uniform(0.1, 0.9)
        x[copies] = x[rng.integers(rows, size=copies.sum())]
    if rng.random() < 0.2 and dim > 1:
        x[:, -1] = x[:, :-1].sum(1)
    if rng.random() < 0.2:
        x = np.round(x)
    scale = 10 ** rng.uniform(-6, 6) * 10 ** (rng.uniform(-2, 2, size=dim) * (rng.random() < 0.3))
    offset = 10 ** rng.uniform(-1, 4) * rng.normal(size=dim) * (rng.random() < 0.5)
    return scale * (x + offset)


def gaps(rng: np.random.Generator, rows: int, dim: int) -> elbax.IncompleteRows:
    """The same with a fifth of the entries missing, never a whole row."""
    x, seen = hard(rng, rows, dim), rng.random((rows, dim)) < 0.8
    seen[np.arange(rows), rng.integers(dim, size=rows)] = True
    return elbax.IncompleteRows(np.where(seen, x, 0), seen)


def lines(rng: np.random.Generator, rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets on two lines, exactly now and then."""
    inputs = hard(rng, rows, dim)
    which = rng.integers(2, size=rows)
    slopes = rng.normal(size=(2, dim)) / inputs.std(0).clip(1e-12)
    noise = 10 ** rng.uniform(-8, 0) * (rng.random() < 0.8)
    target = np.einsum("nd,nd->n", inputs - inputs.mean(0), slopes[which])
    return inputs, 10 ** rng.uniform(-6, 6) * (target + noise * rng.normal(size=rows))


def factors(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Two factors with little or no noise of their own."""
    loadings = rng.normal(size=(2, dim))
    noise = 10 ** rng.uniform(-6, 0, size=dim) * (rng.random() < 0.8)
    x = rng.normal(size=(rows, 2)) @ loadings + noise * rng.normal(size=(rows, dim))
    return 10 ** rng.uniform(-6, 6) * (x + 10 ** rng.uniform(-1, 3) * (rng.random() < 0.5))


def counts(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    rate = 10 ** rng.uniform(-2, 5) * np.exp(rng.uniform(0, 2) * rng.normal(size=(3, dim)))
    return rng.poisson(rate[rng.integers(3, size=rows)]).astype(float)


def positive(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    shape = 10 ** rng.uniform(-0.5, 4)
    return 10 ** rng.uniform(-6, 6) * rng.gamma(shape, size=(rows, dim)).clip(1e-30)


def binary(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    return (rng.random((rows, dim)) < rng.uniform(0, 1, size=dim)).astype(float)


def codes(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    return np.minimum(rng.geometric(rng.uniform(0.2, 0.9), size=(rows, dim)) - 1, 2)


def sequences(data: Callable) -> Callable:
    """Rows taken as four sequences."""
    return lambda rng, rows, dim: data(rng, 4 * rows, dim).reshape(4, rows, dim)


def mixture(name: str, component: Any, data: Callable, **given: Any) -> Family:
    return Family(name, lambda k: elbax.Mixture(component, k), data, **given)


LONG = ((10, 2, 2), (6, 3, 3))
FAMILIES = [
    *(
        mixture(f"normal, {structure}", components.Normal(structure), hard)
        for structure in ("full", "tied", "diagonal", "spherical")
    ),
    mixture("normal, gaps", components.Normal(), gaps),
    mixture("Student t", components.StudentT(), hard),
    mixture("factor analyzers", components.FactorAnalyzer(1), factors),
    mixture("linear regressions", components.LinearRegression(), lines),
    mixture("Poisson", components.Poisson(), counts),
    mixture("gamma", components.Gamma(), positive),
    mixture("Bernoulli", components.Bernoulli(), binary),
    mixture("categorical", components.Categorical((3, 3)), codes, shapes=((40, 2, 2), (3, 2, 4))),
    mixture("multinomial", components.Multinomial(), counts),
    Family("factor analysis", lambda k: elbax.FactorAnalysis(min(k, 2)), factors),
    Family("probabilistic PCA", lambda k: elbax.ProbabilisticPCA(1), factors),
    Family(
        "hidden Markov, normal",
        lambda k: elbax.HiddenMarkovModel(components.Normal("diagonal"), k),
        sequences(hard),
        LONG,
    ),
    Family(
        "hidden Markov, Poisson",
        lambda k: elbax.HiddenMarkovModel(components.Poisson(), k),
        sequences(counts),
        LONG,
    ),
    Family("state space", lambda k: elbax.LinearGaussianStateSpace(k), sequences(hard), LONG),
]


@eqx.filter_jit
def traces(model: Any, keys: Any, x: Any, weight: Any) -> jax.Array:
    """The bound before each sweep, of many tables at once."""
    em = elbax.em(model)

    def one(key, x, weight):
        batch = elbax.Batch(x, weight=weight)
        params = model.init(key, batch)
        state = em.init(params, key=key)
        return jax.lax.scan(lambda s, _: em(s, batch), state, length=SWEEPS)[1].elbo

    return jax.vmap(one)(keys, x, weight)


def fits(family: Family, shape: tuple, number: int, dtype: Any, seed: int) -> np.ndarray:
    rows, dim, k = shape
    rng = np.random.default_rng([seed, rows, dim])
    tables = [family.data(rng, rows, dim) for _ in range(number)]
    x = jax.tree.map(lambda *leaves: np.stack(leaves), *tables)
    n = len(jax.tree.leaves(tables[0])[0])
    weight = np.where(rng.random((number, n)) < 0.1, 0, rng.integers(1, 3, size=(number, n)))
    weight[rng.random(number) < 0.5] = 1
    weight[:, 0] = 1

    def cast(leaf):
        return jnp.asarray(leaf, dtype if leaf.dtype == float else None)

    keys = jax.random.split(jax.random.key(seed), number)
    return np.asarray(traces(family.model(k), keys, jax.tree.map(cast, x), cast(weight * 1.0)))


def allowed(dtype: Any, epsilons: float) -> float:
    return max(1e-10, epsilons * float(np.finfo(dtype).eps))


def outcome(trace: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(whether each fit fell, whether it left the finite, by how much it fell at most, of 1 + |bound|)."""
    slack = allowed(trace.dtype, 64)
    finite = np.isfinite(trace).all(1)
    trace = np.where(finite[:, None], trace, 0).astype(float)
    drop = (trace[:, :-1] - trace[:, 1:]) / (1 + np.abs(trace[:, 1:]))
    worst = drop.max(1)
    return worst > slack, ~finite, worst


def run(number: int, seed: int = 0, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a family and dtype, of about `number` fits in all and dtype."""
    chosen = [family for family in FAMILIES if names is None or family.name in names]
    shapes = sum(len(family.shapes) for family in chosen)
    each = -(-number // shapes)
    rows = []
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            for family in chosen:
                parts = [outcome(fits(family, s, each, dtype, seed)) for s in family.shapes]
                fell, astray, worst = map(np.concatenate, zip(*parts))
                rows.append(
                    {
                        "family": family.name,
                        "dtype": np.dtype(dtype).name,
                        "fits": len(fell),
                        "fell": int(fell.sum()),
                        "beyond rounding": int((worst > allowed(dtype, 1024)).sum()),
                        "not finite": int(astray.sum()),
                        "worst fall": f"{worst.max():.1e}",
                    }
                )
                print(*rows[-1].values(), sep=" | ", flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fits", type=int, default=10_000, help="fits a dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a family's name; may be given again")
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args(argv)
    rows = run(options.fits, options.seed, options.only)
    total = functools.reduce(lambda a, row: a + row["beyond rounding"] + row["not finite"], rows, 0)
    if options.write:
        head = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        body = ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
        title = f"# Does EM ever fall?\n\n{datetime.date.today()}, seed {options.seed}; `benchmarks/ascent.py`"
        RESULTS.write_text("\n".join([title, "", *head, *body]) + "\n")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
