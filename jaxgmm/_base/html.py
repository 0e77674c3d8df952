"""What notebooks show of an object: a small table, all text escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape


def plain(text: str) -> str:
    """Text with its line breaks."""
    return f"<pre>{escape(text)}</pre>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], bold: Collection[int] = ()) -> str:
    """A table under a title. bold: the indices of rows to stand out."""
    body = "".join(_row("td", row, " style='font-weight:bold'" if i in bold else "") for i, row in enumerate(rows))
    head = f"<thead>{_row('th', columns)}</thead>"
    return f"{paragraph(title)}<table>{head}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str], style: str = "") -> str:
    return f"<tr{style}>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
