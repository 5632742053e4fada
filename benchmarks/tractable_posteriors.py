"""What mixtures and factor models cost, beside scikit-learn, pomegranate and mclust.

python benchmarks/tractable_posteriors.py    prints the tables, writes results/tractable_posteriors.md
make benchmark                               the same functions, one pytest-benchmark each

pomegranate (with PyTorch) and mclust (R) take part where they are installed; how it is measured stands in
`measuring.py`.
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from measuring import (
    chain,
    heading,
    markdown,
    ratio,
    Row,
    Run,
    seconds,
    slopes,
    spread,
    start,
    sweeps,
    THREADS,
    write,
)
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

import elbax


RESULTS = Path(__file__).parent / "results" / "tractable_posteriors.md"
POMEGRANATE = importlib.util.find_spec("pomegranate") is not None
MCLUST = shutil.which("Rscript") is not None
C = elbax.components


@functools.cache
def table(kind: str, num_data: int = 100_000) -> np.ndarray:
    """Eight groups of rows, 16 columns, of the kind that a component is for."""
    rng = np.random.default_rng(0)
    which = rng.integers(8, size=num_data)
    if kind == "Normal":
        return (2 * rng.normal(size=(8, 16))[which] + rng.normal(size=(num_data, 16))).astype(
            np.float32
        )
    if kind == "StudentT":
        noise = rng.standard_t(4, size=(num_data, 16))
        return (2 * rng.normal(size=(8, 16))[which] + noise).astype(np.float32)
    if kind == "Bernoulli":
        return (rng.random((num_data, 16)) < rng.random((8, 16))[which]).astype(np.float32)
    if kind == "Poisson":
        return rng.poisson(rng.gamma(2, 2, (8, 16))[which]).astype(np.float32)
    if kind == "Gamma":
        return rng.gamma(rng.gamma(3, 2, (8, 16))[which]).astype(np.float32) + 1e-3
    if kind == "Categorical":
        limits = np.cumsum(rng.dirichlet(np.ones(5), (8, 16)), -1)[which]
        return np.minimum((rng.random((num_data, 16, 1)) > limits).sum(-1), 4).astype(np.float32)
    raise ValueError(kind)


KINDS: dict[str, tuple[Any, Callable | None]] = {
    "Normal": (
        C.Normal("full"),
        lambda d, k: ("Normal", (d["means"][k], d["covariances"][k])),
    ),
    "StudentT": (C.StudentT("full"), None),
    "FactorAnalyzer": (C.FactorAnalyzer(3), None),
    "Bernoulli": (C.Bernoulli(), lambda d, k: ("Bernoulli", (d["probabilities"][k],))),
    "Categorical": (C.Categorical(5), lambda d, k: ("Categorical", (d["probabilities"][k],))),
    "Poisson": (C.Poisson(), lambda d, k: ("Poisson", (d["rates"][k],))),
    "Gamma": (C.Gamma(), lambda d, k: ("Gamma", (d["shapes"][k], d["rates"][k]))),
}


def pomegranate_run(model: elbax.Mixture, params: Any, x: np.ndarray, peer: Callable) -> Run:
    """n sweeps of pomegranate's EM from the same params."""
    import pomegranate.distributions
    import torch
    from pomegranate.gmm import GeneralMixtureModel

    torch.set_num_threads(THREADS)
    described = {name: np.asarray(leaf) for name, leaf in model.describe(params).items()}
    rows = torch.tensor(x.astype(np.int64) if isinstance(model.component, C.Categorical) else x)

    def run(n):
        parts = []
        for k in range(model.num_components):
            name, arguments = peer(described, k)
            family = getattr(pomegranate.distributions, name)
            parts.append(family(*(torch.tensor(argument) for argument in arguments)))
        weights = torch.tensor(described["weights"] / described["weights"].sum())
        mixture = GeneralMixtureModel(parts, priors=weights, max_iter=n, tol=-1e30)
        return mixture.fit(rows)

    return run


