"""Self-contained HTML reports: one section a modality, pictures inside, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Number", "Passage", "Picture", "Section", "write_report"]


@dataclass(frozen=True)
class Number:
    """A measured figure and what it means.

    Attributes:
        name: What was measured.
        value: As shown.
        reference: The same for real data, as shown.
        meaning: In words.
    """

    name: str
    value: str
    reference: str
    meaning: str


@dataclass(frozen=True)
class Picture:
    """An embedded picture.

    Attributes:
        title: Above it.
        caption: Below it: what one sees.
        data: Bytes of a PNG, GIF or SVG.
        kind: ``"png"``, ``"gif"`` or ``"svg+xml"``.
        wide: Takes the whole width of the page.
    """

    title: str
    caption: str
    data: bytes
    kind: str = "png"
    wide: bool = False

    @classmethod
    def of(cls, title: str, caption: str, image: Any, wide: bool = False) -> Picture:
        """From a PIL image."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        return cls(title, caption, buffer.getvalue(), wide=wide)


@dataclass(frozen=True)
class Passage:
    """Embedded text, shown in fixed width.

    Attributes:
        title: Above it.
        caption: Below it: what one reads.
        lines: Each a sequence of pieces (text, marked): marked ones stand out.
        wide: Takes the whole width of the page.
    """

    title: str
    caption: str
    lines: Sequence[Sequence[tuple[str, bool]]]
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """What a modality shows.

    Attributes:
        title: Of the section.
        lead: One paragraph: what was trained on what, how long.
        pictures: Pictures and passages, in order.
        numbers: In order.
        code: How to do it oneself.
    """

    title: str
    lead: str
    pictures: Sequence[Picture | Passage] = ()
    numbers: Sequence[Number] = ()
    code: str = ""


_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#dfe3e8;--paper:#fff;--wash:#f5f7f9;--mark:#0b6bcb}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--line:#2c333b;--paper:#14181d;--wash:#1b2027;--mark:#6ab0ff}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:48px 24px 80px}h1{font-size:34px;margin:0 0 4px;letter-spacing:-.02em}
h2{font-size:24px;margin:48px 0 8px;letter-spacing:-.01em}h3{font-size:15px;margin:0 0 8px}p{margin:0 0 14px}
.soft{color:var(--soft)}.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:20px;margin:20px 0}
figure{margin:0;padding:16px;background:var(--wash);border:1px solid var(--line);border-radius:10px}
figure.wide{grid-column:1/-1}figure img{width:100%;height:auto;display:block;border-radius:4px;image-rendering:pixelated}
figure img.smooth{image-rendering:auto;background:#fff}
figcaption{margin-top:10px;font-size:14px;color:var(--soft)}table{width:100%;border-collapse:collapse;margin:16px 0}
th,td{text-align:left;padding:9px 12px;border-bottom:1px solid var(--line);vertical-align:top}th{font-weight:600;font-size:14px}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap;font-weight:600}td.r{font-variant-numeric:tabular-nums;color:var(--soft)}
pre{background:var(--wash);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow:auto;font-size:14px}
.table{overflow-x:auto}figure pre{margin:0;padding:0;border:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
mark{background:#ffe08a;color:#1b1f24;border-radius:3px}
"""


def write_report(path: str | Path, sections: Sequence[Section], title: str = "polydiff") -> Path:
    """Write one HTML file and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(_section(s) for s in sections)
    lead = "One diffusion core, specialised by modality. Everything below was trained, sampled and measured just now."
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f'<p class="soft">{lead}</p>{body}</main></body></html>'
    )
    path.write_text(page, encoding="utf-8")
    return path


def _section(section: Section) -> str:
    pictures = "".join(_picture(p) if isinstance(p, Picture) else _passage(p) for p in section.pictures)
    numbers = "".join(
        f'<tr><td>{html.escape(n.name)}</td><td class="n">{html.escape(n.value)}</td><td class="r">'
        f'{html.escape(n.reference)}</td><td class="soft">{html.escape(n.meaning)}</td></tr>'
        for n in section.numbers
    )
    table = (
        f'<div class="table"><table><thead><tr><th>measured</th><th>generated</th><th>real data</th><th>what it means</th>'
        f"</tr></thead><tbody>{numbers}</tbody></table></div>"
        if numbers
        else ""
    )
    code = f"<pre>{html.escape(section.code)}</pre>" if section.code else ""
    return (
        f'<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.lead)}</p><div class="grid">{pictures}</div>'
        f"{table}{code}</section>"
    )


def _picture(picture: Picture) -> str:
    source = f"data:image/{picture.kind};base64,{base64.b64encode(picture.data).decode()}"
    smooth = ' class="smooth"' if picture.kind == "svg+xml" else ""
    return (
        f"<figure{' class=wide' if picture.wide else ''}><h3>{html.escape(picture.title)}</h3>"
        f'<img{smooth} alt="{html.escape(picture.caption)}" src="{source}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _passage(passage: Passage) -> str:
    lines = "\n".join(
        "".join(f"<mark>{html.escape(text)}</mark>" if marked else html.escape(text) for text, marked in line)
        for line in passage.lines
    )
    return (
        f"<figure{' class=wide' if passage.wide else ''}><h3>{html.escape(passage.title)}</h3>"
        f"<pre>{lines}</pre><figcaption>{html.escape(passage.caption)}</figcaption></figure>"
    )
