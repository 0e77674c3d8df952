"""scikit-learn's interface, and the only code that knows scikit-learn."""

from ._from_sklearn import from_sklearn as from_sklearn
from .gaussian_mixture import GaussianMixture as GaussianMixture
