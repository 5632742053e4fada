"""Independent categorical variables: the mean-field parts of chains and grids."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key, PyTree, Scalar
from ._family import AbstractFamily
from ._structured import possible_dot
from ._undefined import draw_label, where_defined


class Sites(AbstractFamily):
    """Independent categorical variables on an array of sites.

    Along a sequence, sites from `length` on are padding, −1.
    """

    num_values: int = eqx.field(static=True)
    event_ndim: int = eqx.field(static=True, default=1)

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - self.event_ndim - 1

    def _inside(self, natural: PyTree) -> Array:
        unary = natural["unary"]
        length = natural.get("length", len(unary))
        inside = jnp.arange(len(unary)) < length
        return jnp.broadcast_to(
            inside.reshape(inside.shape + (1,) * (unary.ndim - 2)), unary.shape[:-1]
        )

    def log_normalizer(self, natural: PyTree) -> Scalar:
        totals = jax.nn.logsumexp(natural["unary"], -1)
        return jnp.sum(jnp.where(self._inside(natural), totals, 0))

    def mean(self, natural: PyTree) -> PyTree:
        shares = jax.nn.softmax(natural["unary"], -1)
        return natural | {"unary": jnp.where(self._inside(natural)[..., None], shares, 0)}

    def entropy(self, natural: PyTree) -> Scalar:
        share = self.mean(natural)["unary"]
        there = share > 0
        return -jnp.sum(jnp.where(there, share * jnp.log(jnp.where(there, share, 1)), 0))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return possible_dot(self.mean(natural), potentials) + self.entropy(natural)

    def statistics(self, z: Array) -> PyTree:
        return {"unary": jax.nn.one_hot(z, self.num_values)}

    def log_prob(self, natural: PyTree, z: Array) -> Scalar:
        scores = jax.nn.log_softmax(natural["unary"], -1)
        possible = (z >= 0) & (z < self.num_values)
        chosen = jnp.take_along_axis(scores, jnp.where(possible, z, 0)[..., None], -1)[..., 0]
        chosen = jnp.where(possible, chosen, -jnp.inf)
        return jnp.sum(jnp.where(self._inside(natural), chosen, 0))

    def sample(self, natural: PyTree, key: Key) -> Array:
        drawn = draw_label(key, natural["unary"])
        return jnp.where(self._inside(natural), drawn, -1)

    def mode(self, natural: PyTree) -> Array:
        unary = natural["unary"]
        some = jnp.isfinite(jnp.max(unary, -1)) & self._inside(natural)
        return where_defined(some, jnp.argmax(unary, -1))

    def from_network(self, output: PyTree) -> PyTree:
        return output if isinstance(output, dict) else {"unary": output}

    def read(self, function, dtype=float):
        raise TypeError(
            "Sites: natural parameters cannot be read from a plain log_joint, because the couplings are not "
            "known."
        )
