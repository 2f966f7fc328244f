"""HTML pages that need no other file and no network: the page with its style, sections, tables, figures."""

import base64
import html
import math
from collections.abc import Sequence

import numpy as np


def render_page(title: str, body: str) -> str:
    """A whole page; title: plain text, body: HTML."""
    title = html.escape(title)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_CSS}</style>\n</head>\n'
            f'<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n')


def section(title: str, body: str) -> str:
    """A framed part of the page; title: plain text, body: HTML."""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{body}\n</section>\n"


def paragraph(text: str) -> str:
    """text: HTML."""
    return f"<p>{text}</p>"


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """heads: plain text, the first one above the names of the rows; rows: `<tr>` elements."""
    head = "".join(f"<th>{html.escape(text).replace('_', '_<wbr>')}</th>" for text in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def figure(pictures: Sequence[bytes], caption: str, alternative: str, css_class: str = "") -> str:
    """PNG or JPEG pictures with a caption; caption and alternative: plain text."""
    images = "".join(image(picture, alternative) for picture in pictures)
    return (f'<figure><div class="picture {css_class}">{images}</div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def image(picture: bytes, alternative: str) -> str:
    """A PNG or JPEG picture."""
    kind = "jpeg" if picture[:2] == b"\xff\xd8" else "png"
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/{kind};base64,{data}">'


def is_number(value) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def number(value, decimals: int = 1) -> str:
    """A number as text, or a dash where it is not defined."""
    return f"{value:.{decimals}f}" if is_number(value) else "&ndash;"


def unit(text: str) -> str:
    """A unit behind the name of a metric."""
    return f'&nbsp;<span class="unit">{html.escape(text)}</span>' if text else ""


_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1c1e21; }
body { font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1640px; margin: 0 auto; padding: 16px clamp(10px, 3vw, 40px) 60px; }
h1 { font-size: 1.7rem; margin: 12px 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 10px; }
h3 { font-size: 1rem; margin: 18px 0 6px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px; }
section { padding: 18px clamp(10px, 2vw, 24px); margin: 0 0 18px; }
p, figcaption { max-width: 90ch; color: #4a4f57; font-size: .9rem; margin: 10px 0 0; }
.scroll { overflow-x: auto; }
.wrap th:first-child { white-space: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid #e9ebee; white-space: nowrap; }
th:first-child { text-align: left; font-weight: 500; padding-right: 24px; }
thead th { font-weight: 600; color: #4a4f57; border-bottom: 2px solid #cfd3d8; }
thead th { white-space: normal; vertical-align: bottom; }
tr.sub th, tr.sub td { font-size: .92em; }
tr.sub th { color: #5b616a; }
tr.sub th:first-child { padding-left: 12px; }
.unit { color: #7a808a; font-size: .85em; }
.good { color: #17703a; } .bad { color: #b3261e; } .same { color: #5b616a; }
table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12ch; }
table.text th { text-align: left; vertical-align: top; }
.cards { display: grid; gap: 14px 36px; }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, max(480px, var(--table-width))), 1fr)); }
.pair { display: grid; gap: 0 18px; }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, max(560px, var(--table-width))), 1fr)); }
.beside { display: flex; flex-wrap: wrap; gap: 0 18px; }
.beside section { flex: 1 1 auto; max-width: 100%; }
.beside section + section { flex: 999 1 560px; }
.beside p { width: 0; min-width: 100%; } /* the tables alone say how wide a section is */
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }
.cards h3 { margin-top: 4px; }
section, figure { min-width: 0; }
figure { margin: 0; }
.picture img { max-width: min(100%, 860px); height: auto; display: block; }
.picture.full img { max-width: 100%; }
.picture.small img { max-width: min(100%, 660px); }
.picture.scroll img { max-width: none; width: max(100%, 1000px); }
.views { display: grid; gap: 10px 16px; margin-top: 12px; }
.views { grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
.views img { width: 100%; height: auto; display: block; border: 1px solid #e9ebee; }
.views .head { margin: 0 0 2px; font-weight: 600; color: #1c1e21; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0; color: #1c1e21; }
.legend span { white-space: nowrap; }
i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 7px; vertical-align: -2px; }
summary { cursor: pointer; font-weight: 500; }
@media (max-width: 560px) {
  th, td { padding-right: 8px; font-size: .86rem; }
  th:first-child { padding-right: 8px; white-space: normal; }
  tr.sub th:first-child { padding-left: 6px; }
  h1 { font-size: 1.4rem; }
}
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; } }
"""
