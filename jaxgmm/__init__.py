"""Gaussian mixture models fitted by EM in JAX, on CPU, GPU and TPU."""

from . import em as em
from ._version import __version__ as __version__
from .batches import Batches as Batches
from .fit import FitResult as FitResult
from .fit import fit as fit
from .mixture import Mixture as Mixture
from .status import Status as Status
