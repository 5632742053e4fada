"""What variational Bayes costs, beside scikit-learn, hmmlearn, BayesPy and our own EM.

python benchmarks/variational_bayes.py    prints the tables, writes results/variational_bayes.md
make benchmark                            the same functions, one pytest-benchmark each

hmmlearn and BayesPy take part where they are installed; how it is measured stands in `measuring.py`.
"""

import functools
import importlib.util
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from gaussian_mixture import clusters
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
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture
from structured_latents import switching

import elbax
from elbax import components, priors


RESULTS = Path(__file__).parent / "results" / "variational_bayes.md"
HMMLEARN = importlib.util.find_spec("hmmlearn") is not None
BAYESPY = importlib.util.find_spec("bayespy") is not None
# (rows, columns, components), and the numbers of sweeps of a slope.
SIZES = {
    "100k x 16, K = 16": ((100_000, 16, 16), (2, 32), 7),
    "20k x 8, K = 8": ((20_000, 8, 8), (5, 65), 9),
    "Old Faithful, K = 6": (None, (20, 1020), 9),
}
BESIDE_BAYESPY = (
    "## A sweep, models of BayesPy\n\n"
    "A mixture of Gaussians with a normal-Wishart prior, and factor analysis with a relevance of each factor "
    "(a gamma prior on its precision). p, the data and the start are the same. For the factors q is the same too, "
    "and the bounds agree after as many sweeps. For the mixture BayesPy takes means and precisions as independent "
    "in q, so its bound is lower. A sweep of both measures the bound."
)


@functools.cache
def table(name: str) -> tuple[np.ndarray, int]:
    shape, *_ = SIZES[name]
    if shape is None:
        return np.asarray(elbax.datasets.old_faithful(), np.float32), 6
    rows, columns, number = shape
    return clusters()[:rows, :columns], number


