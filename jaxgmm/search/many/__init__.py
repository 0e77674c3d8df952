"""`fit_many`: many small problems through one pair of programs."""

from .fit_many import fit_many as fit_many
