"""Public names that have changed: the old one stays for one minor version, with a warning that names the new one."""

from __future__ import annotations

import warnings
from typing import TypeVar

T = TypeVar("T")


def renamed(old: str, new: str, value: T) -> T:
    """The value that the old name stands for."""
    warnings.warn(
        f"{old} is now called {new}, and will go with the next minor version.", DeprecationWarning, stacklevel=3
    )
    return value
