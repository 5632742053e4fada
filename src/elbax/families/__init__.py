"""Families of latent distributions, one per file."""

from ._any_latent import AnyLatent as AnyLatent
from ._ascending import AbstractAscending as AbstractAscending
from ._bernoulli import Bernoulli as Bernoulli
from ._beta import Beta as Beta
from ._categorical import Categorical as Categorical
from ._conjugate import AbstractConjugateFamily as AbstractConjugateFamily
from ._coupled_chains import CoupledChains as CoupledChains
from ._ctc_lattice import CTCLattice as CTCLattice
from ._diagonal_gaussian import DiagonalGaussian as DiagonalGaussian
from ._dirichlet import Dirichlet as Dirichlet
from ._divergence import (
    as_prior as as_prior,
    exact_divergence as exact_divergence,
    exact_divergences as exact_divergences,
    in_precision_of as in_precision_of,
)
from ._factor_graph import FactorGraph as FactorGraph
from ._factored import AbstractFactored as AbstractFactored, factored as factored
from ._factored_chain import FactoredChain as FactoredChain
from ._factored_chains import FactoredChains as FactoredChains
from ._factored_gaussian import FactoredGaussian as FactoredGaussian
from ._factored_graph import FactoredGraph as FactoredGraph
from ._factored_grid import FactoredGrid as FactoredGrid
from ._family import AbstractFamily as AbstractFamily, Distribution as Distribution
from ._gamma import Gamma as Gamma
from ._gaussian import Gaussian as Gaussian
from ._gaussian_chain import GaussianChain as GaussianChain
from ._grid import GridGraph as GridGraph
from ._independent import Copies as Copies, Product as Product
from ._markov_chain import MarkovChain as MarkovChain
from ._normal import Normal as Normal
from ._normal_wishart import NormalWishart as NormalWishart
from ._parse_tree import ParseTree as ParseTree
from ._polya_gamma import PolyaGamma as PolyaGamma
from ._proportions import Proportions as Proportions
from ._semiring import (
    AbstractSemiring as AbstractSemiring,
    LOG as LOG,
    MAX as MAX,
    Sampling as Sampling,
)
from ._structured import AbstractStructured as AbstractStructured
from ._switching_chain import SwitchingChain as SwitchingChain
from ._topic_proportions import TopicProportions as TopicProportions
from ._truncated_normal import TruncatedNormal as TruncatedNormal
from ._wishart import Wishart as Wishart
