"""Model selection: a table of criteria over a grid of fitted models."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Literal

import equinox as eqx
import numpy as np

from .._arguments import check_count, check_key
from .._door import check_model
from .._elbo import evidence
from .._em import em
from .._model import AbstractModel
from .._types import Any, Callable, Key, PyTree, Scalar
from .._update import AbstractUpdate
from ..data._batch import read, rows as rows_of
from ..data._check import check_known
from ..data._padding import padded
from ..fitting import fit_restarts, Restarts
from ..starts import Init, initial_states
from ._criteria import Criteria, information_criteria
from ._table import table


Criterion = Literal["bic", "aic", "aicc", "icl", "held_out", "elbo"]
_CRITERIA = ("bic", "aic", "aicc", "icl", "held_out", "elbo")


class Selection(eqx.Module):
    """The result of `select`: a table of fitted models. Printing it shows the table, with the best model marked.

    Its columns are what distinguishes the models (`model.summary`: K, structure), log-likelihood, number of
    params, the criteria, how the best restart ended, the number of rejected restarts, and the number of distinct
    ends of the others. Below it are n and every model that ended lower than a smaller one.

    **Fields:**

    - `best`: the name of the best model.
    - `by`: the criterion.
    - `rows`: the `Criteria` of each name; `None` for a model without a usable restart, and for a `Bayesian`, which
        has only a bound.
    - `fits`: the `Restarts` of each name, or `None`.
    - `held_out`: the evidence of the held-out data for each name, in nats per datum; empty without held-out data.
    - `models`: the models by name.
    - `bounds`: the highest ELBO of each name, in nats summed over data; `None` without a usable restart.
    """

    best: str
    by: Criterion
    rows: dict[str, Criteria | None]
    fits: dict[str, Restarts | None]
    held_out: dict[str, Scalar]
    models: dict[str, AbstractModel]
    bounds: dict[str, float | None] = eqx.field(default_factory=dict)

    @property
    def params(self) -> PyTree:
        """The params of the best model."""
        fit = self.fits[self.best]
        assert fit is not None
        return fit.best.state.params

    @property
    def lower_than_smaller(self) -> list[str]:
        """A sentence for every model that ended lower than one it contains: its optimum was not found."""
        found = []
        likelihoods = {n: row.log_likelihood for n, row in self.rows.items() if row is not None}
        for name, reached in likelihoods.items():
            smaller = [
                other
                for other in likelihoods
                if other != name and self.models[name].nests(self.models[other])
            ]
            if not smaller:
                continue
            other = max(smaller, key=likelihoods.__getitem__)
            # The gain that a converged fit may have left.
            row = self.rows[name]
            assert row is not None
            slack = 1e-3 + 1e-6 * (abs(reached) + row.num_data)
            if reached < likelihoods[other] - slack:
                found.append(
                    f"{name} ended at a log-likelihood of {reached:.3f}, lower than that of {other}, "
                    f"{likelihoods[other]:.3f}, although it contains {other} as a special case. Its global "
                    "maximum was not found. Raise num_restarts."
                )
        return found

    def __str__(self) -> str:
        rows = list(map(self._cells, self.rows))
        kept = [row for row in self.rows.values() if row is not None]
        numbers = {row.num_data for row in kept}
        lines = [table(rows, left=_LEFT)]
        if len(numbers) == 1:
            lines.append(f"n = {numbers.pop():g}; → is the best by {LABELS[self.by]}.")
        else:
            lines.append(f"→ is the best by {LABELS[self.by]}.")
        return "\n".join(lines + self.lower_than_smaller)

    def __repr__(self) -> str:
        return str(self)

    def _cells(self, name: str) -> dict[str, str]:
        """Returns a row of the printed table, without columns (other than sizes) that are equal for all models."""
        summaries = {other: model.summary() for other, model in self.models.items()}
        told = {}
        for place, (column, value) in enumerate(summaries[name].items()):
            if place == 0 or len({str(found.get(column)) for found in summaries.values()}) > 1:
                told[column] = str(value)
        cells = {"  model": ("→ " if name == self.best else "  ") + str(name)} | told
        row, fit = self.rows[name], self.fits[name]
        if fit is None:
            return cells | {"result": "every restart collapsed or ended nonfinite"}
        if row is not None:
            cells |= {
                "log-lik": f"{row.log_likelihood:.3f}",
                "params": str(row.num_free_params),
                "AIC": f"{row.aic:.3f}",
                "AICc": f"{row.aicc:.3f}",
                "BIC": f"{row.bic:.3f}",
            }
            if row.icl is not None:
                cells["ICL"] = f"{row.icl:.3f}"
        if self.by == "elbo" or row is None:
            cells["ELBO"] = f"{self.bounds[name]:.3f}"
        if self.held_out:
            cells["held out"] = f"{float(self.held_out[name]):.4f}"
        if row and len({other.num_data for other in self.rows.values() if other is not None}) > 1:
            cells["n"] = f"{row.num_data:g}"
        rejected = np.asarray(fit.rejected)
        return cells | {
            "result": fit.best.code,
            "rejected": f"{int(rejected.sum())}/{rejected.size}",
            "ends": str(fit.num_distinct),
        }


LABELS = {
    "bic": "BIC",
    "aic": "AIC",
    "aicc": "AICc",
    "icl": "ICL",
    "held_out": "held-out evidence",
    "elbo": "ELBO",
}
_LEFT = ("  model", "component", "structure", "response", "result")


def select(
    models: Mapping[str, AbstractModel],
    batch: PyTree,
    *,
    key: Key,
    by: Criterion = "bic",
    num_restarts: int = 8,
    init: Init | list[Init] | None = None,
    held_out: PyTree | None = None,
    update: Callable[[AbstractModel], AbstractUpdate] | None = None,
    free: PyTree = True,
    num_data: float | None = None,
    max_steps: int = 1000,
    tolerance: float = 1e-7,
    progress: bool = False,
) -> Selection:
    """Fits every model of a grid from several starts and compares them by a criterion.

    **Arguments:**

    - `models`: models by name: `{f"{c}, {k}": GaussianMixture(k, c) for c in ... for k in ...}`.
    - `by`: `"bic"`, `"aic"`, `"aicc"`, `"icl"` (the lowest is best), `"held_out"` (the highest evidence), or
        `"elbo"` (the highest bound), which compares models by their evidence only if each is a `Bayesian`.
    - `num_restarts`: the number of starts of each model, vmapped; ends that collapsed are rejected.
    - `init`: where fits start, as for `initial_states`; by default starts of several kinds.
    - `held_out`: a batch that no fit uses, whose evidence is reported.
    - `update`: a function from a model to its update; by default EM of the free params.
    - `free`: which params are estimated, `True` or `False` for each block, or a mask for each entry. It determines
        the number of params. A custom `update` must be given it separately.
    - `num_data`: n, as for `criteria`.
    - `max_steps`, `tolerance`: as for `fit_restarts`.
    - `progress`: whether to show a progress bar over models (needs `elbax[progress]`).

    **Returns:** a `Selection`.

    **Warns** about a model that ends lower than a smaller one of the grid which it contains: its optimum was not
    found.

    **Raises** `ValueError` if no model could be fitted.

    ```python
    >>> import elbax, jax
    >>> x = elbax.datasets.old_faithful()
    >>> models = {f"K = {k}": elbax.GaussianMixture(k, "tied") for k in (2, 3)}
    >>> table = elbax.diagnostics.select(models, x, key=jax.random.key(0), num_restarts=4)
    >>> table.best
    'K = 3'

    ```
    """
    if by == "held_out" and held_out is None:
        raise ValueError('select: got by="held_out" without held_out data. Pass held_out.')
    if by not in _CRITERIA:
        *names, last = map(repr, _CRITERIA)
        raise ValueError(f"select: by must be {', '.join(names)} or {last}; got {by!r}.")
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            f"select: models must be a dictionary from names to models with at least one entry, got {models!r}."
        )
    check_key(key, "select")
    check_known("select", (batch, held_out))
    check_count("select", num_restarts=num_restarts)
    batch = read(batch)
    for name, model in models.items():
        check_model(model, f"select, {name}")
        if by == "icl" and not model.latent.finite:
            raise ValueError(
                f"select: {name} has no ICL, because its latent is not finite. Use by='bic'."
            )
        if by not in ("elbo", "held_out"):
            model.check_evidence(f'select, {name}, by="{by}" instead of by="elbo"')
    points = [name for name, model in models.items() if model.has_evidence]
    if by == "elbo" and 0 < len(points) < len(models):
        raise ValueError(
            f'select: by="elbo" compares bounds on the evidence, but {", ".join(points)} have params at a point. '
            "Wrap every model in Bayesian."
        )
    # Tables of similar numbers of rows share their programs.
    batch, held_out = padded(batch), None if held_out is None else padded(held_out)
    rows: dict[str, Criteria | None] = {}
    bounds: dict[str, float | None] = {}
    total_weight = float(np.sum(np.asarray(rows_of(batch)[1])))
    fits: dict[str, Restarts | None] = {}
    elsewhere: dict[str, Scalar] = {}
    for name, model in _with_bar(models) if progress else models.items():
        step = em(model, free=free) if update is None else update(model)

        # Data are checked once, where their values are known.
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
            rows[name], fits[name], bounds[name] = None, None, None
            continue
        params = fitted.best.state.params
        fits[name] = fitted
        bounds[name] = total_weight * float(fitted.best.elbo)
        rows[name] = None
        if model.has_evidence:
            rows[name] = information_criteria(model, params, batch, free=free, num_data=num_data)
        if held_out is not None:
            elsewhere[name] = evidence(*_of_new_data(model, params, key), held_out)

    def loss(name):
        row, reached = rows[name], bounds[name]
        if by == "elbo":
            assert reached is not None
            return -reached
        assert row is not None
        return float(-elsewhere[name] if by == "held_out" else getattr(row, by))

    usable = [name for name, fit in fits.items() if fit is not None]
    if not usable:
        raise ValueError("select: no model of the grid could be fitted.")
    best = min(usable, key=loss)
    found = Selection(best, by, rows, fits, elsewhere, dict(models), bounds)
    for sentence in found.lower_than_smaller:
        warnings.warn(f"select: {sentence}", stacklevel=2)
    return found


def _of_new_data(model: Any, params: PyTree, key: Key) -> tuple[AbstractModel, PyTree]:
    """Returns the model and params whose evidence scores new data: under a belief, those with θ integrated out."""
    if model.has_evidence:
        return model, params
    try:
        return model.predictive(params)
    except TypeError:  # No closed form.
        return model.predictive(params, key=key)


def _with_bar(models: Mapping[str, AbstractModel]) -> Iterable[tuple[str, AbstractModel]]:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "select(progress=True): tqdm is not installed. Install elbax[progress]."
        ) from error
    with tqdm(total=len(models), unit="model") as bar:
        for name, model in models.items():
            bar.set_postfix_str(name)
            yield name, model
            bar.update(1)
