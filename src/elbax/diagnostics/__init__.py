"""Diagnostics of a fit: standard errors, information criteria, convergence rates, latents without use."""

from ._active_units import active_units as active_units
from ._calibration import Calibration as Calibration, calibration as calibration
from ._collapse import Collapse as Collapse, collapse as collapse
from ._criteria import (
    Criteria as Criteria,
    information_criteria as information_criteria,
)
from ._importance import (
    importance_evidence as importance_evidence,
    ImportanceEvidence as ImportanceEvidence,
)
from ._inference_gap import inference_gap as inference_gap, InferenceGap as InferenceGap
from ._information import (
    convergence_rate as convergence_rate,
    Information as Information,
    observed_information as observed_information,
    standard_errors as standard_errors,
)
from ._selection import (
    select as select,
    Selection as Selection,
)
from ._topics import coherence as coherence, perplexity as perplexity, top_words as top_words
