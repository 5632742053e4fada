"""Maximum likelihood of a Dirichlet distribution's concentrations."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma

from .._math.special import inverse_digamma
from .._types import Any, Array, Float


# Concentrations of proportions that are all 0 or 1, or all equal, have no finite maximum.
_SMALLEST, _LARGEST = 1e-4, 1e6
_STEPS = 40


def maximize_concentration(
    mean_log: Float[Array, " K"], concentration: Float[Array, " K"], free: Any = True
) -> Float[Array, " K"]:
    r"""Returns the α at which a Dirichlet distribution has $E[\log p_k]$ equal to `mean_log`.

    $\psi(\alpha_k) = \psi(s) + E[\log p_k]$ with $s = \sum_k \alpha_k$ (Minka 2000, "Estimating a Dirichlet
    distribution"): given s every α follows, so this is one equation in log s. Newton's method solves it from the
    current concentrations, with steps of at most 1; its slope is negative at the solution, where the
    log-likelihood is concave. Concentrations that are not free are unchanged, and enter s.
    """
    moves = jnp.broadcast_to(jnp.asarray(free), concentration.shape)
    size = jnp.finfo(concentration.dtype)
    fixed = jnp.sum(jnp.where(moves, 0, concentration))

    def given(total):
        found = inverse_digamma(digamma(total) + mean_log)
        return jnp.where(moves, jnp.clip(found, _SMALLEST, _LARGEST), concentration)

    def step(log_total, _):
        total = jnp.exp(log_total)
        found = given(total)
        summed = jnp.sum(jnp.where(moves, found, 0)) + fixed
        change = jnp.sum(jnp.where(moves, 1 / polygamma(1, found), 0)) * polygamma(1, total)
        slope = change * total / summed - 1
        gap = jnp.log(summed) - log_total
        # Minka's fixed point (a slope of −1) where Newton's step would go the wrong way.
        slope = jnp.where(slope < -size.eps, slope, -1)
        return log_total - jnp.clip(gap / slope, -1, 1), None

    log_total, _ = jax.lax.scan(step, jnp.log(jnp.sum(concentration)), length=_STEPS)
    return given(jnp.exp(log_total))
