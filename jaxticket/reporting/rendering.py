"""Pages as HTML: one file that refers to nothing outside, with everything escaped."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from jaxticket.reporting.collecting import Page
from jaxticket.reporting.judging import Judgment
from jaxticket.reporting.pictures import Picture
from jaxticket.reporting.recorded import Settings
from jaxticket.reporting.tables import Table

_WIDE = 20
"""Characters of a text that are worth a broad column."""
_PANELS = 1.7
"""Width by height of figures with several panels, which stand alone in a row."""
_LARGE = 1_000_000
"""Characters of a CSV file from which on it is packed."""

_SIZE = re.compile(r'viewBox="0 0 (?P<width>[\d.]+) (?P<height>[\d.]+)"')


def html(page: Page) -> str:
    """Write a page."""
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    state = "finished" if page.finished else "not finished"
    sections = [
        ("Missing", _missing(page)),
        ("Summary", [*map(_judgment, page.judgments), *map(_table, page.summary)]),
        ("Figures", [*map(_picture, page.pictures)]),
        ("Settings", [*map(_settings, page.settings)]),
        ("Tables", [*map(_table, page.evaluations)]),
        ("Environment", [*map(_table, page.environment)]),
        ("Folder", [*map(_table, page.holds)]),
        ("Continue", _call(*page.call)),
    ]
    shown = [(title, "\n".join(parts)) for title, parts in sections if parts]
    return template.substitute(
        title=_text(page.title),
        kind=_text(f"jt.{page.kind}"),
        state=_text(state),
        state_class="good" if page.finished else "open",
        facts=_pairs(page.facts),
        links="\n".join(f'<a href="#{title.lower()}">{title}</a>' for title, _ in shown),
        sections="\n".join(
            f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{inner}\n</section>'
            for title, inner in shown
        ),
        version=_text(_version()),
    )


def _version() -> str:
    from importlib import metadata

    return metadata.version("jaxticket")


def _text(value: str) -> str:
    """Escape a text, and show control characters, of which HTML has none."""
    shown = "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in value
    )
    return escape(shown)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    inner = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in rows
    )
    return f"<dl>{inner}</dl>" if rows else ""


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    numeric = [
        bool(rows) and all(_is_number(row[place]) for row in rows if row[place])
        for place in range(len(columns))
    ]

    wide = [any(len(row[place]) > _WIDE for row in rows) for place in range(len(columns))]

    def cells(row: Sequence[str], tag: str) -> str:
        inner = ""
        for cell, right, broad in zip(row, numeric, wide, strict=True):
            kind = ' class="n"' if right else ' class="w"' if broad else ""
            inner += f"<{tag}{kind}>{_text(cell)}</{tag}>"
        return f"<tr>{inner}</tr>"

    head = f"<thead>{cells(columns, 'th')}</thead>" if any(columns) else ""
    body = "\n".join(cells(row, "td") for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}">'
        f"<table>{head}<tbody>\n{body}\n</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%"))
    except ValueError:
        return text == "diverged"
    return True


def _table(table: Table) -> str:
    parts = [f"<p>{_text(table.note)}</p>"] if table.note else []
    if table.content:
        parts.append(f"<p>{_link(table.file, table.content)}</p>")
    parts.append(_grid(table.columns, table.rows, table.title))
    return _folding(table.title, "\n".join(parts), table.folded)


def _folding(title: str, inner: str, folded: bool) -> str:
    return (
        f"<details{'' if folded else ' open'}><summary><h3>{_text(title)}</h3></summary>\n"
        f"{inner}\n</details>"
    )


def _link(name: str, content: str) -> str:
    """A link that gives a file, which the page holds."""
    raw, kind = content.encode(), "text/csv;charset=utf-8"
    if len(raw) > _LARGE:
        # without a time, so that equal runs give equal pages
        raw, kind, name = gzip.compress(raw, mtime=0), "application/gzip", f"{name}.gz"
    data = base64.b64encode(raw).decode()
    size = f"{len(raw) / 1000:,.0f} kB" if len(raw) >= 1000 else f"{len(raw)} bytes"
    return (
        f'<a download="{_text(name)}" href="data:{kind};base64,{data}">Download {_text(name)}</a> '
        f"({size})"
    )


def _judgment(judgment: Judgment) -> str:
    kind = {True: "good", False: "bad", None: "open"}[judgment.holds]
    parts = [f'<p class="verdict {kind}">{_text(judgment.said)}</p>']
    if judgment.rows:
        parts.append(_grid(judgment.columns, judgment.rows, judgment.called))
    parts += [f'<p class="note">{_text(note)}</p>' for note in judgment.notes]
    return _folding(judgment.called, "\n".join(parts), folded=False)


def _picture(picture: Picture) -> str:
    if not picture.svg:
        inner = f"<figcaption>{_text(picture.title)}</figcaption><p>{_text(picture.note)}</p>"
        return f"<figure>{inner}</figure>"
    data = base64.b64encode(picture.svg.encode()).decode()
    found = _SIZE.search(picture.svg)
    wide = found is not None and float(found["width"]) > _PANELS * float(found["height"])
    kind = ' class="wide"' if wide else ""
    return (
        f"<figure{kind}><figcaption>{_text(picture.title)}</figcaption>"
        f'<img alt="{_text(picture.alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


def _settings(settings: Settings) -> str:
    parts = [_pairs(settings.changed) or "<p>All as by default.</p>"]
    if settings.usual:
        title = f"{len(settings.usual)} as by default"
        if settings.title == "Data":
            title = "Fingerprint"
        parts.append(
            f"<details><summary>{_text(title)}</summary>{_pairs(settings.usual)}</details>"
        )
    return _folding(settings.title, "\n".join(parts), folded=False)


def _missing(page: Page) -> list[str]:
    if page.finished:
        return []
    return [_grid(("part", "missing"), page.missing, "Missing")]


def _call(code: str, said: str) -> list[str]:
    parts = [f"<pre><code>{_text(code)}</code></pre>"] if code else []
    return [*parts, f"<p>{_text(said)}</p>"] if said else parts
