"""EM, variational autoencoders and everything between, as updates of (q, θ) on the ELBO.

```python
>>> import elbax, jax
>>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
>>> em = elbax.em(model)
>>> result = elbax.fit(em, x, key=jax.random.key(0))  # 8 starts, the best end
>>> print(model.describe(result.params)["means"][:, 0].sort().round(1))
[2.  4.3]
>>> state = em.init(result.params, key=jax.random.key(1))
>>> state, info = jax.lax.scan(lambda s, _: em(s, x), state, length=3)  # or step by step

```

The names of a first day:

| name | what it is |
|---|---|
| `Model(log_joint, latent)` | a model from any pure function of one datum and one latent |
| `GaussianMixture(K)`, `Mixture(component, K)`, `HiddenMarkovModel`, … | models with closed-form M-steps |
| `em(model)`, `Chain(ExactEStep(model), ClosedFormMStep(model))` | EM in short, and as a chain of steps |
| `GradientEStep`, `GradientMStep`, `JointGradientStep` | steps by any optax optimizer, as of a VAE |
| `update.init(params, posterior, key=key)` | the first state |
| `state, info = update(state, batch)` | one step, the body of a `jax.lax.scan` |
| `Batch(x, weight=..., mask=...)`, `incomplete(x)` | data with weights, padding, missing numbers |
| `Exact(model, params)`, `Amortized(network, model.latent)` | posteriors: Bayes' rule, an encoder |
| `fit`, `fit_restarts`, `converge` | steps until the ELBO stops increasing |
| `elbo`, `elbo_terms`, `evidence` | the bound, its terms, and log p(x), in nats per datum |
| `labels`, `probabilities`, `log_densities`, `imputed` | answers about rows |
| `wrappers.Guard`, `Accelerate`, `Anneal`, … | updates made from an update |
| `diagnostics.select`, `standard_errors`, … | how many components, how certain the params |

`help` of each has an example.
"""

from . import (
    beliefs as beliefs,
    components as components,
    conjugacy as conjugacy,
    data as data,
    datasets as datasets,
    diagnostics as diagnostics,
    estimators as estimators,
    families as families,
    passes as passes,
    posteriors as posteriors,
    priors as priors,
    programs as programs,
    starts as starts,
    wrappers as wrappers,
)
from ._elbo import (
    elbo as elbo,
    elbo_terms as elbo_terms,
    ELBOTerms as ELBOTerms,
    evidence as evidence,
)
from ._em import em as em
from ._export import exportable as exportable
from ._joint_gradient import JointGradientStep as JointGradientStep
from ._model import (
    AbstractExponentialFamilyModel as AbstractExponentialFamilyModel,
    AbstractModel as AbstractModel,
)
from ._program import cache_programs as cache_programs
from ._reference import Reference as Reference
from ._rows import (
    imputed as imputed,
    labels as labels,
    log_densities as log_densities,
    probabilities as probabilities,
)
from ._running_statistics import RunningStatistics as RunningStatistics
from ._saving import load as load, save as save
from ._state import ELBOState as ELBOState, Info as Info
from ._update import AbstractUpdate as AbstractUpdate, Chain as Chain
from .beliefs import Bayesian as Bayesian
from .data._batch import Batch as Batch
from .data._compress import compress as compress, from_moments as from_moments
from .data._documents import documents as documents
from .data._incomplete import incomplete as incomplete
from .data._incomplete_rows import IncompleteRows as IncompleteRows
from .data._sequence import Sequence as Sequence, sequences as sequences
from .e_steps import (
    CoordinateAscentEStep as CoordinateAscentEStep,
    ExactEStep as ExactEStep,
    GradientEStep as GradientEStep,
    HardEStep as HardEStep,
    LaplaceEStep as LaplaceEStep,
    LocalGradientEStep as LocalGradientEStep,
    MarkovChainMonteCarloEStep as MarkovChainMonteCarloEStep,
    MeanFieldEStep as MeanFieldEStep,
    MonteCarloEStep as MonteCarloEStep,
    SleepEStep as SleepEStep,
)
from .families import (
    Categorical as Categorical,
    DiagonalGaussian as DiagonalGaussian,
    Gaussian as Gaussian,
    GaussianChain as GaussianChain,
    MarkovChain as MarkovChain,
)
from .fitting import (
    converge as converge,
    Convergence as Convergence,
    fit as fit,
    fit_restarts as fit_restarts,
    Restarts as Restarts,
    Result as Result,
)
from .m_steps import (
    ClosedFormMStep as ClosedFormMStep,
    EvidenceMStep as EvidenceMStep,
    GradientMStep as GradientMStep,
    IncrementalMStep as IncrementalMStep,
    MergeStep as MergeStep,
    NewtonMStep as NewtonMStep,
    NumericalMStep as NumericalMStep,
    OnlineMStep as OnlineMStep,
    ReseedStep as ReseedStep,
)
from .models import (
    BayesianNetwork as BayesianNetwork,
    ConnectionistTemporalClassification as ConnectionistTemporalClassification,
    ContextFreeGrammar as ContextFreeGrammar,
    FactorAnalysis as FactorAnalysis,
    FactorialHiddenMarkovModel as FactorialHiddenMarkovModel,
    GaussianMixture as GaussianMixture,
    HiddenMarkovModel as HiddenMarkovModel,
    LatentDirichletAllocation as LatentDirichletAllocation,
    LinearGaussianStateSpace as LinearGaussianStateSpace,
    LogisticRegression as LogisticRegression,
    Mixture as Mixture,
    MixtureOfExperts as MixtureOfExperts,
    Model as Model,
    ProbabilisticPCA as ProbabilisticPCA,
    ProbitRegression as ProbitRegression,
    SwitchingStateSpace as SwitchingStateSpace,
    Tied as Tied,
)
from .posteriors import (
    Amortized as Amortized,
    Exact as Exact,
    Network as Network,
)
from .starts import initial_states as initial_states


__version__ = "0.1.0"
