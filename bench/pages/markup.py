"""HTML as text: escaped, with real headings, tables and captions; and the style sheet of a page.

Used by all files beside it. Whatever comes from a report passes `escaped`, or `plain` where another writer escapes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

# What neither HTML nor XML may hold, even escaped.
FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


NUMBERS: Final = range(1, 100)  # every column but the first


def plain(text: object) -> str:
    """Without characters that no page may hold."""
    return FORBIDDEN.sub("�", str(text))


def escaped(text: object) -> str:
    """As text of an element or of an attribute."""
    return html.escape(plain(text), quote=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", numbers: range = NUMBERS) -> str:
    """Rows of plain cells; `numbers` are the columns that hold figures. The first cell of a row is its heading."""
    parts = ['<div class="scroll"><table>']
    if caption:
        parts.append(f"<caption>{escaped(caption)}</caption>")
    cells = [f'<th scope="col"{_numeric(column, numbers)}>{escaped(text)}</th>' for column, text in enumerate(head)]
    parts.append(f"<thead><tr>{''.join(cells)}</tr></thead><tbody>")
    for row in rows:
        first, *rest = row
        line = [f'<th scope="row">{escaped(first)}</th>']
        line += [f"<td{_numeric(column, numbers)}>{escaped(cell)}</td>" for column, cell in enumerate(rest, 1)]
        parts.append(f"<tr>{''.join(line)}</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)


def _numeric(column: int, numbers: range) -> str:
    return ' class="n"' if column in numbers else ""


def section(name: str, title: str, body: str, about: str = "") -> str:
    """A part of the page under a heading; nothing if there is nothing in it."""
    if not body:
        return ""
    words = f'<p class="about">{escaped(about)}</p>' if about else ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escaped(title)}</h2>{words}{body}</section>'


def figure(svg: str, caption: str, details: str = "", *, small: bool = False) -> str:
    """A chart, what to see in it, and its figures as a table that one can open."""
    more = f"<details><summary>As a table</summary>{details}</details>" if details else ""
    kind = ' class="small"' if small else ""
    return f"<figure{kind}>{svg}<figcaption>{escaped(caption)}</figcaption>{more}</figure>"


def page(title: str, body: str) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="generator" content="gonets bench">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


STYLE: Final = """
:root{color-scheme:light;--ink:#1f2328;--gray:#5b636e;--line:#e5e7eb;--shade:#f6f7f9;--blue:#0072b2}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);
font:15px/1.5 "Helvetica Neue",Arial,"Liberation Sans",system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
header{margin-bottom:20px}
.kind{margin:0;color:var(--gray);font-size:13px;letter-spacing:.04em;text-transform:uppercase}
h1{margin:2px 0 4px;font-size:28px;line-height:1.2;letter-spacing:-.01em}
.where{margin:0;color:var(--gray)}
h2{margin:44px 0 4px;padding-top:14px;border-top:1px solid var(--line);font-size:20px;line-height:1.3}
h3{margin:26px 0 4px;font-size:15px}
p{margin:6px 0;max-width:78ch}
.about{color:var(--gray);margin:0 0 12px}
.verdict{margin:18px 0 0;padding:12px 16px;border-left:5px solid #009e73;background:#eef8f4}
.verdict strong{font-size:16px}
.verdict ul{margin:6px 0 0;padding-left:20px}
.verdict li{margin:3px 0;max-width:90ch}
.verdict.caution{border-color:#e69f00;background:#fdf6e7}
.verdict.invalid{border-color:#d55e00;background:#fdeee6}
dl.heads{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:0 28px;margin:20px 0 0}
dl.heads div{border-top:1px solid var(--line);padding:10px 0 12px}
dl.heads dt{color:var(--gray);font-size:13px}
dl.heads dd{margin:0}
dl.heads dd.v{font-size:27px;line-height:1.25;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
dl.heads dd.d{color:var(--gray);font-size:12.5px;line-height:1.35}
ul.said{margin:16px 0 0;padding-left:20px}
ul.said li{max-width:90ch;margin:4px 0}
figure{margin:18px 0 26px;break-inside:avoid}
figure svg{display:block;width:100%;height:auto}
figcaption{max-width:112ch;margin-top:4px;color:var(--gray);font-size:13px}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:8px 28px}
.grid figure{margin:10px 0}
details{margin-top:6px;font-size:13px}
summary{cursor:pointer;color:var(--blue)}
.scroll{overflow-x:auto;margin:8px 0 12px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--gray);padding-bottom:4px}
th,td{padding:4px 16px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--gray);font-weight:500;border-bottom-color:#c9ced6;vertical-align:bottom}
tbody th{font-weight:400;white-space:nowrap}
.n{text-align:right;white-space:nowrap}
td:last-child,th:last-child{padding-right:4px}
.facts-grid{columns:2;column-gap:36px}.facts-grid>div{break-inside:avoid}.facts-grid h3{margin-top:14px}
table.facts td{overflow-wrap:anywhere;max-width:76ch}
pre{margin:8px 0;padding:10px 14px;background:var(--shade);border:1px solid var(--line);font-size:13px;
white-space:pre-wrap;overflow-wrap:anywhere}
footer{margin-top:44px;padding-top:12px;border-top:1px solid var(--line);color:var(--gray);font-size:13px}
@media(max-width:720px){.facts-grid{columns:1}.grid{grid-template-columns:1fr}main{padding:20px 14px}}
@media print{@page{size:A4;margin:14mm}body{font-size:10.5pt}main{max-width:none;padding:0}h2{break-after:avoid}
.verdict,dl.heads,thead{-webkit-print-color-adjust:exact;print-color-adjust:exact}details:not([open]){display:none}tr{break-inside:avoid}}
"""
