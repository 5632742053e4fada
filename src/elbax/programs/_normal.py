"""Independent normal numbers."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Any, Array, Float, Key


class Normal(eqx.Module):
    r"""Independent normals, $\log p(z) = -\sum_i \tfrac12 ((z_i - m_i) / s_i)^2 + \log s_i + \tfrac12 \log 2\pi$.

    **Arguments:** `mean`, `deviation`: arrays that broadcast to each other.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> p = elbax.programs.Normal(jnp.zeros(2), 1.0)
    >>> print(p.log_prob(jnp.array([0.0, 1.0])).round(4))
    -2.3379

    ```
    """

    mean: Float[Array, "..."]
    deviation: Float[Array, "..."]

    def __init__(self, mean: Any, deviation: Any):
        mean = jnp.asarray(mean)
        self.mean, self.deviation = jnp.broadcast_arrays(mean, jnp.asarray(deviation, mean.dtype))

    def sample(self, key: Key) -> Float[Array, "..."]:
        """Returns m + s ε, which moves with m and s."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.deviation * noise

    def log_prob(self, z: Float[Array, "..."]) -> Float[Array, ""]:
        """Returns log p(z), in nats, summed over all entries."""
        return jnp.sum(self.log_probs(z))

    def log_probs(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns log p of each entry, in nats."""
        scaled = (z - self.mean) / self.deviation
        return -(0.5 * scaled**2 + jnp.log(self.deviation) + 0.5 * math.log(2 * math.pi))

    def divergence(self, other: Any) -> Float[Array, ""] | None:
        """Returns KL(self ‖ other) of another `Normal`, in nats, summed over all entries; else `None`.

        A subclass may have another density, so none is known of it.
        """
        if not type(self) is type(other) is Normal:
            return None
        if jnp.broadcast_shapes(self.mean.shape, other.mean.shape) != self.mean.shape:
            return None
        ratio = self.deviation / other.deviation
        away = (self.mean - other.mean) / other.deviation
        return jnp.sum(0.5 * (ratio**2 + away**2 - 1) - jnp.log(ratio))

    def mode(self) -> Float[Array, "..."]:
        """Returns the mean."""
        return self.mean
