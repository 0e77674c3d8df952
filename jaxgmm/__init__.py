"""Gaussian mixture models fitted by EM in JAX, on CPU, GPU and TPU."""

from . import em as em
from . import families as families
from . import online as online
from . import plot as plot
from ._version import __version__ as __version__
from .batches import Batches as Batches
from .blocks import Blocks as Blocks
from .bootstrap import Bootstrap as Bootstrap
from .bootstrap import LikelihoodRatio as LikelihoodRatio
from .bootstrap import bootstrap as bootstrap
from .bootstrap import likelihood_ratio_test as likelihood_ratio_test
from .cache import enable_cache as enable_cache
from .checkpoint import Checkpoint as Checkpoint
from .estimator import GaussianMixture as GaussianMixture
from .estimator import from_sklearn as from_sklearn
from .fit import fit as fit
from .io import load as load
from .io import save as save
from .many import fit_many as fit_many
from .mixture import Mixture as Mixture
from .runs import FitResult as FitResult
from .runs import Race as Race
from .selection import Sweep as Sweep
from .selection import sweep as sweep
from .status import Status as Status
from .status import explain as explain
