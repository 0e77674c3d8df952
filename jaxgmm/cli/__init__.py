"""The command line: `options.py` declares it, `commands.py` runs it."""

from .commands import main as main
