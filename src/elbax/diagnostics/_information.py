"""Information, standard errors and the rate of EM, from second derivatives of the ELBO."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._door import enter
from .._elbo import elbo, evidence
from .._invariance import directions_within, free_entries, unravel
from .._model import AbstractModel, models_of
from .._program import compiled
from .._sharding import automatic
from .._state import ELBOState
from .._types import Callable, Float, PyTree
from .._update import AbstractUpdate
from ..data._batch import as_batch, effective_weight
from ..data._check import check_known
from ..posteriors import Exact


class Information(eqx.Module):
    r"""Fisher information matrices of the free params, `(P, P)`, in nats over all data, as NumPy arrays.

    Rows are the free entries of `jax.flatten_util.ravel_pytree(params)`. A `Reference` is never free.

    **Fields:**

    - `observed`: $-\partial^2 \{\log p_\theta(x) + \log p(\theta)\}$, by differentiating the evidence.
    - `complete`: $-\partial^2 \{E_q[\log p_\theta(x, z)] + \log p(\theta)\}$ at q = p(z | x), held fixed.
    - `invariant`: a basis `(G, P)` of the directions in the free params that leave the evidence unchanged.
    """

    observed: Float[np.ndarray, "P P"]
    complete: Float[np.ndarray, "P P"]
    invariant: Float[np.ndarray, "G P"]

    @property
    def missing(self) -> Float[np.ndarray, "P P"]:
        r"""The information lost by not observing z, `complete − observed`.

        It is $\mathrm{Cov}_q(\partial \log p_\theta(x, z))$, summed over data (Louis 1982).
        """
        return self.complete - self.observed

    @property
    def missing_fractions(self) -> Float[np.ndarray, " P"]:
        """The eigenvalues of complete⁻¹ missing, largest first: the fractions of missing information.

        They are 0 in invariant directions.
        """
        spectrum = _spectrum(self.complete, self.invariant)
        root = spectrum.vectors[:, spectrum.seen] / np.sqrt(spectrum.values[spectrum.seen])
        found = np.linalg.eigvalsh(root.T @ self.missing @ root)
        return np.sort(np.concatenate([found, np.zeros(len(root) - len(found))]))[::-1]

    @property
    def rate(self) -> float:
        """The factor by which EM's distance to its limit shrinks per sweep: the largest missing fraction.

        See Dempster, Laird and Rubin (1977). For a component with a latent of its own (`StudentT`,
        `FactorAnalyzer`, incomplete rows) `missing` covers z alone, and EM is slower than this; use
        `convergence_rate` instead.
        """
        return float(self.missing_fractions[0])


def observed_information(
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    free: PyTree = True,
    chunk_size: int | None = None,
) -> Information:
    """Computes observed, complete and missing information.

    It takes two Hessians in the free params, so it is for up to some thousand of them.

    **Arguments:**

    - `free`: which params were estimated, as given to the fit's steps: `True` or `False` for each block, or a mask
        for each entry. The others are taken as known.
    - `chunk_size`: about how many rows to process at a time.

    **Returns:** an `Information`.

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
    >>> found = elbax.diagnostics.observed_information(model, jax.scipy.special.logit(0.62682150), batch)
    >>> print(f"{found.rate:.4f}")
    0.1328

    ```
    """
    check_known("observed_information", (params, batch))
    batch = enter("observed_information", model, params, batch, chunk_size=chunk_size)
    params = jax.tree.map(jnp.asarray, params)
    moving = free_entries(free, params)
    observed, complete = _informations(model, params, np.flatnonzero(moving), batch, chunk_size)
    return Information(
        np.asarray(observed), np.asarray(complete), _invariant(model, params, moving, moving)
    )


def standard_errors(
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    free: PyTree = True,
    describe: Callable[[PyTree], PyTree] | None = None,
    chunk_size: int | None = None,
) -> PyTree:
    r"""Computes standard errors of a model's description by the delta method.

    $\mathrm{se}(f)^2 = \partial f\, I^{-1}\, \partial f^\top$, with I the observed information.

    **Arguments:**

    - `params`: a maximum of the evidence (plus prior): the end of a converged fit.
    - `free`: which params were estimated, as given to the fit's steps. The others are taken as known; a number
        that depends only on these has the error 0.
    - `describe`: a function of params; by default `model.describe`, which for a plain `Model` returns the params.
    - `chunk_size`: about how many rows to process at a time.

    **Returns:** the errors, in the structure and units of `describe(params)`.

    Directions that leave the evidence unchanged (`model.invariances`) are removed exactly. A number that moves
    along such a direction has no error of its own. That of rotated loadings is computed as if every replicate had
    been rotated to these loadings (a pattern of zeros, or `Tied` params, give them one). A number about which the
    data say nothing has the error infinity.

    Probabilities and rates that the fit sent to 0 (less than one event in a hundred data sets like this), and
    degrees of freedom at their largest value, are at the boundary, where the likelihood has no curvature. A
    warning names them. They are held fixed: their own errors are NaN, and all others are computed as if they were
    known.

    **Raises** `ValueError` if the observed information is not positive semidefinite: the params are not a maximum.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[2], [4], [3], [5], [1]])
    >>> model = elbax.Mixture(elbax.components.Poisson(), 1)
    >>> params = model.from_description(weights=[1.0], rates=[[3.0]])
    >>> print(f"{elbax.diagnostics.standard_errors(model, params, x)['rates'][0, 0]:.4f}")
    0.7746

    ```
    """
    check_known("standard_errors", (params, batch))
    batch = enter("standard_errors", model, params, batch, chunk_size=chunk_size)
    describe = model.describe if describe is None else describe
    params = jax.tree.map(jnp.asarray, params)
    moving = free_entries(free, params)
    held = moving & _at_boundary(model, params, batch)
    if held.any():
        warnings.warn(
            "standard_errors: these params are at the boundary and are treated as known: "
            f"{_names(held, params)}. Their own standard errors are NaN.",
            stacklevel=2,
        )
    kept = moving & ~held
    observed, slope, described = _curvature(
        model, params, np.flatnonzero(kept), held, batch, describe, chunk_size
    )
    slope = np.asarray(slope, float)
    errors = _errors(
        np.asarray(observed, float), _invariant(model, params, ~held, kept), slope[:, kept]
    )
    # NaN for numbers that depend on held params as much as on the rest. For a probability near 0 both are tiny.
    by_held, by_kept = (np.abs(slope[:, which]).max(1, initial=0.0) for which in (held, kept))
    errors = np.where(by_held > 0.5 * by_kept, np.nan, errors)
    return jax.tree.map(
        lambda error, leaf: error.astype(leaf.dtype), unravel(errors, described), described
    )


def _errors(observed: np.ndarray, invariant: np.ndarray, slope: np.ndarray) -> np.ndarray:
    spectrum = _spectrum(observed, invariant)
    if len(spectrum.values) and spectrum.values[0] < -1e-3 * np.abs(spectrum.values).max():
        raise ValueError(
            "standard_errors: the params are not a maximum of the evidence (the observed information has the "
            f"eigenvalue {spectrum.values[0]:.3g}). Fit to convergence first, with a smaller tolerance."
        )
    along = slope @ spectrum.vectors
    safe = np.where(spectrum.seen, spectrum.values, 1)
    errors = np.sqrt(np.sum(np.where(spectrum.seen, along**2 / safe, 0), 1))
    unseen = np.abs(along) > 1e-6 * np.linalg.norm(along, axis=1, keepdims=True)
    return np.where((unseen & ~spectrum.seen).any(1), np.inf, errors)


class _Spectrum(eqx.Module):
    """A matrix without its invariant directions.

    **Fields:**

    - `values`: eigenvalues in units of its diagonal, lowest first.
    - `vectors`: eigenvectors in columns, in the params' own units.

    `seen` says which eigenvalues exceed rounding.
    """

    values: np.ndarray
    vectors: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        eps = np.finfo(self.values.dtype).eps
        largest = np.abs(self.values).max(initial=0.0)
        return self.values > eps ** (2 / 3) * largest


def _spectrum(matrix: np.ndarray, invariant: np.ndarray) -> _Spectrum:
    # Params of any units are scaled alike; in these units the rest is orthogonal to the invariant directions.
    diagonal = np.abs(np.diagonal(matrix))
    unit = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = 0.5 * (matrix + matrix.T) / np.outer(unit, unit)
    turned = invariant * unit
    turned /= np.abs(turned).max(1, keepdims=True, initial=0.0)
    rest = np.linalg.qr(turned.T, mode="complete")[0][:, len(turned) :]
    values, vectors = np.linalg.eigh(rest.T @ scaled @ rest)
    return _Spectrum(values, rest @ vectors / unit[:, None])


def _invariant(model, params, present: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Returns the invariant directions among `moving` entries, for params restricted to the `present` entries."""
    found = model.invariances(params)
    if found is None:
        return np.zeros((0, int(moving.sum())))
    within = directions_within(found.dense()[:, present], moving[present])
    return within[:, moving[present]]


