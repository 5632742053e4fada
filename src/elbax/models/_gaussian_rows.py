r"""A linear-Gaussian conditional whose outputs have independent noise, in coordinates for each output.

In those of `LinearGaussian` all outputs share one factor in the inputs u. Under a belief over the coefficients
each has its own, $-\tfrac12 \tilde u^\top G_j \tilde u$ with $\tilde u = (1, u)$, which is left out where that
output is missing. The coordinates are those of a factor analyzer, with u as its factors.
"""

import math

import jax
import jax.numpy as jnp

from .._types import Any, Array, PyTree


_LOG_2PI = math.log(2 * math.pi)


def conditional_of_rows(natural: PyTree) -> dict[str, Array]:
    """Returns the conditional with these coordinates: matrix, offset, root, and the factor in ũ of each output."""
    about = natural["about"].value
    deviation, precision, cross = about["deviation"], natural["precision"], natural["cross"]
    step = cross / precision[:, None]
    # A symmetric coordinate enters symmetrically, so that its statistic is symmetric.
    gram = natural["gram"] - cross[:, :, None] * step[:, None, :]
    return {
        "matrix": deviation[:, None] * (about["weights"] + step[:, 1:]),
        "offset": about["mean"] + deviation * step[:, 0],
        "root": jnp.diag(deviation / jnp.sqrt(precision)),
        "gram": 0.5 * (gram + gram.mT),
        # The density has its own normalizer, at the new deviation.
        "count": natural["count"] + jnp.log(deviation) - 0.5 * jnp.log(precision) + 0.5 * _LOG_2PI,
    }


def factor_in_inputs(conditional: PyTree, seen: Any = None) -> dict[str, Array]:
    """Returns the terms h, J and c in u of all outputs, or of those seen, (p,) or (T, p)."""
    gram, count = conditional["gram"], conditional["count"]
    seen = jnp.ones_like(count) if seen is None else seen.astype(count.dtype)
    total = lambda leaf: jnp.tensordot(seen, leaf, 1, precision=jax.lax.Precision.HIGHEST)
    gram = total(gram)
    return {
        "linear": -gram[..., 0, 1:],
        "precision": gram[..., 1:, 1:],
        "constant": total(count) - 0.5 * gram[..., 0, 0],
    }


def is_in_rows(block: PyTree) -> bool:
    """Returns whether natural coordinates, or a conditional, are those for each output."""
    return "gram" in block
