"""People of a verification set beside the identities of the training set that they resemble, as one HTML page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from fr.report.html_page import card, cards, inline_image, named_rows, page, png_file


@dataclass(frozen=True)
class Match:
    """A person of the verification set and an identity of the training set: names, images [H, W, 3], and cosine."""

    names: tuple[str, str]
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    similarity: float
    listed: bool


def overlap_page(matches: Iterable[Match], about: Mapping[str, str]) -> bytes:
    """HTML page. about: facts about the run, in the order shown."""
    content: dict[bool, list[str]] = {True: [], False: []}
    for match in matches:
        faces = [inline_image(png_file(one), name) for one, name in zip(match.images, match.names, strict=True)]
        caption = "<br>".join([f"<b>{match.similarity:.4f}</b>", *map(escape, match.names)])
        content[match.listed].append(card(faces, caption))
    sides = "Left the verification set, right the training set; the number is the cosine. The most similar are shown."
    body = f"""<table class="named facts">{named_rows(about.items())}</table>
{cards("Listed: taken for one person", sides, content[True])}
{cards("Not listed: the most similar below the threshold", sides, content[False])}"""
    return page("People in the verification set and in the training set", body)
