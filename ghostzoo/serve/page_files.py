"""The web page's files, in the package's folder ``page``, and what is there to run models in browsers."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent / "page"
PACKAGE = PAGE / "ghostzoo"
"""The npm package, whose modules the page uses, too."""
RUNTIMES = {"ghostzoo-native": "ghostzoo/ghostzoo.wasm", "onnxruntime-web": "vendor/ort.wasm.min.mjs"}
"""What runs models in a browser, the first choice first -> its file; 'make web' brings them."""

_NONE = 'data-runtimes=""'


def runtimes() -> list[str]:
    """Names of the runtimes that are there."""
    return [name for name, file in RUNTIMES.items() if (PAGE / file).is_file()]


def index_page() -> str:
    """The page, told which runtimes there are, so that it asks for none in vain."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    return text.replace(_NONE, f'data-runtimes="{" ".join(runtimes())}"', 1)