def _at_boundary(model, params, batch) -> np.ndarray:
    least = 0.01 / model.num_observations(batch)
    ends = model.at_boundary(params, least)
    return np.concatenate([np.zeros(0, bool), *map(np.ravel, jax.tree.leaves(ends))])


def _names(held: np.ndarray, params: PyTree) -> str:
    """Returns the places of held entries in the params, the first six."""
    names = []
    for path, mask in jax.tree_util.tree_leaves_with_path(unravel(held, params)):
        for place in np.argwhere(mask).tolist():
            names.append(jax.tree_util.keystr(path) + (str(place) if place else ""))
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(f"params{name}" for name in names[:6]) + more


def convergence_rate(update: AbstractUpdate, state: ELBOState, batch: PyTree) -> float:
    """Computes the spectral radius of the Jacobian of one sweep: the factor by which a distance shrinks per sweep.

    At EM's limit it is the largest fraction of missing information; one digit costs about 2.3 / (1 − rate) sweeps.
    Params that the update does not change are left out, and so are directions that leave the evidence unchanged,
    such as a rotation of factors (`model.invariances`).

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> result = elbax.fit(em, state, x)
    >>> elbax.diagnostics.convergence_rate(em, result.state, x) < 1
    True

    ```
    """
    check_known("convergence_rate", (state, batch))
    slope = np.asarray(_slope_of_sweep(update, state, batch), float)
    moving = (slope != np.eye(len(slope))).any(1)
    slope = slope[np.ix_(moving, moving)]
    models = models_of(update)
    if models:
        # A sweep maps invariant directions to themselves, so the rest is a map of its own.
        invariant = _invariant(models[0], state.params, np.ones_like(moving), moving)
        rest = np.linalg.qr(invariant.T, mode="complete")[0][:, len(invariant) :]
        slope = rest.T @ slope @ rest
    return float(np.max(np.abs(np.linalg.eigvals(slope)), initial=0.0))


