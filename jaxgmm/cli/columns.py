"""Which columns of a table a saved model is applied to: by name, or by position where there are no names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..rows.readers import Source, as_arguments, listed, positions

Known = tuple[str | int, ...] | None
"""What a model knows of its columns: their names, their positions in a table without names, or nothing."""


class Matched(NamedTuple):
    places: list[int]
    note: str | None  # how they were found, where that is not by name


def match(
    known: Known, n_features: int, source: Source, asked: Sequence[str | int] | None, by_position: bool
) -> Matched:
    """The places in the table of the model's columns, in the model's order.

    asked: what the user has chosen; names among these are still matched by name. ValueError, with the difference, where
    the table's names are others, and where the number of columns does not fit.
    """
    names = tuple(name for name in known or () if isinstance(name, str))
    chosen = None if asked is None else positions(asked, source.names, source.path)
    if names and source.is_named and not by_position:
        return Matched(_by_name(names, source, chosen), None)
    places = chosen
    if places is None:
        places = source.features()
        if known and not names:
            _require_all(known, places, source)
            places = [places[place] for place in known if isinstance(place, int)]
    if len(places) != n_features:
        raise ValueError(
            f"{source.path} gives {len(places)} columns, the model has {n_features} features: choose them with "
            "--columns."
        )
    return Matched(places, _said(names, source, places, by_position))


def _by_name(names: Sequence[str], source: Source, chosen: list[int] | None) -> list[int]:
    pool = list(range(len(source.names))) if chosen is None else chosen
    there = [source.names[place] for place in pool]
    if list(names) == there:
        return pool
    missing = [name for name in names if name not in there]
    if missing:
        extra = [name for name in there if name and name not in names]
        raise ValueError(
            f"{source.path} has not the columns of this model: {listed(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing{' among those chosen' if chosen is not None else ''}"
            + (f", and {listed(extra)} not the model's" if extra else "")
            + ". If the same columns have other names there, choose them in the order "
            f"{as_arguments(names)} with --columns, and add --by-position."
        )
    twice = next((name for name in names if there.count(name) > 1 or list(names).count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{source.path}: column {twice!r} is twice there, or in the model, so columns cannot be told apart by "
            "name. Choose them with --columns, and add --by-position."
        )
    return [pool[there.index(name)] for name in names]


def _require_all(known: Sequence[str | int], places: Sequence[int], source: Source) -> None:
    if max(int(place) for place in known) >= len(places):
        raise ValueError(
            f"{source.path} has {len(places)} columns, and the model was fitted to columns "
            f"{', '.join(map(str, known))} of its table, from 0: choose columns with --columns."
        )


def _said(names: Sequence[str], source: Source, places: Sequence[int], by_position: bool) -> str:
    taken = listed([source.names[place] for place in places]) if source.is_named else ", ".join(map(str, places[:12]))
    taken = f"column{'s' if len(places) > 1 else ''} {taken}{' …' if len(places) > 12 and not source.is_named else ''}"
    if by_position and names and source.is_named:
        return f"by position, as asked: {taken} for {listed(names)}"
    who = "the model knows no names of columns" if source.is_named else "it has no names of columns"
    if not names and not source.is_named:
        who = "neither it nor the model has names of columns"
    return f"{who}, so by position: {taken}" + (f" for {listed(names)}" if names else "")
