"""Priors, which influence an estimate besides the rows. A prior of one's own is one file: see `Prior`."""

from ._prior import Additions as Additions
from ._prior import Prior as Prior
from ._prior import in_dtype as in_dtype
from ._prior import plus as plus
from ._prior import pseudo_log_density as pseudo_log_density
from .ridge import Ridge as Ridge
from .ridge import Ridged as Ridged
