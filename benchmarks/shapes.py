"""Whether a long-lived process fares well that fits tables of ever other shapes: its programs, mappings and memory."""

from __future__ import annotations

from typing import Any

from .first_calls import OFF, child
from .options import Options


def measure(options: Options) -> dict[str, Any]:
    return {"processes": [child("shapes", {"n_fits": n}, OFF) for n in ((3,) if options.quick else (300, 1000))]}
