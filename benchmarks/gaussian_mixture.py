"""What the Gaussian mixture costs, beside scikit-learn and beside the same algorithm by hand.

python benchmarks/gaussian_mixture.py    prints the tables, writes results/gaussian_mixture.md
make benchmark                           the same functions, one pytest-benchmark each

Seconds a sweep are slopes, (time of n₂ sweeps − time of n₁) / (n₂ − n₁), since compiling, starting
and the last E-step are not sweeps. The contestants alternate in one process, on a fixed number of
threads, from one start and after a warm-up round. Medians stand with the quartiles of the rounds.
"""

import contextlib
import datetime
import functools
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import sklearn
import threadpoolctl
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import elbax


RESULTS = Path(__file__).parent / "results" / "gaussian_mixture.md"
THREADS = 2
CHUNK_SIZE = 10_000
PEERS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
CASES = [*(("100k x 16, K = 16", kind) for kind in PEERS), ("Old Faithful, K = 2", "full")]

Row = dict[str, Any]
Run = Callable[[int], Any]

# XLA's pool gets as many threads as there are cores to run on when its first array is made.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
threadpoolctl.threadpool_limits(THREADS)


@functools.cache
def clusters() -> np.ndarray:
    """100k x 16 in float32: 16 unit normals about means of standard deviation 2."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(16, 16))
    which = rng.integers(16, size=100_000)
    return (means[which] + rng.normal(size=(100_000, 16))).astype(np.float32)


def chain(model: elbax.Mixture, chunk_size: int | None = None) -> elbax.Chain:
    return elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size))


def start(model: elbax.Mixture, params: Any) -> elbax.ELBOState:
    return chain(model).init(params, elbax.Exact(model, params), key=jax.random.key(1))


def sweeps(step: Callable, state: Any, x: jax.Array) -> Run:
    """n sweeps in one jitted scan, waited for."""

    @functools.partial(jax.jit, static_argnames="n")
    def run(state, x, n):
        return jax.lax.scan(lambda state, _: step(state, x), state, length=n)

    return lambda n: jax.block_until_ready(run(state, x, n))


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


def slopes(runs: dict[str, Run], counts: tuple[int, int], rounds: int) -> dict[str, np.ndarray]:
    """Seconds a sweep of each contestant, one slope a round."""
    few, many = counts
    found = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            found[name].append((seconds(run, many) - seconds(run, few)) / (many - few))
    return {name: np.array(values[1:]) for name, values in found.items()}


def seconds(function: Callable, *args: Any) -> float:
    begin = time.perf_counter()
    function(*args)
    return time.perf_counter() - begin


def spread(values: np.ndarray, unit: float = 1) -> str:
    low, middle, high = np.quantile(values / unit, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """The ratio of the medians; at worst and at best, that of opposite quartiles."""
    (a_low, a_mid, a_high), (b_low, b_mid, b_high) = (
        np.quantile(values, [0.25, 0.5, 0.75]) for values in (a, b)
    )
    return f"{a_mid / b_mid:.2f} ({a_low / b_high:.2f} to {a_high / b_low:.2f})"


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


def markdown(rows: list[Row]) -> str:
    head = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return "\n".join(head + ["| " + " | ".join(map(str, row.values())) + " |" for row in rows])


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    versions = {"jax": jax, "scikit-learn": sklearn, "numpy": np, "scipy": scipy, "elbax": elbax}
    yield (
        f"# Gaussian mixtures\n\n{datetime.date.today()}, {processor()}, {THREADS} threads; Python "
        f"{platform.python_version()}, "
        + ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
        + ". float32 but for the last table. Medians, with quartiles over alternating rounds; seconds "
        "a sweep are slopes between two numbers of sweeps. `python benchmarks/gaussian_mixture.py`."
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


def main() -> None:
    parts = []
    for part in report():
        print(part, end="\n\n", flush=True)
        parts.append(part)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
