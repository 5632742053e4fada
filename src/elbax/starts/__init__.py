"""Starts of fits: functions `(key, table, weight, num_components)` that partition the rows of a table.

`table` has one row per datum, such that similar rows are close, and NaN where missing. A start returns the part of
each row, shape `(num_rows,)`, −1 for a row in none, or responsibilities of shape `(num_rows, num_components)`. Any
such function may be the `init=` of a model; those defined here may also be given by name.
"""

from ._hierarchical import hierarchical as hierarchical
from ._k_means import k_means as k_means
from ._parts import random_parts as random_parts
from ._quantiles import quantiles as quantiles
from ._responsibilities import random as random
from ._rows import k_means_plus_plus as k_means_plus_plus, random_from_data as random_from_data
from ._start import (
    AbstractPartitioned as AbstractPartitioned,
    Init as Init,
    shares_of as shares_of,
    start_of as start_of,
)
from ._states import (
    first_state as first_state,
    initial_params as initial_params,
    initial_states as initial_states,
)