def mixtures(kind: str) -> Row:
    """A sweep of a mixture of 8 components over 100k x 16."""
    component, peer = KINDS[kind]
    x = table("Normal" if kind == "FactorAnalyzer" else kind)
    model = elbax.Mixture(component, 8)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    ours = sweeps(chain(model, 10_000), start(model, params), jnp.asarray(x))
    runs = {"elbax": ours}
    if POMEGRANATE and peer is not None:
        runs["pomegranate"] = pomegranate_run(model, params, x, peer)
    found = slopes(runs, (2, 8), 5)
    row: Row = {"mixture, 100k x 16, K = 8": kind, "elbax, ms": spread(found["elbax"], 1e-3)}
    if "pomegranate" in runs:
        theirs = runs["pomegranate"](8).log_probability
        import torch

        with torch.no_grad():
            rows = torch.tensor(x.astype(np.int64) if kind == "Categorical" else x)
            reached = float(theirs(rows).mean())
        # Theirs after 8 M-steps; ours reports the evidence before its ninth.
        row |= {
            "pomegranate, ms": spread(found["pomegranate"], 1e-3),
            "pomegranate / elbax": ratio(found["pomegranate"], found["elbax"]),
            "log p(x) − theirs after 8 sweeps": f"{float(ours(9)[1].elbo[-1]) - reached:.1g}",
        }
    else:
        row |= dict.fromkeys(
            ("pomegranate, ms", "pomegranate / elbax", "log p(x) − theirs after 8 sweeps"), "none"
        )
    return row


@functools.cache
def factors(num_data: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(num_data, 10))
    noise = rng.normal(size=(num_data, 64)) * rng.uniform(0.5, 1.5, 64)
    return (z @ rng.normal(size=(10, 64)) + noise).astype(np.float32)


def factor_analysis(num_data: int) -> Row:
    """A sweep of factor analysis, 64 columns and 10 factors, and a whole fit to one tolerance."""
    x = factors(num_data)
    model = elbax.FactorAnalysis(10)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    compressed = elbax.compress(jnp.asarray(x), chunk_size=50_000)

    def theirs(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return FactorAnalysis(10, tol=0.0, max_iter=n, random_state=0).fit(x)

    fast = slopes(
        {"compressed": sweeps(chain(model), start(model, params), compressed)}, (10, 510), 7
    )
    runs = {
        "all rows": sweeps(chain(model, 10_000), start(model, params), jnp.asarray(x)),
        "scikit-learn": theirs,
    }
    found = fast | slopes(runs, (1, 4), 3)
    return {
        "N x 64, 10 factors": num_data,
        "compressed, ms": spread(found["compressed"], 1e-3),
        "all rows, ms": spread(found["all rows"], 1e-3),
        "scikit-learn, ms": spread(found["scikit-learn"], 1e-3),
        "scikit-learn / compressed": ratio(found["scikit-learn"], found["compressed"]),
        "scikit-learn / all rows": ratio(found["scikit-learn"], found["all rows"]),
    }


SCRIPT = """
suppressMessages(library(mclust)); library(stats)
x <- as.matrix(read.csv("FOLDER/x.csv", header = FALSE)); z <- unmap(scan("FOLDER/z.csv", quiet = TRUE))
control <- emControl(tol = c(1e-7, 1e-7), itmax = c(1000, 1000))
fit <- me(x, modelName = "NAME", z = z, control = control)
times <- sapply(1:3, function(i) system.time(me(x, modelName = "NAME", z = z, control = control))[["elapsed"]])
cat(sprintf('{"seconds": [%s], "log_likelihood": %.10g, "steps": %d}',
    paste(times, collapse = ","), fit$loglik, as.integer(attr(fit, "info")[1])))
"""


def mclust(num_data: int, covariance: str) -> Row:
    """A whole fit by EM from one partition, to one relative tolerance, beside mclust's Fortran."""
    x = table("Normal", num_data)[:, :8].astype(float)
    rng = np.random.default_rng(2)
    # A partition by the nearest of five rows.
    centers = x[rng.choice(len(x), 5, replace=False)]
    which = ((x[:, None] - centers) ** 2).sum(-1).argmin(1)
    name = {"full": "VVV", "tied": "EEE", "diagonal": "VVI", "spherical": "VII"}[covariance]
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(f"{folder}/x.csv", x, delimiter=",")
        np.savetxt(f"{folder}/z.csv", which + 1, fmt="%d")
        code = SCRIPT.replace("FOLDER", folder).replace("NAME", name)
        printed = subprocess.run(
            ["Rscript", "-e", code], capture_output=True, text=True, check=True
        ).stdout
    theirs = json.loads(printed[printed.index("{") :])
    with jax.enable_x64(True):
        model = elbax.GaussianMixture(5, covariance, floor=0.0)
        parts = [x[which == k] for k in range(5)]
        spreads = np.stack([np.cov(part.T, bias=True) for part in parts])
        weights = np.array([len(part) for part in parts]) / len(x)
        if covariance == "tied":
            spreads[:] = np.tensordot(weights, spreads, 1)
        params = model.from_description(
            weights=weights, means=np.stack([part.mean(0) for part in parts]), covariances=spreads
        )
        data = jnp.asarray(x)
        step = chain(model)

        def ours():
            return elbax.fit(step, start(model, params), data, tolerance=1e-7, max_steps=1000)

        result = ours()
        times = np.array([seconds(ours) for _ in range(3)])
        likelihood = float(result.elbo) * len(x)
    theirs_seconds = np.array(theirs["seconds"])
    return {
        "data": f"{num_data} x 8, K = 5",
        "covariance": f"{covariance} ({name})",
        "elbax, s": spread(times),
        "mclust, s": spread(theirs_seconds),
        "mclust / elbax": ratio(theirs_seconds, times),
        "steps": f"{result.num_steps} / {theirs['steps']}",
        "log p(x) − theirs": f"{likelihood - theirs['log_likelihood']:.2g}",
    }


def restarts(num_data: int) -> Row:
    """64 restarts at once, beside fits one after the other, all compiled before."""
    if num_data == 272:
        x, k = jnp.asarray(elbax.datasets.old_faithful()), 2
    else:
        x, k = jnp.asarray(table("Normal", num_data)[:, :4]), 8
    model = elbax.GaussianMixture(k)
    step = chain(model)

    def begin(key):
        return start(model, model.init(key, x))

    keys = jax.random.split(jax.random.key(0), 64)
    states = jax.vmap(begin)(keys)
    several = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(64)]

    def together():
        return elbax.fit_restarts(step, states, x, max_steps=200)

    def in_turn(number):
        return [elbax.fit(step, state, x, max_steps=200) for state in several[:number]]

    together(), in_turn(1)
    one, eight, all_ = (
        np.array([seconds(run) for _ in range(3)])
        for run in (together, lambda: in_turn(8), lambda: in_turn(64))
    )
    return {
        "data": f"{num_data} x {x.shape[1]}, K = {k}",
        "64 vmapped, s": spread(one),
        "8 in turn, s": spread(eight),
        "64 in turn, s": spread(all_),
        "64 vmapped / 8 in turn": ratio(one, eight),
    }


