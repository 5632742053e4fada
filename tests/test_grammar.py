"""Parse trees against all trees, one by one; grammars against counts over all parses."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import example, given, settings, strategies as st

import elbax
from elbax import ContextFreeGrammar
from elbax.families import ParseTree
from elbax.families._inside_outside import inside_outside


def all_trees(allowed, number, start, width, symbol):
    """Trees over `width` words from `start` with that root, each a list of nodes (start, width - 1, symbol)
    and a list of rules."""
    if width == 1:
        return [([(start, 0, symbol)], [])] if symbol >= number else []
    if symbol >= number:
        return []
    found = []
    size = allowed.shape[1]
    for split in range(1, width):
        for b, c in itertools.product(range(size), repeat=2):
            if allowed[symbol, b, c]:
                left = all_trees(allowed, number, start, split, b)
                right = all_trees(allowed, number, start + split, width - split, c)
                for (nodes, rules), (others, more) in itertools.product(left, right):
                    node = (start, width - 1, symbol)
                    found.append(([node, *nodes, *others], [(symbol, b, c), *rules, *more]))
    return found


@functools.cache
def parses(number, preterminals, length, mask):
    """All (nodes, rules) of that many words under a mask's name."""
    roots, allowed = masks(number, preterminals, mask)
    return [
        tree
        for root in range(number)
        if roots[root]
        for tree in all_trees(allowed, number, 0, length, root)
    ]


def masks(number, preterminals, mask):
    size = number + preterminals
    roots, allowed = np.ones(number, bool), np.ones((number, size, size), bool)
    if mask:
        roots[-1] = False
        allowed = np.random.default_rng(1).random(allowed.shape) < 0.6
    return roots, allowed


def natural(seed, number, preterminals, count, length):
    rng = np.random.default_rng(seed)
    size = number + preterminals
    eta = {
        "root": rng.normal(size=number),
        "binary": rng.normal(size=(number, size, size)),
        "unary": rng.normal(size=(count, preterminals)),
        "length": np.array(length),
    }
    return jax.tree.map(jnp.asarray, eta)


def counts_of(trees, p, number, preterminals, count):
    """Expected counts of rules, and of nodes."""
    size = number + preterminals
    found = {
        "root": np.zeros(number),
        "binary": np.zeros((number, size, size)),
        "unary": np.zeros((count, preterminals)),
    }
    places = np.zeros((count, count, size))
    for (nodes, rules), share in zip(trees, p):
        found["root"][nodes[0][2]] += share
        for rule in rules:
            found["binary"][rule] += share
        for node in nodes:
            places[node] += share
            if node[1] == 0:
                found["unary"][node[0], node[2] - number] += share
    return found, places


def weigh(trees, eta, number):
    root, binary, unary = (np.asarray(eta[name]) for name in ("root", "binary", "unary"))
    return np.array(
        [
            root[nodes[0][2]]
            + sum(binary[rule] for rule in rules)
            + sum(unary[i, s - number] for i, w, s in nodes if w == 0)
            for nodes, rules in trees
        ]
    )


@eqx.filter_jit
def everything(family, eta, keys):
    q = family(eta)
    return (
        family.log_normalizer(eta),
        q.mean(),
        q.entropy(),
        q.mode(),
        family.constituents(eta),
        jax.vmap(family.sample, (None, 0))(eta, keys),
    )


