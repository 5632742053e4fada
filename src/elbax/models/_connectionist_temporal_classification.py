"""Label sequences without their times."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import matmul
from .._model import AbstractExponentialFamilyModel
from .._types import Any, AnyArray, Array, Bool, Int, Key, PyTree, Scalar
from ..data._batch import host_rows
from ..data._check import check_weights
from ..data._incomplete_rows import has_incomplete
from ..data._sequence import as_sequence, check_sequences, Sequence, values_of
from ..families import CTCLattice
from ..families._undefined import where_defined


class ConnectionistTemporalClassification(AbstractExponentialFamilyModel):
    r"""Connectionist temporal classification: label sequences whose alignment to the frames is latent.

    $p(y \mid x) = \sum_{z \in \mathcal{B}^{-1}(y)} \prod_t p_\theta(z_t \mid x)$: a network gives the
    probabilities of the labels in each frame, and the sum is over all alignments z of the label sequence y (Graves
    et al. 2006).

    A datum is `(inputs, labels)`: inputs `(T, ...)` and labels `(L,)`, arrays or `elbax.Sequence`s (also those of
    `elbax.sequences`). Params are any callable pytree `params(inputs) -> (T, num_labels)` logits, such as
    `elbax.Network(...)`. `Chain(ExactEStep(model), GradientMStep(model, optimizer))` is CTC training.
    `Exact(model, params)(datum).mode()` is the best alignment, in positions blank, label, blank, ….

    The ELBO is log p(y | x), in nats per sequence. It is never above 0. Where no alignment exists it is −∞, with a
    zero gradient. `feasible` tells which data have an alignment; `fit` rejects the others.

    **Arguments:**

    - `blank`: the label that stands for none.
    - `stride`: the number of input frames per step of the network's output.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> model = elbax.ConnectionistTemporalClassification()
    >>> layer = elbax.Network(eqx.filter_vmap(eqx.nn.Linear(4, 3, key=jax.random.key(0))))
    >>> x = (jnp.ones((2, 6, 4)), jnp.array([[1, 2], [2, 2]]))
    >>> training = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2)))
    >>> state = training.init(layer, key=jax.random.key(1))
    >>> state, info = training(state, x)

    ```
    """

    blank: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(self, *, blank: int = 0, stride: int = 1):
        check_count("ConnectionistTemporalClassification", least=0, blank=blank)
        check_count("ConnectionistTemporalClassification", stride=stride)
        self.blank = blank
        self.stride = stride

    @property
    def latent(self) -> CTCLattice:
        """The family of alignments of labels to frames."""
        return CTCLattice()

    def _lengths(self, inputs, labels):
        """Returns (the valid output steps, the number of labels, the labels)."""
        _, frames, _ = as_sequence(inputs)
        labels, number, _ = as_sequence(labels)
        return -(-frames // self.stride), number, _of_labels(labels, 1)

    def feasible(self, batch: PyTree) -> Bool[np.ndarray, " num_data"]:
        """Returns which data have an alignment: a step per label, one more between equal ones (on the host)."""
        (inputs, labels), _ = host_rows(batch)
        leaf = jax.tree.leaves(values_of(inputs))[0]
        frames = inputs.length if isinstance(inputs, Sequence) else leaf.shape[1]
        values = _of_labels(values_of(labels))
        number = labels.length if isinstance(labels, Sequence) else values.shape[1]
        inside = np.arange(1, values.shape[1]) < np.reshape(number, (-1, 1))
        repeats = np.sum((values[:, 1:] == values[:, :-1]) & inside, 1)
        return number + repeats <= -(-frames // self.stride)

    def check(self, batch: PyTree, who: str = "fit") -> None:
        (inputs, labels), weight = host_rows(batch)
        check_weights(weight, who)
        check_sequences(inputs, weight, who)
        if has_incomplete(inputs):
            raise TypeError(
                f"{who}: got NaN in the inputs, which elbax.sequences marks as missing. A network cannot have "
                "missing inputs. Impute them first."
            )
        values = _of_labels(values_of(labels))
        if not jnp.issubdtype(values.dtype, jnp.integer) or values.ndim != 2:
            raise ValueError(
                f"{who}: labels must be integers of shape (num_data, largest number of labels); got "
                f"{values.dtype} of shape {values.shape}."
            )
        number = labels.length if isinstance(labels, Sequence) else values.shape[1]
        inside = np.arange(values.shape[1]) < np.reshape(number, (-1, 1))
        inside = inside & (np.asarray(weight) > 0)[:, None]
        negative = (np.asarray(values) < 0) & inside
        if negative.any():
            row, place = np.argwhere(negative)[0]
            raise ValueError(
                f"{who}: label {place} of sequence {row} is {values[row, place]}. Labels must be indices of the "
                "network's outputs, which start at 0."
            )
        wrong = (np.asarray(values) == self.blank) & inside
        if wrong.any():
            raise ValueError(
                f"{who}: sequence {int(np.argwhere(wrong)[0][0])} has the blank, {self.blank}, among its labels. "
                "Labels must differ from the blank."
            )
        impossible = np.flatnonzero(~np.asarray(self.feasible(batch)) & (np.asarray(weight) > 0))
        if impossible.size:
            raise ValueError(
                f"{who}: sequence {impossible[0]} (and {impossible.size - 1} others) has fewer steps than its "
                "labels need, so no alignment exists. They need one step for each label, and one more between "
                "equal neighbors. Drop such sequences, or use a smaller stride. model.feasible(x) finds them."
            )

    @property
    def shapes(self) -> PyTree:
        return callable

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        inputs, labels = x
        values, _, _ = as_sequence(inputs)
        logits = natural(values)
        if logits.ndim != 2:
            raise ValueError(
                "ConnectionistTemporalClassification: the network must map the inputs (T, ...) of one datum to "
                f"logits (steps, num_labels); got shape {logits.shape}."
            )
        steps, number, labels = self._lengths(inputs, labels)
        log_probabilities = jax.nn.log_softmax(logits)
        size = 2 * len(labels) + 1
        extended = jnp.full(size, self.blank, labels.dtype).at[1::2].set(labels)
        # A product, whose transpose is a product too: a scatter is slower.
        chosen = jax.nn.one_hot(extended, logits.shape[1], dtype=logits.dtype)
        place = jnp.arange(size)
        differs = extended != jnp.roll(extended, 2)
        # A label without an output of the network is impossible, not free of cost.
        known = (extended >= 0) & (extended < logits.shape[1])
        potentials = {
            "unary": jnp.where(known, matmul(log_probabilities, chosen.T), -jnp.inf),
            "skip": (place % 2 == 1) & (place > 2) & differs,
            "length": steps,
            "positions": 2 * number + 1,
        }
        return potentials, jnp.zeros((), logits.dtype)

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        bound = super().elbo(natural, x, q, key)
        # The logarithm of a probability: subtract what rounding adds above 0, without a derivative.
        return bound - jax.lax.stop_gradient(jnp.maximum(bound, 0))

    def decode(self, params: PyTree, inputs: PyTree) -> tuple[Int[Array, " T"], Int[Array, ""]]:
        """Returns (labels, their number) of the best path of one datum, with repeats and blanks removed.

        After the last label they are −1. Both are −1 where the network returns NaN.
        """
        values, frames, _ = as_sequence(inputs)
        logits = params(values)
        best = jnp.argmax(logits, -1)
        inside = jnp.arange(len(best)) < -(-frames // self.stride)
        fresh = jnp.concatenate([jnp.ones(1, bool), best[1:] != best[:-1]])
        kept = fresh & (best != self.blank) & inside
        number = jnp.sum(kept)
        order = jnp.argsort(~kept, stable=True)
        labels = jnp.where(jnp.arange(len(best)) < number, best[order], -1)
        known = ~jnp.any(jnp.isnan(logits) & inside[:, None])
        return where_defined(known, (labels, number))

    def describe(self, params: PyTree) -> PyTree:
        """Returns the network."""
        return params


def _of_labels(values: AnyArray, num_axes: int = 2) -> AnyArray:
    """Returns labels without the axis of one column that `elbax.sequences` adds."""
    return values[..., 0] if values.ndim == num_axes + 1 and values.shape[-1] == 1 else values
