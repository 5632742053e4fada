"""Gaussian beliefs over the params of any model."""

import functools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import (
    check_choice,
    check_count,
    check_flag,
    check_kind,
    check_positive,
    kind_of,
    takes,
)
from .._math.algebra import diagonal
from .._model import AbstractModel
from .._program import by_value
from .._reference import Reference, split_coordinates
from .._types import Any, Array, Callable, Key, PyTree, Scalar
from ._at_draws import AtDraws
from ._belief import AbstractBelief, belief
from ._local import is_linear
from ._whitened import Independent, Joint, Piece, Pieces, Whitened


# No row of data has this number, from which its key is folded.
_PASS = 2**32 - 1


class GaussianBelief(eqx.Module, AbstractBelief):
    r"""A Gaussian q(θ) over the params of any model, a network included, for `Bayesian(model, GaussianBelief())`.

    $q(\theta) = N(m, L L^\top)$ under a prior p(θ). The bound takes $E_q[\log p(x, z \mid \theta)]$ by draws
    $\theta = m + L \varepsilon$, whose gradient reaches m and L (Blundell et al. 2015, "Bayes by backprop"), and
    KL(q ‖ p) in closed form. `GradientMStep` trains q; minibatches of B from N have `Batch(x, weight=N / B)`.

    `OnlineMStep` takes natural-gradient steps: the gradients of the bound in E[θ] and E[θ θᵀ], which are its
    statistics, are added to the prior's mean and precision (conjugate-computation variational inference, Khan and
    Lin 2017). They need antithetic draws, and rates below 1 from the start, such as $(t + 10)^{-0.7}$. The
    precision is kept at least the prior's, as it is where the likelihood is log-concave.

    Its params: `{"mean": θ, "log_deviations": ...}` with a number for each trained number of θ. With a `full`
    block also `"lower"`, N of $L = D (1 + N)$ with D the deviations of that block and N strictly lower triangular.

    **Arguments:**

    - `prior`: the standard deviation of a normal prior with mean 0 on θ as it is: one number, or a dictionary with
        one for each block of θ. Or any density, `prior(θ)` in nats with all constants, which is then averaged over
        draws. By default the `log_prior` of the `Model`. It takes the place of all priors and floors of the model,
        which are densities of what `describe` returns.
    - `full`: a function that returns those parts of θ that have one full covariance, such as
        `lambda params: params["weights"]` or `lambda params: params` for all. The others are independent.
    - `draws`: `"pass"` for draws that all data of a pass share, as networks want it; `"datum"` for draws of each
        datum, which have less noise and cost a network a row; `"local"` for these, by draws of what every
        `equinox.nn.Linear` returns in place of its weights (Kingma, Salimans and Welling 2015).
    - `num_samples`: the number of draws.
    - `antithetic`: whether the draws are pairs m ± Lε.
    - `learned`: whether the prior's deviations are learned too, one for each array of θ (empirical Bayes, or
        type-II maximum likelihood). They are `"log_prior_deviations"` in the params; `free` can freeze them.

    **Raises** `TypeError` or `ValueError` for arguments that are none of these.

    ```python
    >>> import elbax, jax, jax.numpy as jnp, optax
    >>> def log_density(params, x):  # a regression: no latent
    ...     inputs, target = x
    ...     return jax.scipy.stats.norm.logpdf(target, params @ inputs, 0.5)
    >>> bayesian = elbax.Bayesian(elbax.Model(log_density), elbax.beliefs.GaussianBelief(prior=1.0))
    >>> x = (jnp.array([[1.0], [2.0], [3.0]]), jnp.array([1.0, 2.1, 2.9]))
    >>> step = elbax.Chain(
    ...     elbax.ExactEStep(bayesian), elbax.GradientMStep(bayesian, optax.adam(1e-2))
    ... )
    >>> state = step.init(bayesian.start(jnp.zeros(1), x), key=jax.random.key(0))
    >>> run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, x), state, length=1000))
    >>> state, info = run(state)
    >>> bool(abs(state.params["mean"][0] - 0.97) < 0.05)
    True

    ```
    """

    knows_statistics: ClassVar[bool] = True

    prior: Any = eqx.field(static=True)
    full: Callable[[PyTree], Any] | None = eqx.field(static=True)
    draws: Literal["pass", "datum", "local"] = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)
    learned: bool = eqx.field(static=True)

    def __init__(
        self,
        prior: Any = None,
        *,
        full: Callable[[Any], Any] | None = None,
        draws: Literal["pass", "datum", "local"] = "pass",
        num_samples: int = 1,
        antithetic: bool = False,
        learned: bool = False,
    ):
        who = "GaussianBelief"
        check_choice(who, ("pass", "datum", "local"), draws=draws)
        check_count(who, num_samples=num_samples)
        check_flag(who, antithetic=antithetic, learned=learned)
        if antithetic and (num_samples % 2 or draws == "local"):
            raise ValueError(
                f"{who}: antithetic draws are pairs, got num_samples={num_samples} and draws={draws!r}. Pass an "
                "even num_samples, and draws='pass' or 'datum'."
            )
        if isinstance(prior, Mapping):
            check_positive(f"{who}, prior", **prior)
            prior = tuple(sorted((name, float(value)) for name, value in prior.items()))
        elif callable(prior):
            prior = by_value(prior)
            if not takes(prior, 1):
                raise TypeError(f"{who}: prior must be a function of the params, prior(params).")
        elif prior is not None:
            check_positive(who, prior=prior)
            prior = float(prior)
        if learned and (prior is None or callable(prior)):
            raise TypeError(
                f"{who}: learned=True learns the deviations of a normal prior. Pass those to start from, such as "
                "prior=1.0; a prior of another shape has its own params in θ."
            )
        if full is not None and not callable(full):
            raise TypeError(
                f"{who}: full must be a function that returns a part of the params, such as lambda params: "
                f"params['weights']; got {full!r}."
            )
        self.prior = prior
        self.full = None if full is None else by_value(full)
        self.draws, self.num_samples = draws, num_samples
        self.antithetic, self.learned = antithetic, learned

    def start(self, params, count):
        """Returns q about these params, as narrow as the prior and `count` data of its width make it."""
        trained, _ = split_coordinates(params)
        if not jax.tree.leaves(trained):
            raise TypeError(
                "GaussianBelief: the params hold no floating-point arrays to be random."
            )
        nodes = jax.tree.leaves(params, is_leaf=is_linear)
        if self.draws == "local" and not any(map(is_linear, nodes)):
            raise TypeError(
                "GaussianBelief: draws='local' needs layers that are equinox.nn.Linear in the params, as in "
                "elbax.Network(equinox.nn.MLP(...)). Use draws='pass' or 'datum'."
            )
        widths = self._log_widths(trained)

        def narrow(leaf, log_width):
            log_deviation = log_width - 0.5 * jnp.log1p(jnp.asarray(count, leaf.dtype))
            return jnp.full(leaf.shape, log_deviation, leaf.dtype)

        q = {"mean": params, "log_deviations": jax.tree.map(narrow, trained, widths)}
        pieces = self._pieces(trained)
        if Joint in pieces.kinds:
            vector = pieces.split(trained)[-1]
            q["lower"] = jnp.zeros((len(vector), len(vector)), vector.dtype)
        if self.learned:
            as_array = lambda leaf, log_width: jnp.asarray(log_width, leaf.dtype)
            q["log_prior_deviations"] = jax.tree.map(as_array, trained, widths)
        return q

    def _log_widths(self, trained: PyTree) -> PyTree:
        """Returns the logarithm of the prior's deviation of every array; 0 for a prior of another shape."""
        if isinstance(self.prior, tuple):
            found = dict(self.prior)
            names = _random(trained) if isinstance(trained, dict) else "no names"
            if names != sorted(found):
                raise ValueError(
                    f"GaussianBelief: prior has the blocks {sorted(found)}, the params have {names}. Pass one "
                    "deviation for each block, or one number for all."
                )
            logs = {name: math.log(found.get(name, 1.0)) for name in trained}
            return {n: jax.tree.map(lambda _, n=n: logs[n], trained[n]) for n in trained}
        width = self.prior if isinstance(self.prior, float) else 1.0
        return jax.tree.map(lambda _: math.log(width), trained)

    def _pieces(self, trained: PyTree) -> Pieces:
        marks = jax.tree.map(lambda _: False, trained)
        if self.full is not None:
            yes = lambda below: jax.tree.map(lambda _: True, below)
            marks = eqx.tree_at(self.full, marks, replace_fn=yes)
        return Pieces(trained, marks)

    def _normals(self, q: PyTree) -> tuple[Pieces, list[Piece]]:
        trained, _ = split_coordinates(q["mean"])
        pieces = self._pieces(trained)

        def one(kind, mean, log_deviations):
            deviations = jnp.exp(log_deviations)
            if kind is Independent:
                return Independent(mean, deviations)
            unit = jnp.eye(len(mean), dtype=mean.dtype)
            return Joint(mean, deviations[:, None] * (unit + jnp.tril(q["lower"], -1)))

        given = pieces.kinds, pieces.split(trained), pieces.split(q["log_deviations"])
        return pieces, [one(*each) for each in zip(*given, strict=True)]

    def shapes(self, shapes):
        return None

    def point(self, q):
        return q["mean"]

    def natural(self, q):
        """Returns the moments of q about itself, `Whitened`."""
        trained, rest = split_coordinates(q["mean"])
        _, normals = self._normals(q)
        moments = [normal.moments for normal in normals]
        first, second = [m for m, _ in moments], [s for _, s in moments]
        return Whitened(first, second, Reference((normals, trained, rest)))

    def _theta(self, natural: Whitened, noise: list[Array] | list[None]) -> PyTree:
        normals, trained, _ = natural.about.value
        moments = zip(normals, natural.first, natural.second, noise, strict=True)
        return self._pieces(trained).join([normal.at(*each) for normal, *each in moments])

    def center(self, natural: Whitened) -> PyTree:
        """Returns E[θ]."""
        _, _, rest = natural.about.value
        return eqx.combine(self._theta(natural, [None] * len(natural.first)), rest)

    def deviations(self, natural: Whitened) -> PyTree:
        """Returns the deviations of what is independent in θ, with `None` in the places of all else."""
        normals, trained, _ = natural.about.value
        moments = zip(normals, natural.first, natural.second, strict=True)
        alone = [normal.spread(*m) for normal, *m in moments if isinstance(normal, Independent)]
        return self._pieces(trained).alone(alone)

    def thetas(self, natural: Whitened, key: Key) -> PyTree:
        """Returns `num_samples` draws of θ, with a leading axis."""
        number = self.num_samples // 2 if self.antithetic else self.num_samples
        noise = _noise(natural.first, key, number)
        if self.antithetic:
            noise = [jnp.concatenate([each, -each]) for each in noise]
        drawn = jax.vmap(lambda noise: self._theta(natural, noise))(noise)
        _, _, rest = natural.about.value
        spread = lambda leaf: jnp.broadcast_to(leaf, (self.num_samples, *jnp.shape(leaf)))
        return eqx.combine(drawn, jax.tree.map(spread, rest))

    def key_of_pass(self, key: Key) -> Key:
        """Returns the key of the draws that a pass shares, apart from that of every row."""
        return jax.random.fold_in(key, _PASS)

    def sample(self, q, key):
        natural = self.natural(q)
        noise = [each[0] for each in _noise(natural.first, key, 1)]
        _, _, rest = natural.about.value
        return eqx.combine(self._theta(natural, noise), rest)

    def divergence(self, q):
        """Returns KL(q ‖ p) by block of θ; of a prior that is a function, an estimate with `jax.random.key(0)`."""
        if callable(self.prior):
            return {"params": -self.global_term(q, jax.random.key(0))}
        trained, _ = split_coordinates(q["mean"])
        pieces, normals = self._normals(q)
        variances = pieces.join([normal.variance for normal in normals])

        # log det L is the sum of the logarithms of its diagonal.
        def one(mean, variance, log_deviation, log_width):
            log_width = jnp.asarray(log_width, mean.dtype)
            scaled = (variance + mean**2) * jnp.exp(-2 * log_width)
            return jnp.sum(0.5 * (scaled - 1) + log_width - log_deviation)

        each = jax.tree.map(one, trained, variances, q["log_deviations"], self._widths(q))
        blocks = each if isinstance(each, dict) else {"params": each}
        return {name: _total(blocks[name]) for name in _random(blocks)}

    def _widths(self, q: PyTree) -> PyTree:
        trained, _ = split_coordinates(q["mean"])
        return q["log_prior_deviations"] if self.learned else self._log_widths(trained)

    def global_term(self, q, key):
        """Returns −KL(q ‖ p); with a prior that is a function, its average over the draws of the pass."""
        if not callable(self.prior):
            return AbstractBelief.global_term(self, q, key)
        thetas = self.thetas(self.natural(q), self.key_of_pass(key))
        logs = q["log_deviations"]
        size = sum(leaf.size for leaf in jax.tree.leaves(logs))
        entropy = _total(jax.tree.map(jnp.sum, logs)) + 0.5 * size * (1 + math.log(2 * math.pi))
        prior: Any = self.prior
        return jnp.mean(jax.vmap(prior)(thetas)) + entropy

    def posterior(self, statistics, q, free):
        """Returns q after a natural-gradient step of rate 1: the prior plus the statistics."""
        if callable(self.prior):
            raise TypeError(
                "GaussianBelief: natural-gradient steps add statistics to a normal prior, but this prior is a "
                "function. Use GradientMStep(bayesian, optimizer), or pass a deviation such as prior=1.0."
            )
        if not self.antithetic:
            raise TypeError(
                "GaussianBelief: a natural-gradient step needs antithetic draws, in whose curvature the noise of "
                "the slope cancels. Use GaussianBelief(..., num_samples=2, antithetic=True, draws='datum'), or "
                "GradientMStep(bayesian, optimizer)."
            )
        _, rest = split_coordinates(q["mean"])
        pieces, normals = self._normals(q)
        precisions = self._precisions(q)
        given = zip(normals, precisions, statistics.first, statistics.second, strict=True)
        found = [normal.posterior(*each) for normal, *each in given]
        means = pieces.join([normal.mean for normal in found])
        moved = q | {
            "mean": eqx.combine(means, rest),
            "log_deviations": pieces.join([normal.log_diagonal for normal in found]),
        }
        if "lower" in q:
            factor = found[-1].factor
            moved["lower"] = jnp.tril(factor / diagonal(factor)[:, None], -1)
        if self.learned:
            variances = pieces.join([normal.variance for normal in found])
            second = jax.tree.map(lambda v, m: jnp.mean(jnp.add(v, m**2)), variances, means)
            moved["log_prior_deviations"] = jax.tree.map(lambda leaf: 0.5 * jnp.log(leaf), second)
        return moved

    def _precisions(self, q: PyTree) -> list[Array]:
        """Returns the prior's precision of every number, by piece."""
        trained, _ = split_coordinates(q["mean"])
        spread = lambda leaf, log_width: jnp.full(
            leaf.shape, jnp.exp(-2 * jnp.asarray(log_width, leaf.dtype))
        )
        precisions = jax.tree.map(spread, trained, self._widths(q))
        return self._pieces(trained).split(precisions)

    def statistics_at(self, q):
        """Returns what q has beside the prior, so that the first online step does not forget it."""
        _, normals = self._normals(q)
        each = zip(normals, self._precisions(q), strict=True)
        gradients = [normal.gradients(precision) for normal, precision in each]
        coordinates, _ = split_coordinates(self.natural(q))
        found = [g for g, _ in gradients], [c for _, c in gradients]
        return eqx.tree_at(lambda at: (at.first, at.second), coordinates, found)

    def rebase(self, model, natural, q):
        """Returns the same E[θ] and E[θ θᵀ] about another q."""
        old, _, _ = natural.about.value
        new = self.natural(q)
        given = zip(old, natural.first, natural.second, new.about.value[0], strict=True)
        moments = [normal.about(*each) for normal, *each in given]
        return Whitened([m for m, _ in moments], [s for _, s in moments], new.about)


