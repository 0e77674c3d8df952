"""What races of restarts come to, from runs that were made whole.

A race needs no timing: with the objectives of whole runs after each step, it is known who would have been in it at the
end, and how many steps would have been made. So one pool of starts, run whole, tells what races of every kind come to.
"""

from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np

from .hard_tables import TIE as TIE

STEPS, SHARES = (5, 10, 20), (1 / 16, 1 / 8, 1 / 4)
RUNNERS, DRAWS = 32, 200  # of a race (as many starts as `fit` makes unless told), and races drawn from a pool


class Runs(NamedTuple):
    """How R runs went. −inf where one had failed."""

    steps: np.ndarray  # (R,)
    end: np.ndarray  # (R,): objective, nats
    at: np.ndarray  # (STEPS, R): objective after so many steps, or at the end where that came before
    is_sound: np.ndarray  # (R,): whether the data hold it up

    @classmethod
    def made(cls, restarts: Any, spurious: np.ndarray) -> Self:
        steps, end = restarts.n_steps, np.asarray(restarts.objective)
        places = np.arange(len(steps))
        at = [np.where(cut < steps, restarts.history[places, np.minimum(cut, steps)], end) for cut in STEPS]
        return cls(steps, end, np.array(at), np.isfinite(end) & ~spurious)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All of them, with the least finite objective in the place of −inf, so that means over races are finite."""
        merged = cls(*(np.concatenate(leaves, axis=-1) for leaves in zip(*parts, strict=True)))
        return merged._replace(end=_finite(merged.end), at=_finite(merged.at))

    def best(self, who: np.ndarray, objective: np.ndarray) -> float:
        """The highest objective of these runs, of the sound ones where there are any: as `fit` chooses."""
        sound = who[self.is_sound[who]]
        return float(np.max(objective[sound if len(sound) else who]))

    def race(self, who: np.ndarray, cut: int, finalists: int) -> tuple[float, int]:
        """The best of a race of these runs, cut after STEPS[cut] steps, and the steps that it makes."""
        order = who[np.argsort(-self.at[cut][who], kind="stable")]
        last, out = order[:finalists], order[finalists:]
        steps = np.sum(self.steps[last]) + np.sum(np.minimum(self.steps[out], STEPS[cut]))
        objective = self.end.copy()
        objective[out] = self.at[cut][out]
        return self.best(order, objective), int(steps)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.min(values[np.isfinite(values)], initial=0.0))


def races(runs: Runs, runners: int | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """For each way of cutting a race: how far its best lies under the best of the pool, beside that of the same starts
    run whole, and of as many whole starts as make the same number of steps. Means over races drawn from the pool.

    A share of the finalists that is more than all, or less than one, is what `Race` would make of it.
    """
    n_runs = len(runs.steps)
    runners = runners or (RUNNERS if n_runs > RUNNERS else 2)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(n_runs, runners, replace=False) for _ in range(draws)]
    top, each = runs.best(np.arange(n_runs), runs.end), float(np.mean(runs.steps))
    whole = top - float(np.mean([runs.best(who, runs.end) for who in drawn]))
    all_steps = np.array([np.sum(runs.steps[who]) for who in drawn])
    rows = []
    for (cut, steps), share in product(enumerate(STEPS), SHARES):
        finalists = max(1, int(runners * share))
        raced = [runs.race(who, cut, finalists) for who in drawn]
        found, made = map(np.array, zip(*raced, strict=True))
        n_equal = np.maximum(1, np.round(made / each)).astype(int)
        equal = np.array([runs.best(who[:n], runs.end) for who, n in zip(drawn, n_equal, strict=True)])
        means = {
            "share_of_steps": np.mean(made / all_steps),
            "gap_race": top - np.mean(found),
            "gap_equal_steps": top - np.mean(equal),
            "better": np.mean(found - equal > TIE),
            "worse": np.mean(found - equal < -TIE),
        }
        of = {"steps": steps, "share": share, "finalists": finalists, "gap_whole": whole}
        rows.append({**of, **{name: float(value) for name, value in means.items()}})
    return {"runners": runners, "rows": rows}