@pytest.mark.parametrize(
    ("number", "preterminals", "count", "lengths", "mask"),
    [
        (2, 1, 4, (4, 3, 2), True),
        pytest.param(2, 2, 4, (4, 3, 2), False, marks=pytest.mark.slow),
        pytest.param(1, 2, 5, (5, 4, 2), False, marks=pytest.mark.slow),
    ],
)
def test_all_trees(number, preterminals, count, lengths, mask):
    """Value, counts of rules, constituents, entropy, best tree and draws, of sentences of all lengths."""
    roots, allowed = masks(number, preterminals, mask)
    family = ParseTree(number, preterminals, allowed=allowed, roots=roots)
    keys = jax.random.split(jax.random.key(0), 1000)
    for seed, length in enumerate(lengths):
        eta = natural(seed, number, preterminals, count, length)
        value, mean, entropy, mode, constituents, drawn = everything(family, eta, keys)
        trees = parses(number, preterminals, length, mask)
        weights = weigh(trees, eta, number)
        expected = scipy.special.logsumexp(weights)
        p = np.exp(weights - expected)
        rules, nodes = counts_of(trees, p, number, preterminals, count)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        for name, theirs in rules.items():
            np.testing.assert_allclose(mean[name], theirs, atol=1e-11)
        np.testing.assert_allclose(constituents, nodes, atol=1e-11)
        np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), atol=1e-9)
        best = counts_of([trees[int(np.argmax(weights))]], [1], number, preterminals, count)
        np.testing.assert_array_equal(mode, best[1] > 0)
        statistics = family.statistics(mode)
        for name, theirs in best[0].items():
            np.testing.assert_array_equal(statistics[name], theirs)
        assert statistics["length"] == length
        np.testing.assert_allclose(family.score(eta, mode), weights.max(), rtol=1e-11)
        places = {
            counts_of([tree], [1], number, preterminals, count)[1].tobytes(): i
            for i, tree in enumerate(trees)
        }
        found = np.zeros(len(trees))
        for tree in np.asarray(drawn, float):
            found[places[tree.tobytes()]] += 1 / len(drawn)
        assert (np.abs(found - p) <= 6 * np.sqrt(p * (1 - p) / 1000) + 6 / 1000).all()


@pytest.mark.parametrize("length", [2, 3, 4])
def test_brackets_say_the_tree(length):
    """Every tree of its own, and as many brackets as nodes."""
    family, seen = ParseTree(2, 1), set()
    trees = parses(2, 1, length, False)
    for tree in trees:
        z = counts_of([tree], [1], 2, 1, 4)[1] > 0
        written = family.bracketed(jnp.asarray(z), "abcd", "STw")
        assert written.count("(") == written.count(")") == 2 * length - 1
        assert [c for c in written if c in "abcd"] == list("abcd"[:length])
        assert written[1] == "ST"[tree[0][0][2]]
        seen.add(written)
    assert len(seen) == len(trees)


@pytest.mark.slow
def test_long_sentences():
    """30 words, where widths come in bands: Catalan numbers, and each of the words once."""
    family = ParseTree(1, 1)
    eta = {"root": jnp.zeros(1), "binary": jnp.zeros((1, 2, 2)), "unary": jnp.zeros((30, 1))}

    @jax.jit
    def both(length):
        full = {**eta, "length": length}
        return family.log_normalizer(full), family.mean(full)

    for length in (30, 17, 2):
        value, mean = both(jnp.array(length))
        catalan = scipy.special.comb(2 * length - 2, length - 1, exact=True) // length
        np.testing.assert_allclose(value, np.log(float(catalan)), rtol=1e-12)
        np.testing.assert_allclose(mean["unary"][:, 0], np.arange(30) < length, atol=1e-12)
        np.testing.assert_allclose(jnp.sum(mean["binary"]), length - 1, rtol=1e-12)


@jax.jit
def checked(eta):
    return inside_outside(*(eta[name] for name in ("root", "binary", "unary", "length")))


@functools.partial(jax.jit, static_argnums=0)
def value_and_slope(family, eta):
    rest = {"length": eta["length"]}
    potentials = {name: eta[name] for name in ("root", "binary", "unary")}
    return jax.value_and_grad(lambda p: family.log_normalizer(p | rest))(potentials)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 15.0, 40.0, 90.0, 300.0]),
    st.sampled_from([0.0, 0.3, 0.7]),
    st.sampled_from([5, 4, 2]),
)
@example(0, 90.0, 0.0, 5)
@example(1, 40.0, 0.7, 5)
def test_what_is_certified_is_right(seed, spread, missing, length):
    """Weights that lie apart by more than float32 holds, rules that are missing: whatever inside and outside
    lose between them, what they call right agrees with logarithms in float64."""
    rng = np.random.default_rng(seed)
    numbers = {
        "root": spread * rng.uniform(-1, 0, 2),
        "binary": spread * rng.uniform(-1, 0, (2, 4, 4)),
        "unary": spread * rng.uniform(-1, 0, (5, 2)),
    }
    numbers["binary"][rng.random((2, 4, 4)) < missing] = -np.inf
    narrow = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in numbers.items()}
    eta = {name: leaf.astype(float) for name, leaf in narrow.items()}
    narrow["length"] = eta["length"] = jnp.array(length)
    certain, value, marginals = checked(narrow)
    expected, slope = value_and_slope(ParseTree(2, 2, form="log"), eta)
    possible = bool(jnp.isfinite(expected))
    if spread == 1.0 and possible:
        assert bool(certain)
    if bool(certain):
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-4)
        for name, leaf in marginals.items():
            np.testing.assert_allclose(leaf, slope[name], atol=1e-3, err_msg=name)
    ours, found = value_and_slope(ParseTree(2, 2), narrow)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-4)
    if possible:
        for name in marginals:
            np.testing.assert_allclose(found[name], slope[name], atol=1e-3, err_msg=name)