def _noise(like: list[Array], key: Key, number: int) -> list[Array]:
    keys = jax.random.split(key, len(like))
    return [
        jax.random.normal(key, (number, *leaf.shape), leaf.dtype)
        for key, leaf in zip(keys, like, strict=True)
    ]


def _random(blocks: dict[str, PyTree]) -> list[str]:
    """Returns the names of the blocks that hold random numbers: a `Reference` holds none."""
    return sorted(name for name, below in blocks.items() if jax.tree.leaves(below))


def _total(tree: PyTree) -> Scalar:
    return functools.reduce(jnp.add, jax.tree.leaves(tree))


def gaussian(model: AbstractModel, chosen: GaussianBelief) -> AtDraws:
    """Returns the model at draws from this belief, whose prior is the model's own if it has none.

    **Raises** `TypeError` without a prior, or with two.
    """
    check_kind("Bayesian", GaussianBelief, belief=chosen)
    own = getattr(model, "log_prior_of_params", None)
    if own is None and chosen.prior is None:
        raise TypeError(
            f"Bayesian: {kind_of(model)} has no prior over its params as they are, and GaussianBelief needs one. "
            "Pass a standard deviation, GaussianBelief(prior=1.0), or a function prior(params)."
        )
    if own is not None and chosen.prior is not None:
        raise TypeError(
            "Bayesian: got a prior by GaussianBelief(prior=...) and one by Model(log_prior=...). Pass one of them."
        )
    if own is not None:
        options = {name: value for name, value in vars(chosen).items() if name != "prior"}
        chosen = GaussianBelief(own, **options)
    return AtDraws(model, chosen)


@belief.register
def _(model: AtDraws) -> GaussianBelief:
    return model.chosen
