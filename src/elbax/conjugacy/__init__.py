"""Structure read off a log-joint by differentiating it: complete conditionals of models that nobody wrote."""

from ._block import Block as Block
from ._joint import ConjugateJoint as ConjugateJoint
from ._local import LocalBeliefs as LocalBeliefs
from ._updates import BlockStep as BlockStep, conjugate_updates as conjugate_updates
