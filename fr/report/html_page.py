"""Building blocks of a self-contained HTML page: inline images, no external resources, no scripts."""

import base64
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fr.files.images import image_file


def page(title: str, body: str) -> bytes:
    """Complete page as UTF-8. title: plain text; body: HTML."""
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""
    # File names that aren't valid UTF-8 contain lone surrogates, which can't be encoded.
    return text.encode(errors="backslashreplace")


def named_rows(rows: Iterable[tuple[str, str]]) -> str:
    """Table rows with a name and a value, both plain text."""
    return "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Table with a header, which scrolls separately on a narrow screen. head, rows: plain text."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{names}</tr></thead>\n<tbody>{cells}</tbody></table></div>'


def inline_image(data: bytes, alt: str, kind: str = "png") -> str:
    """Image element from the bytes of an image file; alt: plain text; kind: png or jpeg."""
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def png_file(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB [H, W, 3] as PNG; ValueError for anything else."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image_file(Image.fromarray(image), "PNG")


def card(images: Iterable[str], caption: str) -> str:
    """Up to two images side by side with a caption. images, caption: HTML."""
    return f'<div class="pair"><div class="faces">{"".join(images)}</div>{caption}</div>\n'


def cards(heading: str, note: str, content: Iterable[str]) -> str:
    """Section of cards. heading, note: plain text; content: HTML of each card."""
    shown = "".join(content)
    return f'<h2>{escape(heading)}</h2>\n<p class="note">{escape(note)}</p>\n<div class="pairs">{shown}</div>'


_STYLE = """
body { font: 15px/1.45 Georgia, "Times New Roman", serif; color: #222; background: #fff; max-width: 960px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; border: solid #222; border-width: 1.5px 0; }
th, td { text-align: left; vertical-align: top; padding: .18rem .5rem; border-bottom: 1px solid #e4e4e4; }
.named th { font-weight: normal; color: #555; } .named td { overflow-wrap: anywhere; }
.facts th { width: 22%; } .folds th, .folds td { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .wide td { min-width: 3.3rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.wide td:first-child { min-width: 5.2rem; }
.note, figcaption { color: #555; font-size: .87rem; margin: .4rem 0; }
figure { margin: 1.2rem 0 0; } figure img { width: 100%; height: auto; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(216px, 1fr)); gap: 1rem; }
.pair { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; break-inside: avoid; }
.faces { display: flex; gap: 4px; margin-bottom: .2rem; }
.faces img { width: calc(50% - 2px); aspect-ratio: 1; object-fit: contain; background: #f2f2f2; }
@page { margin: 15mm; }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; }
  h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .wide { overflow: visible; } th, td { overflow-wrap: anywhere; } .wide td, .wide td:first-child { min-width: 0; }
}
"""
