"""Votes in the United States House of Representatives, 1984."""

import csv
import importlib.resources

import jax.numpy as jnp
import numpy as np

from .._types import Array, Bool, Float


def house_votes() -> tuple[Float[Array, "435 16"], Bool[Array, " 435"]]:
    """Returns (votes, democrat): the votes of 435 representatives on the 16 key votes of 1984, and their party.

    Yes is 1, no is 0, neither is NaN. `VOTES` names the columns.

    Source: Congressional Quarterly Almanac, 98th Congress (1985), by J. Schlimmer; UCI Machine Learning
    Repository, Congressional Voting Records, licensed CC BY 4.0.
    """
    file = importlib.resources.files("elbax.datasets") / "house_votes.csv"
    with file.open() as lines:
        _, *rows = csv.reader(lines)
    votes = np.array([[float(vote) if vote else np.nan for vote in row[1:]] for row in rows])
    return jnp.asarray(votes, dtype=float), jnp.asarray([row[0] == "d" for row in rows])


VOTES = (
    "handicapped infants",
    "water project cost sharing",
    "adoption of the budget resolution",
    "physician fee freeze",
    "El Salvador aid",
    "religious groups in schools",
    "anti-satellite test ban",
    "aid to Nicaraguan contras",
    "MX missile",
    "immigration",
    "synfuels corporation cutback",
    "education spending",
    "superfund right to sue",
    "crime",
    "duty-free exports",
    "export administration act South Africa",
)
