"""Gaussian mixture models fitted by EM in JAX, on CPU, GPU and TPU."""

from . import em as em
from . import families as families
from . import online as online
from . import plot as plot
from ._base.cache import enable_cache as enable_cache
from ._base.status import Status as Status
from ._base.status import explain as explain
from ._version import __version__ as __version__
from .estimator.gaussian_mixture import GaussianMixture as GaussianMixture
from .estimator.gaussian_mixture import from_sklearn as from_sklearn
from .io import load as load
from .io import save as save
from .mixture import Mixture as Mixture
from .rows.batches import Batches as Batches
from .rows.blocks import Blocks as Blocks
from .search.bootstrap import Bootstrap as Bootstrap
from .search.bootstrap import bootstrap as bootstrap
from .search.checkpoint import Checkpoint as Checkpoint
from .search.fit import fit as fit
from .search.likelihood_ratio import LikelihoodRatio as LikelihoodRatio
from .search.likelihood_ratio import likelihood_ratio_test as likelihood_ratio_test
from .search.many.fit_many import fit_many as fit_many
from .search.race import Race as Race
from .search.result import FitResult as FitResult
from .search.sweep import sweep as sweep
from .search.table import Sweep as Sweep