def mixture(name: str) -> Row:
    """A sweep of variational Bayes, of scikit-learn's from the same clusters, and of our own EM.

    After as many sweeps the hyperparameters agree. The peer's bound leaves out constants, so it is not compared.
    """
    x, number = table(name)
    prior = priors.NormalInverseWishart.from_data(x, number)
    flat = priors.Dirichlet(1.0)
    plain = elbax.GaussianMixture(number, prior=prior, weights_prior=flat, floor=0.0)
    model = elbax.Bayesian(plain)
    parts = KMeans(number, n_init=1, random_state=0).fit(x).labels_
    data = jnp.asarray(x)
    q = after_clusters(model, x, parts)

    def theirs(n: int) -> BayesianGaussianMixture:
        peer = BayesianGaussianMixture(
            n_components=number,
            weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1.0,
            mean_precision_prior=prior.shrinkage,
            mean_prior=np.asarray(prior.mean, x.dtype),
            degrees_of_freedom_prior=prior.dof,
            covariance_prior=np.asarray(prior.scale, x.dtype),
            reg_covar=0.0,
            max_iter=n,
            tol=0.0,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peer.fit(x)

    ours = sweeps(chain(model), start(model, q), data)
    em = sweeps(chain(plain), start(plain, model.inside(q)), data)
    _, counts, rounds = SIZES[name]
    found = slopes({"elbax": ours, "EM": em, "scikit-learn": theirs}, counts, rounds)
    few = 5
    gap = model.inside(ours(few)[0].params)["components"]["mean"] - theirs(few).means_
    return {
        "data": name,
        "elbax, ms": spread(found["elbax"], 1e-3),
        "scikit-learn, ms": spread(found["scikit-learn"], 1e-3),
        "scikit-learn / elbax": ratio(found["scikit-learn"], found["elbax"]),
        "elbax / our EM": ratio(found["elbax"], found["EM"]),
        f"largest gap of means after {few} sweeps": f"{np.abs(gap).max():.1g}",
    }


def after_clusters(model: elbax.Bayesian, x: np.ndarray, parts: np.ndarray) -> Any:
    """Returns q after an M-step from these clusters, a peer's first."""
    latent, data = model.model.latent, jnp.asarray(x)
    certain = jnp.log(jnp.eye(latent.num_values, dtype=x.dtype))[parts]
    given = elbax.posteriors.Local(certain, latent)
    first = elbax.ClosedFormMStep(model)
    state = first.init(model.init(jax.random.key(0), data), given, key=jax.random.key(1))
    return jax.jit(first)(state, data)[0].params


def hidden_markov() -> Row:
    """A sweep for 64 x 500 x 4, 8 states, full covariances."""
    x = switching()
    flat = priors.Dirichlet(1.0)
    prior = priors.NormalInverseWishart(0.0, 1.0, 6.0, 1.0)
    plain = elbax.HiddenMarkovModel(
        components.Normal(prior=prior), 8, prior=flat, transition_prior=flat
    )
    model = elbax.Bayesian(plain)
    data = jnp.asarray(x)
    params = plain.init(jax.random.key(0), data)
    runs: dict[str, Run] = {
        "elbax": sweeps(chain(model), start(model, model.start(params, data)), data),
        "EM": sweeps(chain(plain), start(plain, params), data),
    }
    if HMMLEARN:
        runs["hmmlearn"] = _hmmlearn(x)
    found = slopes(runs, (2, 12), 5)
    row: Row = {
        "sequences": "64 x 500 x 4, 8 states",
        "elbax, ms": spread(found["elbax"], 1e-3),
        "elbax / our EM": ratio(found["elbax"], found["EM"]),
    }
    if HMMLEARN:
        row["hmmlearn, ms"] = spread(found["hmmlearn"], 1e-3)
        row["hmmlearn / elbax"] = ratio(found["hmmlearn"], found["elbax"])
    return row


def _hmmlearn(x: np.ndarray) -> Run:
    from hmmlearn.vhmm import VariationalGaussianHMM

    count, length, dim = x.shape

    def run(n: int) -> Any:
        peer = VariationalGaussianHMM(8, "full", n_iter=n, tol=-1e9, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peer.fit(x.reshape(-1, dim).astype(float), [length] * count)

    return run


def mixture_in_bayespy(name: str, counts: tuple[int, int]) -> Row:
    """The same mixture as nodes of BayesPy, from the same clusters.

    Its normal-Wishart node has no messages, so its q has means and precisions apart: p is the same, and its bound
    is a little lower.
    """
    from bayespy.nodes import Categorical, Dirichlet, Gaussian, Mixture, Wishart

    x, number = table(name)
    x = x - x.mean(0)
    dim, dof = x.shape[1], x.shape[1] + 2.0
    scale = np.cov(x.T) / number ** (2 / dim)
    prior = priors.NormalInverseWishart(0.0, 1.0, dof, scale)
    flat = priors.Dirichlet(1.0)
    plain = elbax.GaussianMixture(number, prior=prior, weights_prior=flat, floor=0.0)
    parts = KMeans(number, n_init=1, random_state=0).fit(x).labels_

    weights = Dirichlet(np.ones(number))
    labels = Categorical(weights, plates=(len(x),))
    precision = Wishart(dof, scale, plates=(number,))
    mean = Gaussian(np.zeros(dim), precision, plates=(number,))
    rows = Mixture(labels, Gaussian, mean, precision)
    labels.initialize_from_value(parts)
    rows.observe(x.astype(float))

    model = elbax.Bayesian(plain)
    q = after_clusters(model, x, parts)
    return beside_bayespy(
        f"mixture, {name}",
        model,
        q,
        jnp.asarray(x),
        (rows, mean, precision, weights, labels),
        counts,
    )


def relevant_factors_in_bayespy(name: str, number: int, counts: tuple[int, int]) -> Row:
    """Factor analysis whose factors have a relevance each, as nodes of BayesPy: the same p, q and start.

    Its nodes have no mean. So the columns are centered, and ours has a prior that keeps it at 0.
    """
    from bayespy.nodes import Gamma, GaussianARD, GaussianGamma, SumMultiply

    x = table(name)[0]
    x = x - x.mean(0)
    dim, relevance = x.shape[1], priors.Gamma(0.1, 0.1)
    prior = priors.NormalInverseGamma(relevance, 1.0, 1.0, intercept_precision=1e9)
    model = elbax.Bayesian(elbax.FactorAnalysis(number, prior=prior))
    data = jnp.asarray(x)
    q = model.init(jax.random.key(0), data)

    shape = relevance.shape + dim / 2
    relevances = Gamma(0.1, 0.1, plates=(number,))
    relevances.initialize_from_parameters(shape, shape / np.exp(q["relevance"]))
    loadings = GaussianGamma(
        np.zeros(number), relevances.as_diagonal_wishart(), 1.0, 1.0, plates=(dim, 1)
    )
    scores = GaussianARD(0, 1, shape=(number,), plates=(1, len(x)))
    linear, precision = jax.vmap(elbax.Exact(model, q))(data).natural
    covariance = np.linalg.inv(np.asarray(precision, float))
    scores.initialize_from_mean_and_covariance(
        np.einsum("nij,nj->ni", covariance, np.asarray(linear))[None], covariance[None]
    )
    rows = GaussianARD(SumMultiply("k,k->", loadings, scores), 1.0)
    rows.observe(x.T.astype(float))
    title = f"{name.split(',')[0]}, factors: {number}"
    return beside_bayespy(title, model, q, data, (rows, loadings, relevances, scores), counts)


def beside_bayespy(
    title: str, model: Any, q: Any, data: Any, nodes: tuple, counts: tuple[int, int]
) -> Row:
    """Seconds a sweep, and the bounds once both have made as many sweeps as BayesPy has by then."""
    from bayespy.inference import VB

    graph = VB(*nodes)
    ours = sweeps(chain(model), start(model, q), data)
    theirs = lambda n: graph.update(repeat=n, tol=-1, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = slopes({"elbax": ours, "BayesPy": theirs}, counts, 5)
    params = ours(graph.iter)[0].params
    bound = elbax.elbo(model, params, elbax.Exact(model, params), data)
    return {
        "model": title,
        "elbax, ms": spread(found["elbax"], 1e-3),
        "BayesPy, ms": spread(found["BayesPy"], 1e-3),
        "BayesPy / elbax": ratio(found["BayesPy"], found["elbax"]),
        "sweeps": graph.iter,
        "bound, nats a datum": f"{bound:.6f}",
        "BayesPy's": f"{graph.L[graph.iter - 1] / len(data):.6f}",
    }


def streamed() -> list[Row]:
    """Stochastic variational inference in one pass over a million rows, a block at a time, beside batch sweeps."""
    num_data, dim, number, size = 1_000_000, 8, 8, 1000
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(number, dim))
    x = (means[rng.integers(number, size=num_data)] + rng.normal(size=(num_data, dim))).astype(
        np.float32
    )
    prior = priors.NormalInverseWishart.from_data(x[:10_000], number)
    plain = elbax.GaussianMixture(
        number, prior=prior, weights_prior=priors.Dirichlet(1.0), floor=0.0
    )
    model = elbax.Bayesian(plain)
    q = model.outside(plain.init(jax.random.key(0), jnp.asarray(x[:200])), num_data)
    online = elbax.Chain(
        elbax.ExactEStep(model), elbax.OnlineMStep(model, rate=lambda t: (t + 2.0) ** -0.7)
    )

    @jax.jit
    def block(state, rows):
        weighted = lambda rows: elbax.Batch(rows, weight=num_data / size)
        return jax.lax.scan(lambda state, rows: online(state, weighted(rows)), state, rows)

    blocks = x.reshape(-1, 50, size, dim)
    first = online.init(q, key=jax.random.key(1))

    def once():
        state = first
        for rows in blocks:
            state, _ = block(state, jnp.asarray(rows))
        return jax.block_until_ready(state)

    whole = jnp.asarray(x)
    batch = sweeps(chain(model), start(model, q), whole)
    at = lambda q: float(elbax.elbo(model, q, elbax.Exact(model, q), whole))
    rows = [{"fit": "the start, from 200 rows", "s": "", "ELBO, nats a datum": f"{at(q):.5f}"}]
    for name, run in {
        "one pass, minibatches of 1000": once,
        "one batch sweep": functools.partial(batch, 1),
        "30 batch sweeps": functools.partial(batch, 30),
    }.items():
        run()
        begin = time.perf_counter()
        found = run()
        seconds = time.perf_counter() - begin
        params = getattr(found, "params", None) or found[0].params
        rows.append({"fit": name, "s": f"{seconds:.2f}", "ELBO, nats a datum": f"{at(params):.5f}"})
    return rows


def report() -> Iterator[str]:
    """The results file, part by part as it is measured."""
    peers: dict[str, Any] = {"scikit-learn": sklearn}
    if HMMLEARN:
        peers["hmmlearn"] = __import__("hmmlearn")
    if BAYESPY:
        peers["BayesPy"] = __import__("bayespy")
    yield heading(
        "Variational Bayes",
        "python benchmarks/variational_bayes.py",
        peers,
        "float32; hmmlearn and BayesPy float64. Full covariances. Other programs may use the machine.",
    )
    yield "## A sweep, Gaussian mixture"
    yield markdown([mixture(name) for name in SIZES])
    yield "## A sweep, hidden Markov model"
    yield markdown([hidden_markov()])
    if BAYESPY:
        yield BESIDE_BAYESPY
        yield markdown(
            [
                mixture_in_bayespy("Old Faithful, K = 6", (20, 820)),
                mixture_in_bayespy("20k x 8, K = 8", (2, 22)),
                relevant_factors_in_bayespy("Old Faithful, K = 6", 1, (20, 820)),
                relevant_factors_in_bayespy("20k x 8, K = 8", 4, (2, 22)),
            ]
        )
    yield "## A million rows, streamed"
    yield markdown(streamed())


if __name__ == "__main__":
    write(RESULTS, report())
