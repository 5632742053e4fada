"""A model with a tempered latent."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ._arguments import kind_of
from ._around import AbstractAround
from ._math.algebra import is_label
from ._model import AbstractModel
from ._reference import Reference
from ._shortcut import Shortcut
from ._types import Any, Array, Key, PyTree, Scalar
from .families import Distribution


Target = Literal["entropy", "divergence", "free_bits"]


class Tempered(AbstractAround):
    r"""A model in which one term of the ELBO is weighted by β, for one step of `Anneal`.

    Its `elbo` is $E_q[\log p(x, z)] + H(q) / \beta$ (`"entropy"`), $E_q[\log p(x \mid z)] - \beta\,
    \mathrm{KL}(q \| p(z))$ (`"divergence"`), or $E_q[\log p(x \mid z)] - \sum_j \max(\beta, \mathrm{KL}_j)$
    (`"free_bits"`). Its `conditional` is the maximizing q, $q \propto p(x, z)^\beta$ or
    $q \propto p(z)\, p(x \mid z)^{1/\beta}$. All else is the model's.
    """

    model: AbstractModel
    beta: Array
    target: Target = eqx.field(static=True)
    weight: Array | None = None

    def __init__(
        self, model: AbstractModel, beta: Array, target: Target, weight: Array | None = None
    ):
        if isinstance(model, Tempered) and "free_bits" in (target, model.target):
            raise TypeError(
                "Anneal(target='free_bits'): it stands inside of another Anneal or around one, and the two "
                "weights of the divergence have no objective in common. Use one of them; free bits may fall "
                "along a schedule."
            )
        self.model = model
        self.beta = beta
        self.target = target
        self.weight = weight

    def of_row(self, weight: Array) -> AbstractModel:
        # Only free bits are means over rows.
        free = self.target == "free_bits"
        return Tempered(self.model, self.beta, self.target, weight) if free else self

    @property
    def tight(self) -> bool:
        # The q that maximizes the bound does not come from the bound's own potentials.
        return False

    def params_at(self, natural: PyTree) -> PyTree:
        return self.model.params_at(natural["model"])

    def natural(self, params: PyTree) -> PyTree:
        return {"model": self.model.natural(params), "params": self._kept(params)}

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        moved = self.model.rebase(natural["model"], params)
        return {"model": moved, "params": self._kept(params)}

    def _kept(self, params: PyTree) -> Reference:
        """Returns the params for `prior_at`, where the bound needs p(z)."""
        return Reference(None if self.target == "entropy" else params)

    @property
    def divergence_weight(self) -> Array | None:
        split = self.target == "divergence" and self.model.divergence_weight is not None
        return self.beta if split else None

    def prior_at(self, natural: PyTree, x: PyTree) -> Any:
        return self.model.latent_prior(natural["params"].value, x)

    def draw(self, natural: PyTree, key: Key) -> PyTree:
        return natural | {"model": self.model.draw(natural["model"], key)}

    def prepare(self, natural: PyTree) -> PyTree:
        return natural | {"model": self.model.prepare(natural["model"])}

    def elbo(self, natural: PyTree, x: PyTree, q: Any, key: Key) -> Scalar:
        bound = self.model.elbo(natural["model"], x, q, key)
        beta = self.beta.astype(bound.dtype)
        if self.target == "entropy":
            return bound + (1 / beta - 1) * q.entropy().astype(bound.dtype)
        prior = self.prior_at(natural, x)
        if self.target == "free_bits":
            each = jax.tree.leaves(self.model.divergences(q, prior, key))
            each = jnp.concatenate([jnp.ravel(leaf).astype(bound.dtype) for leaf in each])
            over_rows = self._mean_over_rows(each)
            return bound + jnp.sum(each - jnp.maximum(beta, over_rows))
        divergence = self.model.divergence(q, prior, key)
        return bound + (1 - beta) * divergence.astype(bound.dtype)

    def _mean_over_rows(self, each: Array) -> Array:
        weight = jnp.asarray(1 if self.weight is None else self.weight, each.dtype)
        total = jax.lax.psum(weight, "rows")
        return jax.lax.psum(weight * each, "rows") / jnp.where(total == 0, 1, total)

    def conditional(self, natural: PyTree, x: PyTree) -> Distribution:
        q = self.model.conditional(natural["model"], x)
        if self.target == "entropy":
            return q.family(_mix(self.beta, q.natural))
        if self.target == "free_bits":
            raise TypeError(
                "Anneal(target='free_bits'): Bayes' rule is not known for this objective. Use an encoder, such as "
                "elbax.Amortized(network, model.latent)."
            )
        prior = self.prior_at(natural, x)
        if not isinstance(prior, Distribution) or prior.family != q.family:
            raise TypeError(
                "Anneal(target='divergence'): with Bayes' rule the prior p(z) must be given by natural "
                f"parameters of the latent family, got {kind_of(prior)}. Use an encoder, or "
                "target='entropy'."
            )
        if not q.family.linear:
            raise TypeError(
                f"Anneal(target='divergence'): the natural parameters of {type(q.family).__name__} do not scale "
                "when its density is raised to a power, so Bayes' rule cannot be annealed. Use an encoder, such "
                "as elbax.Amortized(network, model.latent)."
            )
        return q.family(_mix(1 / self.beta, q.natural, prior.natural))

    def log_joint_at(self, natural: PyTree, x: PyTree, z: PyTree) -> Scalar:
        return self.model.log_joint_at(natural["model"], x, z)

    def maximize(self, statistics: PyTree, params: PyTree, free: PyTree) -> PyTree:
        return self.model.maximize(statistics["model"], params, free)

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.model.shortcut(params, x)
        if found is None:
            return None
        return found.around(lambda form: Tempered(form, self.beta, self.target))

    # β is an array, possibly traced: temperatures are equal if they are the same array.
    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Tempered)
            and self.beta is other.beta
            and (self.model, self.target) == (other.model, other.target)
        )

    def __hash__(self) -> int:
        return hash((Tempered, id(self.beta), self.target))


def _mix(share: Array, natural: PyTree, origin: PyTree | None = None) -> PyTree:
    """Returns origin + share (natural − origin); labels and impossible (infinite) values are unchanged."""

    def one(leaf, base):
        if is_label(leaf):
            return leaf
        possible, base = jnp.isfinite(leaf), base.astype(leaf.dtype)
        gap = jnp.where(possible, leaf, 0) - jnp.where(possible, base, 0)
        return jnp.where(possible, base + share.astype(leaf.dtype) * gap, leaf)

    if origin is None:
        origin = jax.tree.map(jnp.zeros_like, natural)
    return jax.tree.map(one, natural, origin)
