"""A probabilistic grammar; the latent is the parse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_key, check_kind
from .._invariance import beside_by_name, Invariances, shifts
from .._math.algebra import log
from .._model import AbstractExponentialFamilyModel
from .._types import Any, Array, Key, PyTree, Scalar
from ..data._batch import host_rows, rows
from ..data._check import check_described, check_weights
from ..data._sequence import all_steps, as_sequence, num_observed, Sequence, values_of
from ..families import ParseTree
from ..families._structured import truth
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished


class ContextFreeGrammar(AbstractExponentialFamilyModel):
    r"""A probabilistic context-free grammar in Chomsky normal form, with rules root → A, A → B C and P → word.

    A datum is a sentence of at least two words, as word numbers `(T,)`. Sentences of different lengths are given
    as `elbax.sequences([...])` (or an `elbax.Sequence` of integers). Params: `{"root": (N,), "binary": (N, S, S),
    "emission": (P, num_words)}` logits, with S = N + P symbols, nonterminals first. `Chain(ExactEStep(model),
    ClosedFormMStep(model))` is the inside-outside algorithm (Baker 1979; Lari and Young 1990). `Exact(model,
    params)(sentence).mode()` is the best parse, which `model.latent.bracketed` prints. For a neural grammar see
    `Tied`.

    **Arguments:**

    - `num_nonterminals`, `num_preterminals`, `num_words`: N, P and the vocabulary's size.
    - `allowed`: which binary rules exist, booleans (N, S, S); the others stay at probability 0.
    - `emits`: which words a preterminal may emit, booleans (P, num_words).
    - `roots`: which nonterminals may be the root, booleans (N,).
    - `prior`: a `Dirichlet` prior on the rules of every symbol.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> model = elbax.ContextFreeGrammar(2, 2, 3)
    >>> x = jnp.array([[0, 1, 2, 0], [1, 1, 0, 2]])
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> state, info = em(state, x)

    ```
    """

    family: ParseTree
    num_words: int = eqx.field(static=True)
    emits: tuple | None = eqx.field(static=True)
    prior: Dirichlet | None

    def __init__(
        self,
        num_nonterminals: int,
        num_preterminals: int,
        num_words: int,
        *,
        allowed: Any = None,
        emits: Any = None,
        roots: Any = None,
        prior: Dirichlet | None = None,
    ):
        self.family = ParseTree(num_nonterminals, num_preterminals, allowed=allowed, roots=roots)
        check_count("ContextFreeGrammar", num_words=num_words)
        check_kind("ContextFreeGrammar", Dirichlet, prior=prior)
        self.num_words = num_words
        self.emits = truth("ContextFreeGrammar: emits", emits, (num_preterminals, num_words))
        self.prior = prior

    @property
    def latent(self) -> ParseTree:
        """The family of parse trees of a sentence."""
        return self.family

    def possible(self) -> dict[str, np.ndarray]:
        """Returns which rules exist; the rules of one symbol form one row."""
        roots, binary = self.family.possible()
        shape = (self.family.num_preterminals, self.num_words)
        emission = np.ones(shape, bool) if self.emits is None else np.array(self.emits)
        return {"root": roots, "binary": binary.reshape(len(binary), -1), "emission": emission}

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        check_weights(weight, who)
        words = np.asarray(values_of(x))
        if words.ndim == 3 and words.shape[2] == 1:
            words = words[:, :, 0]
        if words.ndim != 2 or words.dtype.kind not in "iu":
            raise ValueError(
                f"{who}: expected sentences of word indices, integers of shape (num_data, largest number of "
                f"words); got {words.dtype} of shape {words.shape}."
            )
        steps = words.shape[1]
        length = np.asarray(x.length) if isinstance(x, Sequence) else np.full(len(words), steps)
        counts = np.asarray(weight) > 0
        if np.any(counts & ((length < 2) | (length > steps))):
            row = int(np.flatnonzero(counts & ((length < 2) | (length > steps)))[0])
            raise ValueError(
                f"{who}: sentence {row} has {length[row]} words; expected at least 2 words, because a root has "
                f"two children, and at most {steps}. Drop such sentences."
            )
        inside = (np.arange(steps) < length[:, None]) & counts[:, None]
        if np.any(inside & ((words < 0) | (words >= self.num_words))):
            row, place = map(
                int, np.argwhere(inside & ((words < 0) | (words >= self.num_words)))[0]
            )
            raise ValueError(
                f"{who}: words must be 0, ..., {self.num_words - 1}; sentence {row}, word {place} is "
                f"{words[row, place]}."
            )

    def init(self, key: Key, x: PyTree = None) -> PyTree:
        """Returns nearly uniform rules, drawn from the key; if all were equal, no EM step would change them.

        With data the words start from their frequencies.
        """
        check_key(key, "ContextFreeGrammar.init")
        keys = jax.random.split(key, 3)
        frequency = jnp.ones(self.num_words)
        if x is not None:
            table, weight = rows(x)
            sentence, length = jax.vmap(lambda x: _words(x)[:2])(table)
            inside = jnp.arange(sentence.shape[1]) < length[:, None]
            counts = jnp.where(inside, weight[:, None], 0)
            frequency = 1 + jax.ops.segment_sum(
                counts.reshape(-1), sentence.reshape(-1), self.num_words
            )
        number, size = self.family.num_nonterminals, self.family.num_symbols
        draw = lambda key, *shape: 0.5 * jax.random.normal(key, shape)
        return {
            "root": draw(keys[0], number),
            "binary": draw(keys[1], number, size, size),
            "emission": jnp.log(frequency) + draw(keys[2], size - number, self.num_words),
        }

    @property
    def shapes(self) -> PyTree:
        return {
            "root": (self.family.num_nonterminals,),
            "binary": (self.family.num_nonterminals, *2 * (self.family.num_symbols,)),
            "emission": (self.family.num_preterminals, self.num_words),
        }

    def natural(self, params: PyTree) -> PyTree:
        possible = self.possible()
        return {
            name: log_shares_of(leaf.reshape(possible[name].shape), possible[name]).reshape(
                leaf.shape
            )
            for name, leaf in params.items()
        }

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        words, length, steps = _words(x)
        unknown = ((words < 0) | (words >= self.num_words)) & (jnp.arange(steps) < length)
        words = jnp.clip(words, 0, self.num_words - 1)
        emission = natural["emission"]
        if self.emits is not None:
            emission = jnp.where(np.array(self.emits), emission, -jnp.inf)
        unary = jnp.where(unknown[:, None], -jnp.inf, emission.T[words])
        potentials = {
            "root": natural["root"],
            "binary": natural["binary"],
            "unary": unary,
            "length": length,
        }
        return potentials, jnp.zeros((), unary.dtype)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns probabilities proportional to the expected counts of rules; a symbol never used is unchanged."""
        moved = {}
        for name, possible in self.possible().items():
            flat = lambda leaf, shape=possible.shape: jnp.reshape(leaf, shape)
            flag = (
                free[name]
                if isinstance(free[name], bool)
                else flat(jnp.broadcast_to(free[name], params[name].shape))
            )
            found = maximize_shares(
                flat(statistics[name]), flat(params[name]), flag, possible, self.prior
            )
            moved[name] = found.reshape(params[name].shape)
        return moved

    def log_prior(self, params: PyTree) -> Scalar | float:
        return sum(
            log_prior_of_shares(params[name].reshape(possible.shape), possible, self.prior)
            for name, possible in self.possible().items()
        )

    def describe(self, params: PyTree) -> dict[str, Array]:
        """Returns probabilities of the root's symbol (N,), binary rules (N, S, S) and words (P, num_words)."""
        possible = self.possible()
        return {
            name: jnp.where(possible[name].reshape(leaf.shape), jnp.exp(leaf), 0)
            for name, leaf in self.natural(params).items()
        }

    def from_description(self, *, root: Any, binary: Any, emission: Any) -> PyTree:
        """Returns params from probabilities, or from counts of a treebank: rows need not be normalized."""
        given = dict(root=root, binary=binary, emission=emission)
        number, size = self.family.num_nonterminals, self.family.num_symbols
        check_described(
            "ContextFreeGrammar",
            root=(root, (number,), "not negative"),
            binary=(binary, (number, size, size), "not negative"),
            emission=(emission, (size - number, self.num_words), "not negative"),
        )
        return {name: log(jnp.asarray(shares, float)) for name, shares in given.items()}

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits of a symbol's rules, and arbitrary changes of impossible logits."""
        possible = self.possible()
        return beside_by_name({name: shifts(mask.shape, mask) for name, mask in possible.items()})

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        return {
            name: vanished(np.reshape(params[name], mask.shape), least, mask).reshape(
                params[name].shape
            )
            for name, mask in self.possible().items()
        }

    def num_observations(self, batch: PyTree) -> float:
        return num_observed(*all_steps(*rows(batch)))

    def summary(self) -> dict[str, Any]:
        return {"nonterminals": self.family.num_nonterminals}


def _words(x: PyTree) -> tuple[Array, Array, int]:
    """Returns (word numbers (T,), the valid number of words, T) of one sentence, also if given as a column."""
    words, length, steps = as_sequence(x)
    if words.ndim != 1 and words.shape[1:] != (1,):
        raise ValueError(
            f"ContextFreeGrammar: one sentence must have shape (T,), got {words.shape}. Data have a leading "
            "axis, the sentences. A posterior takes one sentence. For all sentences use jax.vmap(posterior)(x)."
        )
    return words.reshape(-1), length, steps
