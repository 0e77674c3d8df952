"""The expectation step: from a mixture and rows to moments, chunk by chunk.

Nothing of size N×K is ever stored: a chunk's responsibilities live as long as the chunk.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from .._base.programs import Effort
from .._base.sums import sum_over_rows
from ..covariances import Form
from ..density import in_safe_form, joint, normalise, prepare
from ..mixture import Mixture
from ..moments import Kind, Moments, Statistics
from ..rows.batches import Batches
from ..rows.chunks import Chunk
from . import kernel


def expect(mixture: Mixture, batches: Batches, form: Form | None = None, how: Effort = Effort.WELL) -> Moments:
    """Moments of the rows under the mixture, about its means. Bishop 2006, eqs. 9.13 and 9.18.

    In the given form, or in the faster one that is accurate enough. how: how the program is compiled.
    """
    kind, means, origin = mixture.family.kind, mixture.means, batches.origin

    def program(form: Form) -> Moments:
        operands = prepare(mixture, origin, form)

        def chunked(given: kernel.Given, batches: Batches) -> Statistics:
            operands, means = given

            def of_chunk(chunk: Chunk) -> Statistics:
                log_prob, responsibilities = normalise(joint(mixture, operands, chunk), how)
                objective = jnp.sum(jnp.where(chunk.weights > 0.0, chunk.weights * log_prob, 0.0))
                weighted = responsibilities * chunk.weights[None]
                return statistics(kind, form, means, batches.origin, chunk, weighted, objective)

            return batches.sum(of_chunk)

        if batches.fused and form is Form.FAST and kernel.supports(kind, operands, batches):
            sums = kernel.sums(chunked, (operands, means), batches)
        else:
            sums = chunked((operands, means), batches)
        return finish(kind, form, means, origin, sums)

    return program(form) if form else in_safe_form(mixture, origin, program)


def statistics(
    kind: Kind, form: Form, means: Array, origin: Array, chunk: Chunk, weighted: Array, objective: Array
) -> Statistics:
    """The additive sums of one chunk, from weighted responsibilities (K, n)."""
    mass, x = sum_over_rows(weighted), chunk.x
    if form is Form.FAST:
        return Statistics(mass, *kind.about_origin(weighted, x - origin[:, None], means - origin[None]), objective)
    first, second = kind.about_means(weighted, x, means)
    return Statistics(mass, first, second, objective)


def finish(kind: Kind, form: Form, means: Array, origin: Array, sums: Statistics) -> Moments:
    """The sums over all chunks as moments about the means."""
    if form is Form.FAST:
        first, second = kind.from_origin(sums.mass, sums.first, sums.second, means - origin[None])
        return Moments(sums.mass, first, second, sums.objective)
    return Moments(sums.mass, sums.first, kind.from_means(sums.second, means), sums.objective)
