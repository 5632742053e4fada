"""Which model: information criteria, and a table of them over a grid."""

import warnings
from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_key
from .._batch import as_batch, effective_weight, over_rows, read, reduce_data
from .._door import check_model, enter
from .._elbo import evidence
from .._fit import fit_restarts, Restarts
from .._model import AbstractModel
from .._padding import padded
from .._types import Any, Callable, Key, PyTree, Scalar
from .._update import AbstractUpdate, Chain
from ..e_steps import ExactEStep
from ..m_steps import ClosedFormMStep
from ..posteriors import Exact
from ..starts import Init, initial_states


class Criteria(eqx.Module):
    r"""How well a model fits, and at what price; the lower the criterion the better, as R and
    scikit-learn have it (mclust's signs are opposite).

    **Fields:**

    - `log_likelihood`: $\log p(x)$, summed over data.
    - `num_free_params`, `num_data`: p and n; n is the sum of weights.
    - `aic`: $-2 \log p(x) + 2 p$ (Akaike 1974).
    - `bic`: $-2 \log p(x) + p \log n$ (Schwarz 1978).
    - `icl`: $\mathrm{BIC} - 2 \sum_i \log q(\hat z_i)$ with $\hat z_i$ the most probable value
        (Biernacki, Celeux and Govaert 2000), which counts uncertainty about z against the model; `None` unless
        z is finite.
    """

    log_likelihood: Scalar
    num_free_params: int
    num_data: Scalar
    aic: Scalar
    bic: Scalar
    icl: Scalar | None


def criteria(
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    num_free_params: int | None = None,
    chunk_size: int | None = None,
) -> Criteria:
    """AIC, BIC and ICL: see `Criteria`.

    **Arguments:**

    - `num_free_params`: how many numbers were estimated; `model.num_free_params(params)` by default. Give it
        for a plain `Model`, or where some were frozen.
    - `chunk_size`: about how many rows to see at a time.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> model = elbax.Mixture(elbax.components.Poisson(), 1)
    >>> params = model.from_description(weights=[1.0], rates=[[3.0]])
    >>> found = elbax.criteria(model, params, jnp.array([[2], [4], [3], [5], [1]]))
    >>> print(f"{found.bic:.2f}")
    19.55

    ```
    """
    batch = enter("criteria", model, params, batch, chunk_size=chunk_size)
    if num_free_params is None:
        num_free_params = model.num_free_params(params)
    n = jnp.sum(effective_weight(as_batch(batch)))
    per_datum = evidence(model, params, batch, chunk_size=chunk_size)
    log_likelihood = per_datum * n.astype(per_datum.dtype)
    n = n.astype(per_datum.dtype)
    bic = -2 * log_likelihood + num_free_params * jnp.log(n)
    icl = None
    if model.latent.finite:
        icl = bic - 2 * _certainty(model, params, batch, chunk_size)
    return Criteria(
        log_likelihood, num_free_params, n, 2 * num_free_params - 2 * log_likelihood, bic, icl
    )


@eqx.filter_jit
def _certainty(model, params, batch, chunk_size):
    """Σ w log q(ẑ)."""
    posterior = Exact(model, params)

    def one(x):
        q = posterior(x)
        return q.log_prob(q.mode())

    def total(x, weight, places):
        found = over_rows(one, x)
        return jnp.sum(weight.astype(found.dtype) * found)

    return reduce_data(total, batch, jax.random.key(0), chunk_size)[0]


Criterion = Literal["bic", "aic", "icl", "held_out"]


class Selection(eqx.Module):
    """A table of fitted models; it prints as one, the best by its criterion marked.

    **Fields:**

    - `best`: the name of the best model.
    - `by`: the criterion.
    - `rows`: for each name its `Criteria`; `None` for a model of which no restart could be returned.
    - `fits`: for each name its `Restarts`, or `None`.
    - `held_out`: for each name the evidence of the held-out data, in nats per datum; empty without such.
    """

    best: str
    by: Criterion
    rows: dict[str, Criteria | None]
    fits: dict[str, Restarts | None]
    held_out: dict[str, Scalar]

    @property
    def params(self) -> PyTree:
        """The params of the best model."""
        fit = self.fits[self.best]
        assert fit is not None
        return fit.best.state.params

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        held = f"{'held out':>12}" if self.held_out else ""
        lines = [
            f"  {'':{width}}{'log-lik':>14}{'params':>8}{'AIC':>14}{'BIC':>14}{'ICL':>14}{held}"
        ]
        for name, row in self.rows.items():
            mark = "→ " if name == self.best else "  "
            if row is None:
                lines.append(f"{mark}{name:{width}}  every restart collapsed or ended nonfinite")
                continue
            icl = f"{'':14}" if row.icl is None else f"{float(row.icl):14.3f}"
            tail = f"{float(self.held_out[name]):12.4f}" if self.held_out else ""
            lines.append(
                f"{mark}{name:{width}}{float(row.log_likelihood):14.3f}{row.num_free_params:8d}"
                f"{float(row.aic):14.3f}{float(row.bic):14.3f}{icl}{tail}"
            )
        return "\n".join(lines)


