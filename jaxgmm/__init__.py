from . import em as em
from .batches import Batches as Batches
from .mixture import Mixture as Mixture
from .status import Status as Status
