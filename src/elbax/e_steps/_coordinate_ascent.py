"""The E-step of variational EM that keeps nothing per datum."""

from typing import ClassVar

import equinox as eqx

from .._arguments import check_count
from .._types import PyTree
from ..posteriors import CoordinateAscent, Exact
from ._bayes import AbstractBayesStep


class CoordinateAscentEStep(AbstractBayesStep):
    r"""Sets q to what coordinate ascent finds from a fresh start at the state's params, for every datum.

    It costs nothing and stores nothing per datum: the next pass over the data runs the rounds. So it serves
    streams (stochastic variational inference, with `OnlineMStep`). `MeanFieldEStep` keeps a table, starts each
    datum from its last q, and never lowers the ELBO; this step does not promise that.

    **Arguments:**

    - `model`: a model with a mean field.
    - `num_sweeps`, `tolerance`: as for `elbax.posteriors.CoordinateAscent`.

    **Raises** `TypeError` at `init` for a posterior that is not `CoordinateAscent(Exact(model, params), ...)` with
    these numbers.

    ```python
    >>> import elbax, jax
    >>> model = elbax.LatentDirichletAllocation(2, 4)
    >>> batch = elbax.documents([[(0, 2), (1, 1)], [(2, 1), (3, 3)]], num_words=4)
    >>> em = elbax.Chain(elbax.CoordinateAscentEStep(model), elbax.ClosedFormMStep(model))
    >>> state = em.init(model.init(jax.random.key(0), batch), key=jax.random.key(1))
    >>> state, info = em(state, batch)

    ```
    """

    num_sweeps: int = eqx.field(static=True, default=20)
    tolerance: float | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = CoordinateAscent
    form: ClassVar[str] = (
        "elbax.posteriors.CoordinateAscent(elbax.Exact(model, params), num_sweeps, tolerance)"
    )

    def __check_init__(self):
        check_count("CoordinateAscentEStep", num_sweeps=self.num_sweeps)

    @property
    def ascends(self) -> bool:
        return False

    def natural_posterior(self, params: PyTree) -> CoordinateAscent:
        return CoordinateAscent(Exact(self.model, params), self.num_sweeps, self.tolerance)