@compiled
@automatic
def _slope_of_sweep(update, state, batch):
    start, unflatten = ravel_pytree(state.params)

    def sweep(vector):
        moved, _ = update(state.replace(params=unflatten(vector)), batch)
        return ravel_pytree(moved.params)[0]

    # Forward mode, because a line search is a loop of unknown length.
    return jax.jacfwd(sweep)(start)


@compiled
@automatic
def _informations(model, params, places, batch, chunk_size):
    at, start = _entries(params, places)
    exact = Exact(model, params)
    total_weight = _total_weight(batch, start.dtype)

    def complete(vector):
        return -total_weight * elbo(model, at(vector), exact, batch, chunk_size=chunk_size)

    return _observed(model, params, places, batch, chunk_size), jax.hessian(complete)(start)


@compiled
@automatic
def _curvature(model, params, places, held, batch, describe, chunk_size):
    """Returns (the observed information of some entries, ∂ describe in all entries, describe)."""
    start, unflatten = ravel_pytree(params)
    flat = lambda vector: ravel_pytree(describe(unflatten(vector)))[0]
    observed = _observed(model, params, places, batch, chunk_size)
    # For a probability that is 0 to rounding the derivative would vanish.
    near = jnp.where(held, jnp.clip(start, -30, 30), start)
    return observed, jax.jacobian(flat)(near), describe(params)


def _observed(model, params, places, batch, chunk_size):
    at, start = _entries(params, places)
    total_weight = _total_weight(batch, start.dtype)

    def minus_log_posterior(vector):
        theta = at(vector)
        found = evidence(model, theta, batch, chunk_size=chunk_size)
        return -total_weight * found - jnp.asarray(model.log_prior(theta), vector.dtype)

    return jax.hessian(minus_log_posterior)(start)


def _entries(params, places):
    """Returns (the params as a function of these entries, the entries)."""
    start, unflatten = ravel_pytree(params)
    return lambda vector: unflatten(start.at[places].set(vector)), start[places]


def _total_weight(batch, dtype):
    return jnp.sum(effective_weight(as_batch(batch))).astype(dtype)
