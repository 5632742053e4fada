"""Discrete variables, each given its parents, of which some are never seen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_key, check_kind, tables_of_whole_numbers, whole_numbers
from .._batch import host_rows
from .._check import check_described, check_row, check_rows, check_values
from .._door import enter_sample
from .._incomplete import host_known, known
from .._invariance import beside, Invariances, shifts
from .._model import AbstractExponentialFamilyModel
from .._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished
from .._types import Any, Array, Int, Key, PyTree, Scalar
from ..families import FactorGraph
from ..priors import Dirichlet


class BayesianNetwork(AbstractExponentialFamilyModel):
    r"""$p(z) = \prod_i p(z_i \mid z_{\mathrm{parents}(i)})$ over discrete variables, any of which may be
    missing in any datum: exact inference by variable elimination, EM for the tables.

    A datum is a row of values `(num_variables,)`, or an `elbax.Incomplete` one (`elbax.incomplete(x)` makes
    them from NaN); a variable missing in every row is latent, as a cause that nobody measured. The latent of the
    model is the whole configuration, the seen ones being clamped. Params: one array of logits for each
    variable, with an axis for each parent in order and its own last.

    **Arguments:**

    - `sizes`: how many values each variable has.
    - `parents`: for each variable its parents' indices, a directed graph without cycles.
    - `prior`: a `Dirichlet` on every row of every table.
    - `limit`: the most entries a table may have in elimination: see `FactorGraph`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> nan = jnp.nan  # a hidden cause of three symptoms
    >>> x = jnp.array([[nan, 1, 1, 1], [nan, 0, 0, 0], [nan, 1, 1, 0], [nan, 0, 0, 0]])
    >>> model = elbax.BayesianNetwork((2, 2, 2, 2), ((), (0,), (0,), (0,)))
    >>> params = model.init(jax.random.key(0))
    >>> em = elbax.em(model)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> state, info = em(state, elbax.incomplete(x))

    ```
    """

    family: FactorGraph
    parents: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    prior: Dirichlet | None

    def __init__(
        self, sizes: Any, parents: Any, *, prior: Dirichlet | None = None, limit: int = 2**24
    ):
        sizes = whole_numbers("BayesianNetwork: sizes", sizes)
        parents = tables_of_whole_numbers("BayesianNetwork: parents", parents)
        if len(parents) != len(sizes):
            raise ValueError(
                f"BayesianNetwork: parents are given for {len(parents)} variables, sizes for {len(sizes)}."
            )
        check_kind("BayesianNetwork", Dirichlet, prior=prior)
        _check_acyclic(parents)
        self.parents = parents
        self.family = FactorGraph(
            sizes,
            [(*those, i) for i, those in enumerate(parents)] + [(i,) for i in range(len(sizes))],
            limit=limit,
        )
        self.prior = prior

    @property
    def latent(self) -> FactorGraph:
        return self.family

    def is_linear(self, x: PyTree = None) -> bool:
        return True

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        values, _ = host_known(x)
        sizes = np.array(self.family.sizes)
        if values.ndim != 2 or values.shape[1] != len(sizes):
            raise ValueError(
                f"{who}: expected rows of {len(sizes)} values; got shape {values.shape}."
            )
        check_rows(x, weight, who)
        wrong = lambda values: (values < 0) | (values >= sizes) | (values != np.round(values))
        check_values(x, weight, who, wrong, f"values 0, 1, ... below sizes = {self.family.sizes}")

    def init(self, key: Key, x: PyTree = None) -> PyTree:
        """Tables near uniform, drawn from the key."""
        check_key(key, "BayesianNetwork.init")
        keys = jax.random.split(key, len(self.shapes))
        return tuple(
            0.5 * jax.random.normal(key, shape)
            for key, shape in zip(keys, self.shapes, strict=True)
        )

    @property
    def shapes(self) -> PyTree:
        sizes = self.family.sizes
        return [(*(sizes[j] for j in those), sizes[i]) for i, those in enumerate(self.parents)]

    def natural(self, params: PyTree) -> PyTree:
        def one(table):
            possible = _possible(table)
            return jnp.where(possible, log_shares_of(table, possible), -jnp.inf)

        return tuple(map(one, params))

    def potentials(self, natural: PyTree, x: PyTree) -> tuple[PyTree, Scalar]:
        check_row(x, len(self.parents), "BayesianNetwork")
        values, observed = known(x)
        dtype = natural[0].dtype
        values = values.astype(dtype)
        clamps = []
        for i, size in enumerate(self.family.sizes):
            # No value agrees with one that the variable has not, nor any with NaN.
            clamp = jnp.where(jnp.arange(size).astype(dtype) == values[i], 0, -jnp.inf)
            clamp = jnp.where(jnp.isnan(values[i]), jnp.nan, clamp)
            clamps.append(jnp.where(observed[i], clamp, 0).astype(dtype))
        return (*natural, *clamps), jnp.zeros((), dtype)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Probabilities in proportion to the expected counts; a row without data keeps its own."""
        return tuple(
            maximize_shares(count, table, flag, _possible(table), self.prior)
            for count, table, flag in zip(statistics, params, free, strict=True)
        )

    def log_prior(self, params: PyTree) -> Scalar | float:
        return sum(log_prior_of_shares(table, _possible(table), self.prior) for table in params)

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Each variable's table of probabilities given its parents."""
        return {"tables": tuple(jnp.exp(table) for table in self.natural(params))}

    def from_description(self, *, tables: Any) -> PyTree:
        """The params that `describe` so, also from counts: rows need not add up to 1. A probability of 0 says that
        the value is impossible: its logit is −∞ and stays so.

        **Raises** `ValueError` for another number of tables, another shape or a number that cannot be.
        """
        tables = list(tables)
        if len(tables) != len(self.shapes):
            raise ValueError(
                f"BayesianNetwork: tables are one a variable, {len(self.shapes)}; got {len(tables)}."
            )
        check_described(
            "BayesianNetwork",
            **{
                f"tables[{i}]": (table, shape, "shares")
                for i, (table, shape) in enumerate(zip(tables, self.shapes, strict=True))
            },
        )
        return tuple(jnp.log(jnp.asarray(table, float)) for table in tables)

    def marginals(self, params: PyTree, x: PyTree) -> tuple[Array, ...]:
        """p(z_i | what is seen of x), one vector a variable; NaN where what is seen is impossible."""
        potentials, _ = self.potentials(self.natural(params), x)
        impossible = jnp.isneginf(self.latent.log_normalizer(potentials))
        found = self.latent.mean(potentials)[len(self.parents) :]
        return tuple(jnp.where(impossible, jnp.nan, shares) for shares in found)

    def sample(
        self, params: PyTree, key: Key, num_data: int
    ) -> Int[Array, "num_data num_variables"]:
        """`num_data` configurations."""
        params = enter_sample(self, params, key, num_data=num_data)
        unseen = tuple(jnp.zeros(size) for size in self.family.sizes)
        natural = (*self.natural(params), *unseen)
        return jax.vmap(self.latent.sample, (None, 0))(natural, jax.random.split(key, num_data))

    def invariances(self, params: PyTree) -> Invariances:
        """One number more on all logits of a row, and any on what is impossible."""
        return beside([shifts(table.shape, np.asarray(_possible(table))) for table in params])

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        return tuple(vanished(table, least, np.asarray(_possible(table))) for table in params)


def _possible(table: Any) -> Any:
    return table != -jnp.inf


def _check_acyclic(parents: tuple[tuple[int, ...], ...]) -> None:
    left, known_before = set(range(len(parents))), set()
    while left:
        ready = {i for i in left if set(parents[i]) <= known_before}
        if not ready:
            raise ValueError(
                f"BayesianNetwork: the parents of variables {sorted(left)} form a cycle, or are no variables."
            )
        left -= ready
        known_before |= ready
