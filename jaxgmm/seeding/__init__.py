"""Where a fit starts."""

from ._rows import rows_kept as rows_kept
from .start import SEEDINGS as SEEDINGS
from .start import by_nearest as by_nearest
from .start import from_labels as from_labels
from .start import from_means as from_means
from .start import from_responsibilities as from_responsibilities
from .start import seeds_from as seeds_from
