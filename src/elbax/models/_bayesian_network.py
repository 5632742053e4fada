"""Discrete variables, each given its parents; some of them may never be observed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_key, check_kind, tables_of_whole_numbers, whole_numbers
from .._door import enter_sample
from .._invariance import beside, Invariances, shifts
from .._model import AbstractExponentialFamilyModel
from .._types import Any, Array, Int, Key, PyTree, Scalar
from ..data._batch import host_rows
from ..data._check import check_described, check_row, check_rows, check_values
from ..data._incomplete_rows import host_known, known
from ..families import FactorGraph
from ..priors import Dirichlet
from ..priors._shares import log_prior_of_shares, log_shares_of, maximize_shares, vanished


class BayesianNetwork(AbstractExponentialFamilyModel):
    r"""A discrete Bayesian network $p(z) = \prod_i p(z_i \mid z_{\mathrm{parents}(i)})$ with missing values.

    Inference is exact, by variable elimination; the tables are estimated by EM. A datum is a row of values
    `(num_variables,)`, or `elbax.IncompleteRows` (`elbax.incomplete(x)` makes these from NaN). Any variable may
    be missing in any datum. One that is missing in every row is latent, such as a cause that was never measured.
    The model's latent is the whole configuration, with the observed variables clamped. Params: one array of logits
    per variable, with one axis per parent, in order, and the variable's own axis last.

    **Arguments:**

    - `sizes`: the number of values of each variable.
    - `parents`: the indices of each variable's parents, a directed graph without cycles.
    - `prior`: a `Dirichlet` prior on every row of every table.
    - `limit`: the largest number of entries of a table in elimination: see `FactorGraph`.

    **Raises** `ValueError` if the parents form a cycle, or are given for another number of variables.

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
                f"BayesianNetwork: got parents for {len(parents)} variables, but sizes for {len(sizes)} "
                "variables."
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
        """The family of all variables of a row, with a factor for each table and for each variable."""
        return self.family

    def check(self, batch: PyTree, who: str = "fit") -> None:
        x, weight = host_rows(batch)
        values, _ = host_known(x)
        sizes = np.array(self.family.sizes)
        if values.ndim != 2 or values.shape[1] != len(sizes):
            raise ValueError(
                f"{who}: expected rows with {len(sizes)} values; got shape {values.shape}."
            )
        check_rows(x, weight, who)
        wrong = lambda values: (values < 0) | (values >= sizes) | (values != np.round(values))
        check_values(x, weight, who, wrong, f"values 0, 1, ... below sizes = {self.family.sizes}")

    def init(self, key: Key, x: PyTree = None) -> PyTree:
        """Returns nearly uniform tables, drawn from the key; `x` is not used."""
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
            # A value that the variable does not have agrees with none of its values; NaN gives NaN.
            clamp = jnp.where(jnp.arange(size).astype(dtype) == values[i], 0, -jnp.inf)
            clamp = jnp.where(jnp.isnan(values[i]), jnp.nan, clamp)
            clamps.append(jnp.where(observed[i], clamp, 0).astype(dtype))
        return (*natural, *clamps), jnp.zeros((), dtype)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        """Returns probabilities proportional to the expected counts; a row without data is unchanged."""
        return tuple(
            maximize_shares(count, table, flag, _possible(table), self.prior)
            for count, table, flag in zip(statistics, params, free, strict=True)
        )

    def log_prior(self, params: PyTree) -> Scalar | float:
        return sum(log_prior_of_shares(table, _possible(table), self.prior) for table in params)

    def describe(self, params: PyTree) -> dict[str, Any]:
        """Returns each variable's table of probabilities given its parents."""
        return {"tables": tuple(jnp.exp(table) for table in self.natural(params))}

    def from_description(self, *, tables: Any) -> PyTree:
        """Returns params from tables of probabilities, or of counts: rows need not sum to 1.

        A probability of 0 marks an impossible value: its logit is −∞ and stays so.

        **Raises** `ValueError` for a wrong number of tables, a wrong shape or an invalid number.
        """
        tables = list(tables)
        if len(tables) != len(self.shapes):
            raise ValueError(
                f"BayesianNetwork: expected one table for each of the {len(self.shapes)} variables; got "
                f"{len(tables)} tables."
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
        """Returns p(z_i given the observed part of x), one vector per variable; NaN if that part is impossible."""
        potentials, _ = self.potentials(self.natural(params), x)
        impossible = jnp.isneginf(self.latent.log_normalizer(potentials))
        found = self.latent.mean(potentials)[len(self.parents) :]
        return tuple(jnp.where(impossible, jnp.nan, shares) for shares in found)

    def sample(
        self, params: PyTree, key: Key, num_data: int
    ) -> Int[Array, "num_data num_variables"]:
        """Returns `num_data` configurations."""
        params = enter_sample(self, params, key, num_data=num_data)
        unseen = tuple(jnp.zeros(size) for size in self.family.sizes)
        natural = (*self.natural(params), *unseen)
        return jax.vmap(self.latent.sample, (None, 0))(natural, jax.random.split(key, num_data))

    def invariances(self, params: PyTree) -> Invariances:
        """Returns the shifts of all logits of a row, and arbitrary changes of impossible logits."""
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
                f"BayesianNetwork: the parents of variables {sorted(left)} form a cycle, or are not variables of "
                "the network."
            )
        left -= ready
        known_before |= ready