def incomplete() -> list[Row]:
    """A sweep over 20k x 8 rows, of which none, some or many entries are missing."""
    x = table("Normal", 20_000)[:, :8]
    rng = np.random.default_rng(3)
    rows = []
    for name, columns, share in (("none", 0, 0.0), ("2 columns", 2, 0.2), ("all columns", 8, 0.1)):
        holes = np.zeros(x.shape, bool)
        holes[:, :columns] = rng.random((len(x), columns)) < share
        holes &= ~holes.all(1)[:, None]
        batch = (
            elbax.incomplete(jnp.where(holes, jnp.nan, x))
            if columns
            else elbax.Batch(jnp.asarray(x))
        )
        model = elbax.GaussianMixture(4)
        params = model.init(jax.random.key(0), batch)
        found = slopes({"elbax": sweeps(chain(model), start(model, params), batch)}, (2, 12), 5)
        rows.append(
            {
                "missing": f"{100 * holes.mean():.1f} %, in {name}",
                "patterns": len(np.unique(holes, axis=0)),
                "blocks": "none" if not columns else str(batch.x.values.shape[:2]),
                "elbax, ms": spread(found["elbax"], 1e-3),
            }
        )
    return rows


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    peers = {"scikit-learn": sklearn, "numpy": np}
    if POMEGRANATE:
        import pomegranate
        import torch

        peers |= {"pomegranate": pomegranate, "torch": torch}
    yield heading(
        "Tractable posteriors",
        "python benchmarks/tractable_posteriors.py",
        peers,
        "float32 but for mclust.",
    )
    yield "## A sweep of EM, beside pomegranate"
    yield markdown([mixtures(kind) for kind in KINDS])
    yield "## A sweep of factor analysis, beside scikit-learn"
    yield markdown([factor_analysis(n) for n in (1_000, 10_000, 100_000, 1_000_000)])
    if MCLUST:
        yield "## A whole fit from one start (float64), beside mclust"
        cases = [(n, "full") for n in (10_000, 100_000)]
        cases += [(10_000, c) for c in ("tied", "diagonal", "spherical")]
        yield markdown([mclust(*case) for case in cases])
    yield "## Restarts at once and in turn"
    yield markdown([restarts(n) for n in (272, 1_000, 10_000)])
    yield "## Incomplete rows, full covariances, K = 4"
    yield markdown(incomplete())


if __name__ == "__main__":
    write(RESULTS, report())
