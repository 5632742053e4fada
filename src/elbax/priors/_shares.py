"""Tables of probabilities, in which some entries of each row are possible."""

import jax
import jax.numpy as jnp
import numpy as np

from .._free import log_shares
from .._types import Any, Array
from . import Dirichlet


def log_shares_of(logits: Array, possible: np.ndarray | Array) -> Array:
    """Returns log softmax of each row over its possible entries, and 0 for all others."""
    logits = jnp.where(possible, logits, -jnp.inf)
    some = possible.any(-1, keepdims=True)
    logits = jnp.where(some, logits, 0)
    return jnp.where(possible, jax.nn.log_softmax(logits, -1, where=possible | ~some), 0)


def maximize_shares(
    count: Array, logits: Array, free: Any, possible: np.ndarray | Array, prior: Dirichlet | None
) -> Array:
    """Returns logits in proportion to the counts; impossible entries and rows without counts are unchanged."""
    if prior is not None:
        count = count + prior.pseudo_count
    count = jnp.where(possible, count, 0)
    mask = free if isinstance(free, bool) else free & possible
    moved = log_shares(count, jnp.where(possible, logits, -jnp.inf), mask)
    seen = jnp.sum(count, -1, keepdims=True) > jnp.finfo(count.dtype).tiny
    return jnp.where(seen & possible, moved, logits)


def vanished(logits: Any, least: float, possible: Any = True) -> np.ndarray:
    """Returns which shares of each row are possible but below `least`."""
    logits = np.where(possible, np.asarray(logits, float), -np.inf)
    highest = np.max(logits, -1, keepdims=True)
    shares = np.exp(logits - np.where(np.isfinite(highest), highest, 0))
    return (shares < least * np.sum(shares, -1, keepdims=True)) & np.isfinite(logits)


def log_prior_of_shares(
    logits: Array, possible: np.ndarray | Array, prior: Dirichlet | None
) -> Any:
    """Returns the Dirichlet's log-density in nats, over the possible entries of each row, summed over rows."""
    if prior is None:
        return 0.0
    return prior.log_density(log_shares_of(logits, possible), possible)
