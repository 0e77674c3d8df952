"""Pictures of mixtures, fits and searches, each drawn on one matplotlib Axes.

matplotlib is imported when a picture is drawn, and none of its global settings is touched.
"""

from ._clusters import POINTS as POINTS
from ._clusters import clusters as clusters
from ._criterion import criterion as criterion
from ._history import history as history
