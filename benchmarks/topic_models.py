"""Passes of variational Bayes for topics: elbax beside scikit-learn (and gensim, where it is installed).

All start from the same topics, in one process, in turns. Documents are drawn from the model: `reuters` and
`news` have about the sizes of the Reuters sample of 395 documents and of the 20 Newsgroups. A pass of scikit-learn
iterates each document to its tolerance of 1e-3 from a fresh start; one of elbax makes five rounds from the last
pass's q, or ten from a fresh start. So the table also has the bound per word that each reaches after its passes.

    python benchmarks/topic_models.py [reuters] [news]
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import scipy.sparse
import scipy.special
from sklearn.decomposition import LatentDirichletAllocation

import elbax


SIZES = {"reuters": (395, 4258, 210), "news": (11314, 20000, 180)}
K = 20
FREE = {"topics": True, "log_concentration": False}


def corpus(num_documents: int, num_words: int, length: int) -> Any:
    """Returns counts of documents of lengths about a log-normal, with words of Zipf's frequencies in topics."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, num_words + 1)
    topics = rng.dirichlet(500 * frequency / frequency.sum() + 1e-3, K)
    rows = []
    for _ in range(num_documents):
        words = rng.poisson(length * np.exp(rng.normal(-0.125, 0.5))) + 5
        rows.append(
            scipy.sparse.csr_matrix(rng.multinomial(words, rng.dirichlet(np.full(K, 0.1)) @ topics))
        )
    return scipy.sparse.vstack(rows).tocsr().astype(float)


def contestants(counts: Any, dtype: type) -> dict:
    """Returns {name: a function that makes one more pass and returns nothing until it is done}."""
    num_documents, num_words = counts.shape
    theirs = LatentDirichletAllocation(K, max_iter=1, random_state=0)
    counts = counts.astype(dtype)
    theirs.fit(counts)
    first = theirs.components_.copy()
    prior = elbax.priors.Dirichlet(1 / K)
    model = elbax.Bayesian(elbax.LatentDirichletAllocation(K, num_words, prior=prior))
    batch = elbax.documents(counts)
    params = {
        "topics": jnp.log(jnp.asarray(first, dtype)),
        "log_concentration": jnp.full(K, np.log(1 / K), dtype),
    }
    total = counts.sum()
    made = {}

    def add(name, e_step, posterior):
        update = elbax.Chain(e_step, elbax.ClosedFormMStep(model, free=FREE))
        step = jax.jit(update)
        begin = time.perf_counter()
        state = update.init(params, posterior, key=jax.random.key(0))
        jax.block_until_ready(step(state, batch))
        print(f"{name}: compiled in {time.perf_counter() - begin:.1f} s", flush=True)

        def one_pass(state):
            state, info = step(state, batch)
            jax.block_until_ready(info.elbo)
            return state

        def topics(state):
            return np.exp(np.asarray(state.params["topics"], float))

        made[name] = state, one_pass, topics

    table = elbax.posteriors.MeanField.init(model, params, batch)
    add("elbax, table, 5 rounds", elbax.MeanFieldEStep(model, 5), table)
    add("elbax, afresh, 10 rounds", elbax.CoordinateAscentEStep(model, 10), None)

    def pass_of_scikit_learn(components):
        theirs.components_ = components
        theirs.exp_dirichlet_component_ = np.exp(_expectation(components)).astype(dtype)
        theirs._em_step(counts, total_samples=num_documents, batch_update=True)
        return theirs.components_

    made["scikit-learn"] = first.astype(dtype), pass_of_scikit_learn, lambda state: state
    return made | {"evaluate": lambda topics: _bound(theirs, counts, topics.astype(dtype)) / total}


def _expectation(components: np.ndarray) -> np.ndarray:
    return scipy.special.digamma(components) - scipy.special.digamma(
        components.sum(1, keepdims=True)
    )


def _bound(theirs: LatentDirichletAllocation, counts: Any, topics) -> float:
    theirs.components_ = topics
    theirs.exp_dirichlet_component_ = np.exp(_expectation(topics)).astype(topics.dtype)
    return theirs.score(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["reuters"])
    parser.add_argument("--passes", type=int, default=20)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        counts = corpus(*SIZES[size])
        print(f"\n{size}: {counts.shape}, {counts.nnz} distinct words of documents, K = {K}")
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(dtype is np.float64):
                made = contestants(counts, dtype)
                evaluate = made.pop("evaluate")
                times: dict[str, list[float]] = {name: [] for name in made}
                for _ in range(arguments.passes):
                    for name, (state, one_pass, topics) in made.items():
                        begin = time.perf_counter()
                        state = one_pass(state)
                        times[name].append(time.perf_counter() - begin)
                        made[name] = state, one_pass, topics
                base = np.median(times["scikit-learn"])
                print(
                    f"| {np.dtype(dtype)} | ms a pass, median (least) | times as fast | bound per word |"
                )
                for name, (state, _, topics) in made.items():
                    middle, least = np.median(times[name]), np.min(times[name])
                    print(
                        f"| {name} | {1e3 * middle:.1f} ({1e3 * least:.1f}) | {base / middle:.1f} | "
                        f"{evaluate(topics(state)):.4f} |",
                        flush=True,
                    )
    print(f"{measuring.THREADS} threads")


if __name__ == "__main__":
    main()
