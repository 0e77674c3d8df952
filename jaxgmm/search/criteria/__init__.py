"""The shelf of criteria. Your own criterion need not be on it: pass the object as `sweep(criterion=)`."""

from ._criterion import Criterion as Criterion
from ._criterion import Evidence as Evidence
from .held_out import HELD_OUT as HELD_OUT
from .information import AIC as AIC
from .information import BIC as BIC
from .information import ICL as ICL
from .information import aic as aic
from .information import bic as bic
from .information import icl as icl
from .sums import entropy as entropy
from .sums import evidence as evidence
from .sums import n_parameters as n_parameters

CRITERIA: dict[str, Criterion] = {each.name: each for each in (BIC, AIC, ICL, HELD_OUT)}
