from .fit_many import fit_many as fit_many
