"""One run of EM: `init`, `step`, and `run`, which is a loop over `step`."""

from .loop import init as init
from .loop import run as run
from .loop import step as step
from .state import Settings as Settings
from .state import State as State
