"""Covariances: how to evaluate them. A family estimates them."""

from ._covariance import Covariance as Covariance
from ._covariance import Form as Form
from ._covariance import rounding_of as rounding_of
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .spherical import Spherical as Spherical