def expectation_maximization(model: AbstractModel) -> AbstractUpdate:
    """EM: Bayes' rule, then the closed form."""
    return Chain(ExactEStep(model), ClosedFormMStep(model))


def select(
    models: Mapping[str, Any],
    batch: PyTree,
    *,
    key: Key,
    by: Criterion = "bic",
    num_restarts: int = 8,
    init: Init | list[Init] | None = None,
    held_out: PyTree | None = None,
    update: Callable[[Any], AbstractUpdate] = expectation_maximization,
    max_steps: int = 1000,
    tolerance: float = 1e-7,
) -> Selection:
    """Fits every model of a grid from several starts, and tabulates what they are worth.

    **Arguments:**

    - `models`: models by name: `{f"{c}, {k}": GaussianMixture(k, c) for c in ... for k in ...}`.
    - `by`: `"bic"`, `"aic"`, `"icl"` (the lowest wins), or `"held_out"` (the highest evidence).
    - `num_restarts`: starts for each, vmapped; ends that collapsed are not returned.
    - `init`: where fits start, as for `initial_states`: by default starts of several kinds.
    - `held_out`: a batch that no fit sees, whose evidence is reported.
    - `update`: from a model to its update; EM by default.

    **Raises** `ValueError` if no model could be fitted.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> models = {f"K = {k}": elbax.GaussianMixture(k, "tied") for k in (2, 3)}
    >>> table = elbax.select(models, x, key=jax.random.key(0), num_restarts=4)
    >>> table.best
    'K = 3'

    ```
    """
    if by == "held_out" and held_out is None:
        raise ValueError('select: by="held_out" needs held_out data.')
    if by not in ("bic", "aic", "icl", "held_out"):
        raise ValueError(f"select: by must be 'bic', 'aic', 'icl' or 'held_out'; got {by!r}.")
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            f"select: models must be a dictionary of at least one model by its name, got {models!r}."
        )
    check_key(key, "select")
    check_count("select", num_restarts=num_restarts)
    batch = read(batch)
    for name, model in models.items():
        check_model(model, f"select, {name}")
        if by == "icl" and not model.latent.finite:
            raise ValueError(f"select: {name} has no ICL: its latent is not finite. Use by='bic'.")
    # Tables of about as many rows share their programs.
    batch, held_out = padded(batch), None if held_out is None else padded(held_out)
    table: dict[str, Criteria | None] = {}
    fits: dict[str, Restarts | None] = {}
    elsewhere: dict[str, Scalar] = {}
    for name, model in models.items():
        step = update(model)

        # The data are checked once, where their values are known.
        model.check(batch, f"select, {name}")
        states = initial_states(step, batch, key=key, num_restarts=num_restarts, init=init)
        try:
            fitted = fit_restarts(
                step,
                states,
                batch,
                max_steps=max_steps,
                tolerance=tolerance,
                reject=model.collapsed,
            )
        except RuntimeError as error:
            warnings.warn(f"select, {name}: {error}", stacklevel=2)
            table[name], fits[name] = None, None
            continue
        params = fitted.best.state.params
        fits[name], table[name] = fitted, criteria(model, params, batch)
        if held_out is not None:
            elsewhere[name] = evidence(model, params, held_out)

    def loss(name):
        row = table[name]
        assert row is not None
        return float(-elsewhere[name] if by == "held_out" else getattr(row, by))

    usable = [name for name, row in table.items() if row is not None]
    if not usable:
        raise ValueError("select: no model of the grid could be fitted.")
    return Selection(min(usable, key=loss), by, table, fits, elsewhere)
