"""Information, standard errors and the rate of EM: all from second derivatives of the ELBO."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._algebra import matmul
from .._batch import as_batch, effective_weight
from .._check import is_concrete
from .._door import enter
from .._elbo import elbo, evidence
from .._model import AbstractModel
from .._reference import split_coordinates
from .._state import ELBOState
from .._types import Array, Callable, Float, PyTree, Scalar
from .._update import AbstractUpdate
from ..posteriors import Exact


class Information(eqx.Module):
    r"""Fisher informations about the params at hand, `(P, P)`, in nats over all data.

    Rows follow `jax.flatten_util.ravel_pytree(params)`, which holds no `Reference` here.

    **Fields:**

    - `observed`: $-\partial^2 \{\log p_\theta(x) + \log p(\theta)\}$, by differentiating the evidence.
    - `complete`: $-\partial^2 \{E_q[\log p_\theta(x, z)] + \log p(\theta)\}$ at q = p(z | x), held fixed.
    """

    observed: Float[Array, "P P"]
    complete: Float[Array, "P P"]

    @property
    def missing(self) -> Float[Array, "P P"]:
        r"""What not seeing z costs, `complete − observed`.

        It is $\mathrm{Cov}_q(\partial \log p_\theta(x, z))$, summed over data (Louis 1982).
        """
        return self.complete - self.observed

    @property
    def missing_fractions(self) -> Float[Array, " P"]:
        """Eigenvalues of complete⁻¹ missing, from the largest: the share of information that is missing.

        Directions in which nothing is identified (as one logit among K) come as 0.
        """
        root = _inverse_root(self.complete)
        return jnp.linalg.eigvalsh(matmul(root.T, matmul(self.missing, root)))[::-1]

    @property
    def rate(self) -> Scalar:
        """The factor by which EM's distance to its limit shrinks per sweep: the largest missing fraction.

        (Dempster, Laird and Rubin 1977.) For a component with a latent of its own (`StudentT`,
        `FactorAnalyzer`, incomplete rows) `missing` speaks of z alone, and EM is slower than this;
        `convergence_rate` then has the truth.
        """
        return self.missing_fractions[0]


def information(
    model: AbstractModel, params: PyTree, batch: PyTree, *, chunk_size: int | None = None
) -> Information:
    """Observed, complete and missing information: see `Information`.

    It takes two Hessians in all params: for models of up to some thousand of these. `chunk_size` is about
    how many rows to see at a time.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> # Rao's linkage counts: cell 0 is a sum of two, of which one grows with theta.
    >>> def log_joint(params, x, z):
    ...     t = jax.nn.sigmoid(params)
    ...     cells = jnp.log(jnp.array([t / 4, (1 - t) / 4, (1 - t) / 4, t / 4]))
    ...     split = jnp.where(z == 0, jnp.log(0.5), jnp.log(t / 4))
    ...     return jnp.where(x == 0, split, jnp.where(z == 0, cells[x], -jnp.inf))
    >>> model = elbax.Model(log_joint, latent=elbax.Categorical(2))
    >>> batch = elbax.Batch(jnp.arange(4), weight=jnp.array([125, 18, 20, 34]))
    >>> found = elbax.information(model, jax.scipy.special.logit(0.62682150), batch)
    >>> print(f"{found.rate:.4f}")
    0.1328

    ```
    """
    batch = enter("information", model, params, batch, chunk_size=chunk_size)
    return _information(model, jax.tree.map(jnp.asarray, params), batch, chunk_size)


@eqx.filter_jit
def _information(model, params, batch, chunk_size):
    start, unflatten = _flat(params)
    exact = Exact(model, params)
    total_weight = _total_weight(batch, start.dtype)

    def complete(vector):
        return -total_weight * elbo(model, unflatten(vector), exact, batch, chunk_size=chunk_size)

    observed = _observed(model, params, batch, chunk_size)
    return Information(observed, jax.hessian(complete)(start))


def standard_errors(
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    describe: Callable[[PyTree], PyTree] | None = None,
    chunk_size: int | None = None,
) -> PyTree:
    r"""Standard errors of what `describe` says, in its structure and units, by the delta method:
    $\mathrm{se}(f)^2 = \partial f\, I^{-1}\, \partial f^\top$ with I the observed information.

    **Arguments:**

    - `params`: a maximum of the evidence (plus prior): the end of a converged fit.
    - `describe`: a function of params; `model.describe` by default, and for a plain `Model` the params
        themselves.
    - `chunk_size`: about how many rows to see at a time.

    Numbers that params describe only up to a symmetry (rotated loadings) have none of their own: their
    standard errors hold the direction fixed in which nothing changes.

    **Raises** `ValueError` where the observed information is not positive semidefinite: at no maximum.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[2], [4], [3], [5], [1]])
    >>> model = elbax.Mixture(elbax.components.Poisson(), 1)
    >>> params = model.from_description(weights=[1.0], rates=[[3.0]])
    >>> print(f"{elbax.standard_errors(model, params, x)['rates'][0, 0]:.4f}")
    0.7746

    ```
    """
    batch = enter("standard_errors", model, params, batch, chunk_size=chunk_size)
    describe = model.describe if describe is None else describe
    params = jax.tree.map(jnp.asarray, params)
    errors, values = _standard_errors(model, params, batch, describe, chunk_size)
    if is_concrete(values) and not float(values[0]) > -1e-3 * float(values[-1]):
        raise ValueError(
            "standard_errors: the params are no maximum of the evidence (the observed information has the "
            f"eigenvalue {float(values[0]):.3g}); fit to convergence first, with a smaller tolerance."
        )
    return errors


@eqx.filter_jit
def _standard_errors(model, params, batch, describe, chunk_size):
    start, unflatten = _flat(params)
    found = _observed(model, params, batch, chunk_size)

    def flat(vector):
        return ravel_pytree(describe(unflatten(vector)))[0]

    slope = jax.jacobian(flat)(start)
    errors = jnp.linalg.norm(matmul(slope, _inverse_root(found)), axis=-1)
    return ravel_pytree(describe(params))[1](errors), _scaled(found)[1]


def convergence_rate(update: AbstractUpdate, state: ELBOState, batch: PyTree) -> Scalar:
    """The spectral radius of the Jacobian of one sweep in the params: by what a distance shrinks per sweep.

    At the limit of EM it is the largest fraction of missing information; a digit costs about
    2.3 / (1 − rate) sweeps. A direction in which the params are not identified, such as a rotation of
    factors, does not shrink and makes it 1: fix it first, by a pattern of zeros.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    >>> state = em.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> bool(elbax.convergence_rate(em, result.state, x) < 1)
    True

    ```
    """
    return jnp.max(jnp.abs(jnp.linalg.eigvals(_slope_of_sweep(update, state, batch))))


@eqx.filter_jit
def _slope_of_sweep(update, state, batch):
    start, unflatten = _flat(state.params)

    def sweep(vector):
        moved, _ = update(state.replace(params=unflatten(vector)), batch)
        return _flat(moved.params)[0]

    # Forward, since a line search is a loop of unknown length.
    return jax.jacfwd(sweep)(start)


def _flat(params: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """(the coordinates as one vector, back from it to params)."""
    coordinates, rest = split_coordinates(params)
    vector, unflatten = ravel_pytree(coordinates)
    return vector, lambda vector: eqx.combine(unflatten(vector), rest)


def _observed(model, params, batch, chunk_size):
    start, unflatten = _flat(params)
    total_weight = _total_weight(batch, start.dtype)

    def minus_log_posterior(vector):
        theta = unflatten(vector)
        found = evidence(model, theta, batch, chunk_size=chunk_size)
        return -total_weight * found - jnp.asarray(model.log_prior(theta), vector.dtype)

    return jax.hessian(minus_log_posterior)(start)


def _total_weight(batch, dtype):
    return jnp.sum(effective_weight(as_batch(batch))).astype(dtype)


def _inverse_root(matrix: Array) -> Array:
    """R with R Rᵀ the pseudo-inverse: directions without information are left out.

    Params of any units are brought to one scale first, so that what is left out has none of its own.
    """
    unit, values, vectors = _scaled(matrix)
    seen = values > 10 * len(values) * jnp.finfo(values.dtype).eps * jnp.max(values)
    inverse = jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, values, 1)), 0)
    return vectors * inverse / unit[:, None]


def _scaled(matrix: Array) -> tuple[Array, Array, Array]:
    """(d, eigenvalues, eigenvectors) of M / d dᵀ, which has ones on its diagonal."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T) / jnp.outer(unit, unit))
    return unit, values, vectors
