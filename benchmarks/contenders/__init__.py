"""The contenders, in the order in which they run and are reported."""

from . import daal4py, gmmx, ours, pomegranate, scikit_learn, tgmm, torchgmm
from ._contender import Contender as Contender
from ._contender import Outcome as Outcome

IN_ORDER = (
    ours.CONTENDER,
    scikit_learn.CONTENDER,
    scikit_learn.ON_TORCH,
    *(module.CONTENDER for module in (daal4py, gmmx, tgmm, torchgmm, pomegranate)),
)
CONTENDERS: dict[str, Contender] = {contender.name: contender for contender in IN_ORDER}

QUICK = ("jaxgmm", "scikit-learn", "daal4py", "gmmx")
"""Those that import quickly."""

PACKAGES = (
    "jax", "jaxlib", "numpy", "scipy", "scikit-learn", "scikit-learn-intelex", "daal", "gmmx", "tgmm", "torchgmm",
    "pytorch-lightning", "pomegranate", "torch", "array-api-compat",
)  # fmt: skip
"""Whose versions are written beside the results."""


def chosen(names: tuple[str, ...] | None, quick: bool) -> tuple[Contender, ...]:
    """The contenders of these names; where None, all, or the quick ones. ValueError for a name that is none."""
    if names is None:
        names = QUICK if quick else tuple(CONTENDERS)
    for name in names:
        if name not in CONTENDERS:
            raise ValueError(f"no contender is called {name!r}. Expected one of {', '.join(CONTENDERS)}.")
    return tuple(CONTENDERS[name] for name in names)
