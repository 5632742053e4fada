"""Coordinate ascent that starts afresh for every datum."""

import equinox as eqx

from .._arguments import check_count, check_positive
from .._program import program
from .._types import Any, Key, PyTree
from ..families import factored
from ._exact import check_target, Exact
from ._posterior import AbstractPosterior, looks_first


class CoordinateAscent(AbstractPosterior):
    r"""Runs coordinate ascent from `family.start` for every datum, where `MeanField` keeps what it found before.

    It stores nothing per datum and takes new data. Since q is a function of x and θ alone, a pass may find a bound
    a little below that of the pass before.

    **Arguments:**

    - `target`: `Exact(model, params)`: the model at a snapshot of θ, which `CoordinateAscentEStep` keeps up to
        date. Its conditional need not be known.
    - `num_sweeps`: the largest number of rounds.
    - `tolerance`: rounds end once the natural parameters of a datum change by less than this on average; `None`
        for all rounds. With a tolerance, gradients through the rounds are available in forward mode only.

    **Raises** `TypeError` for a model without a mean field.

    ```python
    >>> import elbax, jax
    >>> model = elbax.LatentDirichletAllocation(2, 4)
    >>> batch = elbax.documents([[(0, 2), (1, 1)], [(2, 1), (3, 3)]], num_words=4)
    >>> params = model.init(jax.random.key(0), batch)
    >>> posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(model, params))
    >>> bound = elbax.elbo(model, params, posterior, batch)

    ```
    """

    target: Exact
    num_sweeps: int = eqx.field(static=True, default=20)
    tolerance: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_target("CoordinateAscent", self.target)
        check_count("CoordinateAscent", num_sweeps=self.num_sweeps)
        if self.tolerance is not None:
            check_positive("CoordinateAscent", tolerance=self.tolerance)
        factored(self.target.model.latent)

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any:
        model = self.target.model
        family = factored(model.latent)
        potentials = model.potentials_at(self.target.prepared, x)
        start = family.start(potentials)
        return family(family.climb(start, potentials, self.num_sweeps, self.tolerance))
