"""Components of mixtures, one exponential family per file."""

from ._bernoulli import Bernoulli as Bernoulli
from ._categorical import Categorical as Categorical
from ._component import AbstractComponent as AbstractComponent
from ._conjugate import Conjugate as Conjugate
from ._factor_analyzer import FactorAnalyzer as FactorAnalyzer
from ._gamma import Gamma as Gamma
from ._generalized_linear import GeneralizedLinear as GeneralizedLinear
from ._linear_regression import LinearRegression as LinearRegression
from ._multinomial import Multinomial as Multinomial
from ._normal import Normal as Normal
from ._poisson import Poisson as Poisson
from ._product import Product as Product
from ._student_t import StudentT as StudentT
