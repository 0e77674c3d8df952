"""How restarts are seeded."""

from .shelf import SEEDINGS as SEEDINGS
from .shelf import seeds_from as seeds_from
