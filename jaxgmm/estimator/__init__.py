"""scikit-learn's interface, and the only code that knows scikit-learn."""

from .gaussian_mixture import GaussianMixture as GaussianMixture
from .gaussian_mixture import from_sklearn as from_sklearn
