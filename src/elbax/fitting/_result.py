"""The result of a fit."""

import equinox as eqx
import numpy as np

from .._arguments import guide
from .._model import AbstractModel, models_of
from .._state import ELBOState, Info
from .._types import Any, Array, Float, PyTree, Scalar
from .._update import name_of
from ._loop import Carry, Code, CODES, resolution_of


class Result(eqx.Module):
    """The result of a fit.

    **Fields:**

    - `state`: the last good state, its posterior updated to its params (`update.settle`). `params` and `posterior`
        are shortcuts for its own.
    - `elbo`: the ELBO there, in nats per datum.
    - `trace`: the ELBO that each step measured before its move, shape `(num_steps,)`, as a NumPy array.
    - `num_steps`: the number of steps made.
    - `code`: `"converged"`, `"max_steps"`, `"decreased"` (a step that promises to ascend lowered the ELBO of the
        same batch; the message says if only by rounding) or `"nonfinite"`.
    - `message`: a summary in words.
    - `evidence`: log p(x) at the params, in nats per datum, where the posterior is learned and the model knows
        Bayes' rule. What the ELBO without its global term lacks of it is KL(q ‖ p(z | x)), which a better encoder
        would close. `None` elsewhere: under `Exact` the two are equal.
    - `model`: the update's model, as in `elbax.labels(result.model, result.params, rows)`; `None` for an update
        of one's own without a model.
    """

    state: ELBOState
    elbo: Scalar
    trace: Float[np.ndarray, " num_steps"]
    num_steps: int
    code: Code
    message: str
    evidence: Scalar | None = None
    model: AbstractModel | None = None

    @property
    def params(self) -> PyTree:
        """The params of the state."""
        return self.state.params

    @property
    def posterior(self) -> PyTree:
        """The posterior of the state, at its params."""
        return self.state.posterior

    @property
    def converged(self) -> bool:
        """Whether the code is `"converged"`."""
        return self.code == "converged"

    def __str__(self) -> str:
        bound = f"ELBO {float(self.elbo):.6f}"
        if self.evidence is not None:
            bound += f", evidence {float(self.evidence):.6f}"
        told = f"{self.message} {bound} nats per datum."
        if self.evidence is not None and float(self.evidence - self.elbo) > _FAR:
            told += (
                " The posterior is far from Bayes' rule: train it longer, or give the encoder columns of one "
                "scale, elbax.Amortized(..., standardize=x)."
                f"{guide('the-encoder-does-not-reach-the-evidence')}"
            )
        return told

    def __repr__(self) -> str:
        return f"Result({self.code}, {self})"


# In nats per datum: more than this of the evidence is lost by no encoder that has learned its data's scale.
_FAR = 1.0

# In machine epsilons, a fall that rounding explains: residuals a thousandth of the numbers they are differences
# of.
_CANCELLED = 1024


def result_of(
    update, carry: Carry, state: ELBOState, elbo: Scalar, code: Array, tolerance: float
) -> Result:
    num_steps, name = int(carry.step), CODES[int(code)]
    # Cut on the host: on the device every length would compile its own program.
    trace = np.asarray(carry.trace)[:num_steps]
    message = _message(name, update, carry.info, trace, tolerance)
    skipped = int(getattr(state.memory, "skipped", 0))
    if skipped:
        message += f" {name_of(update)} skipped {skipped} of them."
    model = next(iter(models_of(update)), None)
    return Result(state, elbo, trace, num_steps, name, message, model=model)


def _message(code: Code, update, info: Info, trace: np.ndarray, tolerance: float) -> str:
    steps = len(trace)
    if code == "converged":
        hidden = resolution_of(trace.dtype)
        if tolerance >= hidden:
            return (
                f"Converged after {steps} steps: the ELBO no longer increases by more than the tolerance, "
                f"{tolerance:.1g}."
            )
        return (
            f"Converged after {steps} steps to the precision of {trace.dtype}: gains of a step below "
            f"{hidden * (1 + abs(float(trace[-1]))):.1g} are lost to rounding, although many steps may add them "
            f"up.{_advice(trace.dtype)}"
        )
    if code == "max_steps":
        return f"Stopped after {steps} steps, the maximum allowed; the ELBO may still rise."
    if code == "decreased":
        fall = float(trace[-2] - trace[-1])
        if fall <= _CANCELLED * np.finfo(trace.dtype).eps * (1 + abs(float(trace[-1]))):
            return (
                f"Step {steps - 1} of {name_of(update)} lowered the ELBO by {fall:.3g}, which is rounding: "
                f"{trace.dtype} has too little precision where large numbers cancel (data far from 0, little "
                f"noise). The state before it is returned.{_advice(trace.dtype)}"
            )
        return (
            f"Step {steps - 1} of {name_of(update)} lowered the ELBO by {fall:.3g} although it promises "
            "to ascend: a wrong M-step, a model whose statistics are not linear, or rounding. "
            f"The state before it is returned.{guide('decreased')}"
        )
    part, seen = _nonfinite_part(update, info)
    return (
        f"The ELBO that {name_of(part)} measured at step {max(steps - 1, 0)} is not finite{_terms(seen)}: "
        "look for a collapsed component, a singular covariance, a step size too large, or data outside the "
        f"model's support. The last good state is returned.{guide('nonfinite')}"
    )


def _advice(dtype: np.dtype) -> str:
    """Returns how to compute more precisely, if there is a way."""
    if dtype == np.float64:
        return ""
    return ' For more, use float64: jax.config.update("jax_enable_x64", True) before any array is made.'


def _terms(info: Info) -> str:
    """Returns which of its terms are not finite, if a step reports them."""
    terms = {
        "reconstruction E_q[log p(x | z)]": info.reconstruction,
        "divergence KL(q ‖ p(z))": info.kl_prior,
    }
    found = [
        f"its {name} is {float(value)}"
        for name, value in terms.items()
        if value is not None and not np.isfinite(value)
    ]
    return f" ({', '.join(found)})" if found else ""


def _nonfinite_part(update, info: Info) -> tuple[Any, Info]:
    """Returns the innermost part of a chain whose ELBO is not finite, and what it reports."""
    if hasattr(update, "update"):
        return _nonfinite_part(update.update, info)
    for part, seen in zip(update.parts, info.parts, strict=False):
        if seen.elbo is not None and not np.isfinite(seen.elbo):
            return _nonfinite_part(part, seen)
    return update, info
