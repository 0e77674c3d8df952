"""The shelf of covariance families. A new one is a file beside these and a line in the dictionary below.

What a user's own family needs is exported here too: `FULL`, `POOLED`, `DIAGONAL` or `TRACE` says from which second
moment it is estimated; it returns a `Dense`, `Diagonal` or `SphericalCovariance`; `per_mass`, `project` and
`show_dense` do what most families have in common.
"""

from ..covariances import Covariance as Covariance
from ..covariances import Dense as Dense
from ..covariances import Diagonal as Diagonal
from ..moments import DIAGONAL as DIAGONAL
from ..moments import FULL as FULL
from ..moments import POOLED as POOLED
from ..moments import TRACE as TRACE
from ..moments import Kind as Kind
from ._family import NO_PRIOR as NO_PRIOR
from ._family import Family as Family
from ._family import Pseudo as Pseudo
from ._family import is_matrix_shape as is_matrix_shape
from ._family import per_mass as per_mass
from ._family import project as project
from ._family import shape_of_scales as shape_of_scales
from ._family import show_dense as show_dense
from ._family import show_least as show_least
from ._family import shown_shape as shown_shape
from .diag import Diag as Diag
from .eei import EEI as EEI
from .full import Full as Full
from .spherical import Spherical as Spherical
from .spherical import SphericalCovariance as SphericalCovariance
from .tied import Tied as Tied
from .vei import VEI as VEI

SHELF: dict[str, Family] = {
    family.name: family
    for family in (
        Full(),
        Tied(),
        Diag(),
        Spherical(),
        EEI(),
        VEI(),
    )
}
