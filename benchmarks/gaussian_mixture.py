"""What the Gaussian mixture costs, beside scikit-learn and beside the same algorithm by hand.

python benchmarks/gaussian_mixture.py    prints the tables, writes results/gaussian_mixture.md
make benchmark                           the same functions, one pytest-benchmark each

Seconds a sweep are slopes, (time of n₂ sweeps − time of n₁) / (n₂ − n₁), since compiling, starting
and the last E-step are not sweeps. The contestants alternate in one process, on a fixed number of
threads, from one start and after a warm-up round. Medians stand with the quartiles of the rounds.
"""

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import sklearn
from measuring import (
    chain,
    heading,
    markdown,
    ratio,
    Row,
    Run,
    slopes,
    spread,
    start,
    sweeps,
    write,
)
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import elbax


RESULTS = Path(__file__).parent / "results" / "gaussian_mixture.md"
CHUNK_SIZE = 10_000
PEERS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
CASES = [*(("100k x 16, K = 16", kind) for kind in PEERS), ("Old Faithful, K = 2", "full")]


@functools.cache
def clusters() -> np.ndarray:
    """100k x 16 in float32: 16 unit normals about means of standard deviation 2."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(16, 16))
    which = rng.integers(16, size=100_000)
    return (means[which] + rng.normal(size=(100_000, 16))).astype(np.float32)


def peer(model: elbax.Mixture, params: Any, x: np.ndarray) -> Run:
    """n sweeps of scikit-learn's EM from the same params, in the precision of x."""
    covariance = model.component.covariance
    start = {name: np.asarray(leaf, float) for name, leaf in model.describe(params).items()}
    precision = np.linalg.inv(start["covariances"])
    if covariance == "tied":
        precision = precision[0]
    if covariance in ("diagonal", "spherical"):
        precision = np.diagonal(precision, axis1=1, axis2=2)
    if covariance == "spherical":
        precision = precision[:, 0]

    def run(n):
        mixture = GaussianMixture(
            model.num_components,
            covariance_type=PEERS[covariance],
            tol=0,
            max_iter=n,
            init_params="random",
            weights_init=start["weights"].astype(x.dtype),
            means_init=start["means"].astype(x.dtype),
            precisions_init=precision.astype(x.dtype),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(x)

    return run


def sweep_seconds(case: str, covariance: str) -> list[Row]:
    """A sweep of elbax, whole and in chunks, and of scikit-learn.

    Both start at the same params, so that after as many sweeps their log-likelihoods agree.
    """
    large = case.startswith("100k")
    x = clusters() if large else np.asarray(elbax.datasets.old_faithful(), np.float32)
    counts, rounds = ((2, 8), 7) if large else ((20, 1020), 15)
    chunks = (None, CHUNK_SIZE) if large else (None,)
    model = elbax.GaussianMixture(16 if large else 2, covariance)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    ours = {
        str(chunk): sweeps(chain(model, chunk), start(model, params), jnp.asarray(x))
        for chunk in chunks
    }
    theirs = peer(model, params, x)
    found = slopes({**ours, "scikit-learn": theirs}, counts, rounds)
    likelihood = theirs(counts[1]).lower_bound_
    return [
        {
            "data": case,
            "covariance": covariance,
            "chunk_size": chunk,
            "elbax, ms": spread(found[chunk], 1e-3),
            "scikit-learn, ms": spread(found["scikit-learn"], 1e-3),
            "scikit-learn / elbax": ratio(found["scikit-learn"], found[chunk]),
            f"log p(x) − theirs after {counts[1]} sweeps, nats a datum": (
                f"{float(run(counts[1])[1].elbo[-1]) - likelihood:.1g}"
            ),
        }
        for chunk, run in ours.items()
    ]


def by_hand(state: tuple, x: jax.Array, floor: float = 1e-6) -> tuple[tuple, jax.Array]:
    """EM for full covariances as one would write it for nothing else, in elbax's parametrization.

    The log-densities are linear in x − c and its products, each pair of columns once or twice as
    rotated slices, so a sweep is two matrix products.
    """
    logits, mean, packed, key = state
    key, _ = jax.random.split(key)
    (n, dim), triangle, eye = x.shape, np.tril_indices(x.shape[1]), jnp.eye(x.shape[1])
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    # Each component's log-density as coefficients of the features.
    factor = jnp.zeros((len(logits), dim, dim)).at[:, *triangle].set(packed)
    log_diagonal = jnp.diagonal(factor, axis1=1, axis2=2)
    factor = jnp.tril(factor, -1) + jnp.exp(log_diagonal)[:, :, None] * eye
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, eye, lower=True))(factor)
    precision = matmul(inverse.mT, inverse)
    center = mean.mean(0)
    pull = matmul(precision, (mean - center)[:, :, None])[:, :, 0]
    constant = (
        jax.nn.log_softmax(logits)
        - log_diagonal.sum(1)
        - 0.5 * (dim * math.log(2 * math.pi) + (pull * (mean - center)).sum(1))
    )
    shift, row = np.divmod(np.arange(dim * (dim // 2 + 1)), dim)
    column = (row + shift) % dim
    count_twice = np.where((shift == 0) | (2 * shift == dim), 1, 2)
    curvature = -0.5 * count_twice * precision[:, row, column]

    # E: responsibilities.
    offset = x - center
    twice = jnp.concatenate([offset, offset], 1)
    squares = [offset * twice[:, s : s + dim] for s in range(dim // 2 + 1)]
    features = jnp.concatenate([offset, *squares], 1)
    potentials = constant + matmul(features, jnp.concatenate([pull, curvature], 1).T)
    top = potentials.max(1, keepdims=True)
    odds = jnp.exp(potentials - top)
    total = odds.sum(1, keepdims=True)
    elbo = ((top + jnp.log(total)).sum() - 0.5 * floor * (inverse**2).sum()) / n
    responsibility = odds / total

    # M: moments.
    count = responsibility.sum(0)
    moments = matmul(responsibility.T, features) / count[:, None]
    shift_of_mean, products = moments[:, :dim], moments[:, dim:]
    second = jnp.zeros_like(factor).at[:, row, column].set(products)
    second = second.at[:, column, row].set(products)
    covariance = second - shift_of_mean[:, :, None] * shift_of_mean[:, None, :]
    root = jnp.linalg.cholesky(covariance + floor * eye / count[:, None, None])
    logs = jnp.log(jnp.diagonal(root, axis1=1, axis2=2))
    packed = (jnp.tril(root, -1) + logs[:, :, None] * eye)[:, *triangle]
    return (jax.nn.log_softmax(jnp.log(count)), center + shift_of_mean, packed, key), elbo


def composition() -> list[Row]:
    """One sweep of `Chain(ExactEStep, ClosedFormMStep)` and of `by_hand`: XLA's counts, and times."""
    x = jnp.asarray(clusters())
    model = elbax.GaussianMixture(16, form="expanded")
    params = model.init(jax.random.key(0), x)
    state, em = start(model, params), chain(model)
    normal = params["components"]
    plain = (params["logits"], normal["mean"], normal["scale"], state.key)
    (moved, info), (moved_by_hand, elbo) = jax.jit(em)(state, x), jax.jit(by_hand)(plain, x)
    mean = moved.params["components"]["mean"]
    np.testing.assert_allclose(info.elbo, elbo, rtol=1e-5)
    np.testing.assert_allclose(mean, moved_by_hand[1], atol=1e-4)

    costs = {
        "composed": jax.jit(em).lower(state, x).compile().cost_analysis(),
        "by hand": jax.jit(by_hand).lower(plain, x).compile().cost_analysis(),
    }
    runs = {"composed": sweeps(em, state, x), "by hand": sweeps(by_hand, plain, x)}
    found = slopes(runs, (2, 12), 9)
    ours, hand = costs["composed"], costs["by hand"]
    return [
        {
            "sweep of 100k x 16, K = 16": name,
            "flops": f"{costs[name]['flops']:.5g}",
            "bytes": f"{costs[name]['bytes accessed']:.5g}",
            "ms": spread(found[name], 1e-3),
        }
        for name in runs
    ] + [
        {
            "sweep of 100k x 16, K = 16": "composed / by hand",
            "flops": f"{ours['flops'] / hand['flops']:.4f}",
            "bytes": f"{ours['bytes accessed'] / hand['bytes accessed']:.4f}",
            "ms": ratio(found["composed"], found["by hand"]),
        }
    ]


def memory() -> list[Row]:
    """Temporary memory of one compiled sweep of N x 16, K = 16; nothing runs."""
    model = elbax.GaussianMixture(16)
    params = model.init(jax.random.key(0), jnp.asarray(clusters()))

    def temporary(n, chunk_size):
        x = jax.ShapeDtypeStruct((n, 16), jnp.float32)
        compiled = jax.jit(chain(model, chunk_size)).lower(start(model, params), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    rows = []
    for chunk_size in (None, CHUNK_SIZE):
        small, large = (temporary(n, chunk_size) for n in (100_000, 1_000_000))
        rows.append(
            {
                "chunk_size": chunk_size,
                "N = 1e5, MB": round(small / 1e6, 2),
                "N = 1e6, MB": round(large / 1e6, 2),
                "growth": round(large / small, 3),
            }
        )
    return rows


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """The seconds of every compilation in the block."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def compiling() -> list[Row]:
    """Seconds to trace and to compile one sweep of 100k x 16; what a second fit compiles."""
    x, other = jnp.asarray(clusters()), jnp.asarray(clusters()[::-1])
    model = elbax.GaussianMixture(16)
    state = start(model, model.init(jax.random.key(0), x))
    other_state = state.replace(key=jax.random.key(2))
    rows = []
    for chunk_size in (None, CHUNK_SIZE):
        em = chain(model, chunk_size)
        begin = time.perf_counter()
        lowered = jax.jit(em).lower(state, x)
        traced = time.perf_counter()
        lowered.compile()
        compiled = time.perf_counter()
        elbax.fit(em, state, x, max_steps=2)
        again = chain(elbax.GaussianMixture(16), chunk_size)
        with compilations() as second:
            elbax.fit(again, other_state, other, max_steps=2)
        rows.append(
            {
                "chunk_size": chunk_size,
                "trace, s": round(traced - begin, 2),
                "compile, s": round(compiled - traced, 2),
                "compilations of a second fit": len(second),
            }
        )
    return rows


def agreement() -> list[Row]:
    """Total log-likelihoods of the best of 32 restarts in float64, beside the known optima."""
    with jax.enable_x64(True):
        geyser, iris = elbax.datasets.old_faithful(), jnp.asarray(load_iris().data)
        cases = [
            ("Old Faithful", geyser, elbax.GaussianMixture(2), -1130.264),
            ("Old Faithful", geyser, elbax.GaussianMixture(3, "tied"), -1126.316),
            ("Iris", iris, elbax.GaussianMixture(3, floor=0.0), -180.1858),
        ]
        rows = []
        for name, x, model, known in cases:
            states = jax.vmap(lambda key, m=model, x=x: start(m, m.init(key, x)))(
                jax.random.split(jax.random.key(0), 32)
            )
            found = elbax.fit_restarts(chain(model), states, x, reject=model.collapsed)
            best = float(elbax.evidence(model, found.best.state.params, x)) * len(x)
            ends = np.asarray(found.elbo)[~np.asarray(found.rejected)] * len(x)
            rows.append(
                {
                    "data": name,
                    "covariance": model.component.covariance,
                    "K": model.num_components,
                    "floor": model.component.floor,
                    "known": known,
                    "best": round(best, 4),
                    "restarts within 0.001 of known": int(np.sum(np.abs(ends - known) < 1e-3)),
                    "rejected": int(found.rejected.sum()),
                }
            )
        return rows


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    yield heading(
        "Gaussian mixtures",
        "python benchmarks/gaussian_mixture.py",
        {"scikit-learn": sklearn, "numpy": np, "scipy": scipy},
        "float32 but for the last table.",
    )
    yield "## A sweep of EM"
    yield markdown([row for case in CASES for row in sweep_seconds(*case)])
    yield "## A composed update, and the same algorithm written by hand"
    yield markdown(composition())
    yield "## Temporary memory of a sweep"
    yield markdown(memory())
    yield "## Compiling"
    yield markdown(compiling())
    yield "## Log-likelihoods of the best of 32 restarts (float64)"
    yield markdown(agreement())


if __name__ == "__main__":
    write(RESULTS, report())