def test_the_only_parse_leads_through_what_float32_cannot_hold():
    """Of two symbols over the first two words the unlikely one alone, by e^-120, fits the third."""
    rules = np.full((3, 5, 5), -np.inf)
    rules[1, 3, 3], rules[2, 3, 3], rules[0, 2, 4] = 0.0, -120.0, 0.0
    unary = np.array([[0.0, -np.inf], [0.0, -np.inf], [-np.inf, 0.0]])
    eta = {"root": jnp.zeros(3), "binary": jnp.asarray(rules), "unary": jnp.asarray(unary)}
    narrow = {name: leaf.astype(jnp.float32) for name, leaf in eta.items()}
    narrow["length"] = jnp.array(3)
    assert not bool(checked(narrow)[0])
    value, slope = value_and_slope(ParseTree(3, 2), narrow)
    np.testing.assert_allclose(value, -120.0, rtol=1e-6)
    np.testing.assert_allclose(slope["binary"][2, 3, 3], 1.0, rtol=1e-6)
    assert slope["binary"][1, 3, 3] == 0


# --- grammars --------------------------------------------------------------------------------------


WORDS = 3
CORPUS = ([0, 1, 2, 0], [1, 1], [2, 0, 1], [0, 2])
EMITS = np.array([[True, True, False], [True, True, True]])


@functools.cache
def corpus():
    padded = np.array([[*s, *[0] * (4 - len(s))] for s in CORPUS])
    return elbax.Sequence(jnp.asarray(padded), jnp.array([len(s) for s in CORPUS]))


@functools.cache
def grammar(mask):
    roots, allowed = masks(2, 2, mask)
    # Every word can be parsed: from a nonterminal that may be the root into all pairs.
    allowed[0] = True
    emits = EMITS if mask else None
    model = ContextFreeGrammar(2, 2, WORDS, allowed=allowed, roots=roots, emits=emits)
    return model, model.init(jax.random.key(0), corpus()), roots, allowed


def tables(described, sentence):
    """Log-potentials of one sentence."""
    with np.errstate(divide="ignore"):
        logs = {name: np.log(np.asarray(leaf)) for name, leaf in described.items()}
    return {
        "root": logs["root"],
        "binary": logs["binary"],
        "unary": logs["emission"].T[list(sentence)],
    }


def brute_force(described, allowed, roots):
    """(log p of each sentence, the described params after a step, best trees) by all parses."""
    total = {name: np.zeros(np.shape(leaf)) for name, leaf in described.items()}
    values, best = [], []
    for sentence in CORPUS:
        trees = [
            tree
            for root in range(2)
            if roots[root]
            for tree in all_trees(allowed, 2, 0, len(sentence), root)
        ]
        weights = weigh(trees, tables(described, sentence), 2)
        values.append(scipy.special.logsumexp(weights))
        counts, _ = counts_of(trees, np.exp(weights - values[-1]), 2, 2, len(sentence))
        total["root"] += counts["root"]
        total["binary"] += counts["binary"]
        for word, share in zip(sentence, counts["unary"]):
            total["emission"][:, word] += share
        best.append(counts_of([trees[int(np.argmax(weights))]], [1], 2, 2, 4)[1] > 0)
    moved = {
        "root": total["root"] / total["root"].sum(),
        "binary": total["binary"] / total["binary"].sum((1, 2), keepdims=True),
        "emission": total["emission"] / total["emission"].sum(1, keepdims=True),
    }
    return np.array(values), moved, best


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
def test_inside_outside(mask):
    """One step is the counts of all parses; then it ascends, and what is impossible stays so."""
    model, params, roots, allowed = grammar(mask)
    model.check(corpus())
    values, moved, best = brute_force(model.describe(params), allowed, roots)
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(1))
    modes = jax.jit(jax.vmap(lambda x: elbax.Exact(model, params)(x).mode()))(corpus())
    for ours, theirs in zip(modes, best):
        np.testing.assert_array_equal(ours, theirs)
    step, last = eqx.filter_jit(em), -np.inf
    state, info = step(state, corpus())
    np.testing.assert_allclose(info.elbo, values.mean(), rtol=1e-11)
    ours = model.describe(state.params)
    for name, theirs in moved.items():
        np.testing.assert_allclose(ours[name], theirs, atol=1e-10)
    for _ in range(10):
        state, info = step(state, corpus())
        assert info.elbo > last - 1e-12
        last = float(info.elbo)
    assert last > values.mean()
    ours = model.describe(state.params)
    np.testing.assert_array_equal(ours["binary"][~allowed], 0)
    if mask:
        np.testing.assert_array_equal(ours["emission"][~EMITS], 0)
        np.testing.assert_array_equal(ours["root"][~roots], 0)


