"""Groups of pictures that are nearly the same, as one page of HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.files import write_atomically
from ..errors import GhostZooError

MAX_THUMBNAILS = 600
"""On the page: 6 MB at most, and mostly half of that."""
_MAX_OF_GROUP = 24
_SIDE, _QUALITY = 160, 75
_MAX_NAME = 300
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Pictures that are nearly the same</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
section {{ border-top: 1px solid #8886; padding: .7rem 0; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1rem; margin: 0 0 .5rem; }}
ul {{ display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; margin: 0; padding: 0; }}
li {{ width: {side}px; font-size: .8rem; overflow-wrap: anywhere; }}
img {{ display: block; max-width: 100%; border-radius: 4px; }}
small {{ opacity: .75; display: block; }}
</style></head><body>
<h1>Pictures that are nearly the same</h1>
<p>{summary}</p>
{sections}
</body></html>
"""


def write_report(
    path: Path,
    folder: Path,
    pictures: int,
    groups: Sequence[Sequence[str]],
    read: Callable[[Any], NDArray[np.uint8]],
) -> None:
    """Write the page.

    Args:
        path: the file.
        folder: where the pictures are.
        pictures: how many were compared.
        groups: names in the folder.
        read: path -> (H, W, 3) uint8 RGB, or an ``ImageError``.
    """
    sections, left = [], MAX_THUMBNAILS
    for number, group in enumerate(groups, 1):
        shown = min(len(group), _MAX_OF_GROUP)
        if shown > left:
            break
        left -= shown
        more = f"<p>and {len(group) - shown} more</p>" if len(group) > shown else ""
        items = "".join(_items(folder, group[:shown], read))
        sections.append(f"<section><h2>Group {number}: {len(group)} pictures</h2><ul>{items}</ul>{more}</section>")
    if len(sections) < len(groups):
        rest = len(groups) - len(sections)
        sections.append(f"<p>and {rest:,} more groups, which 'ghostzoo dedup --json' lists.</p>")
    summary = (
        f"{len(groups):,} groups among {pictures:,} pictures in {_text(str(folder))}. The largest file of each group "
        "is first. No file was changed."
    )
    page = _PAGE.format(side=_SIDE, summary=summary, sections="\n".join(sections))
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _items(folder: Path, names: Sequence[str], read: Callable[[Any], NDArray[np.uint8]]) -> Iterator[str]:
    for name in names:
        path = folder / name
        try:
            rgb = read(path)
            facts = f"{rgb.shape[1]} x {rgb.shape[0]}, {path.stat().st_size / 1000:,.0f} kB"
            image = f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(rgb)}">'
        except (GhostZooError, OSError):  # it has gone since
            image, facts = "", "cannot be read any more"
        yield f"<li>{image}<bdi>{_text(name)}</bdi><small>{facts}</small></li>"


def _thumbnail(rgb: NDArray[np.uint8]) -> str:
    factor = min(1.0, _SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(encoded.tobytes()).decode()


def _text(name: str) -> str:
    shown = name if len(name) <= _MAX_NAME else f"...{name[-_MAX_NAME:]}"
    return html.escape(shown.encode("utf-8", "backslashreplace").decode())