@pytest.mark.parametrize("mask", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_density_and_entropy_beside_impossible_words(mask):
    """log p(x, z) of the best parse, and H(q), where a preterminal cannot be a word that is there."""
    model, params, roots, allowed = grammar(mask)
    sentence = jnp.asarray(CORPUS[0])
    described = model.describe(params)
    q = elbax.Exact(model, params)(sentence)
    trees = [t for root in range(2) if roots[root] for t in all_trees(allowed, 2, 0, 4, root)]
    weights = weigh(trees, tables(described, CORPUS[0]), 2)
    p = scipy.special.softmax(weights)
    entropy, mode = jax.jit(lambda q: (q.entropy(), q.mode()))(q)
    np.testing.assert_allclose(entropy, -np.sum(p[p > 0] * np.log(p[p > 0])), rtol=1e-9)
    np.testing.assert_allclose(model.log_joint(params, sentence, mode), weights.max(), rtol=1e-11)


@pytest.mark.slow
def test_a_neural_grammar_improves():
    """Rules from a small network of symbols' vectors, by gradients through Bayes' rule."""
    plain = ContextFreeGrammar(2, 2, WORDS)

    def expand(params):
        hidden = jnp.tanh(params["symbols"] @ params["layer"])
        return {
            "root": hidden[:2] @ params["root"],
            "binary": jnp.einsum("ad,bd,cd->abc", hidden[:2], hidden, params["symbols"]),
            "emission": hidden[2:] @ params["words"],
        }

    shapes = {"symbols": (4, 3), "layer": (3, 3), "root": (3,), "words": (3, WORDS)}
    params = {
        name: jax.random.normal(jax.random.key(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    model = elbax.Tied(plain, expand)
    update = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(0.05)))
    state = update.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    before = elbax.evidence(plain, expand(params), corpus())
    state, info = eqx.filter_jit(
        lambda state, x: jax.lax.scan(lambda state, _: update(state, x), state, length=60)
    )(state, corpus())
    np.testing.assert_allclose(info.elbo[0], before, rtol=1e-12)
    after = elbax.evidence(plain, expand(state.params), corpus())
    assert after > before + 0.3


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3)), "integers of shape"),
        (np.array([[0, 1, 3]]), "sentence 0, word 2 is 3"),
        (np.zeros((2, 1), int), "at least 2 words.*at most 1"),
    ],
)
def test_what_are_no_sentences_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        ContextFreeGrammar(1, 1, 3).check(jnp.asarray(x))


def test_a_sentence_of_one_word_is_refused_by_its_number():
    x = elbax.Sequence(jnp.zeros((3, 4), int), jnp.array([2, 4, 1]))
    with pytest.raises(ValueError, match="sentence 2 has 1 words"):
        ContextFreeGrammar(1, 1, 3).check(x)


def test_arguments_are_checked(as_users_run):
    with pytest.raises(ValueError, match="num_nonterminals must be at least 1"):
        ParseTree(0, 1)
    with pytest.raises(ValueError, match=r"allowed must be a boolean array of shape \(1, 2, 2\)"):
        ParseTree(1, 1, allowed=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="form must be 'auto' or 'log', got 'scaled'"):
        ParseTree(1, 1, form="scaled")
    with pytest.raises(ValueError, match="num_words must be at least 1"):
        ContextFreeGrammar(1, 1, 0)
    with pytest.raises(TypeError, match="Dirichlet"):
        ContextFreeGrammar(1, 1, 2, prior=2.0)
    with pytest.raises(TypeError, match="Use mode or sample"):
        ParseTree(1, 1).decode({})


def test_counts_of_free_params():
    """2 roots, 2 × 16 rules, 2 × 3 words, each row less one."""
    model, params, *_ = grammar(False)
    assert model.num_free_params(params) == 1 + 2 * 15 + 2 * 2
