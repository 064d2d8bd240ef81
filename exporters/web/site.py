"""The web page as a static site: the page's files, and the models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ghostzoo._utils.files import recover, replaced
from ghostzoo.bundle.folder import CARD_FILE, GOLDEN_FILE, MODEL_FILES, Bundle
from ghostzoo.bundle.hub_configs import CONFIG_FILE, PREPROCESSOR_FILE
from ghostzoo.bundle.manifest import MANIFEST_FILE
from ghostzoo.errors import InputError
from ghostzoo.serve.page_files import DATA_FILES, PAGE, index_page, runtimes

INDEX = "models/index.json"

_MODEL_FILES = (CONFIG_FILE, PREPROCESSOR_FILE, MODEL_FILES["fp32"], CARD_FILE, GOLDEN_FILE)
_SERVER_MODE, _STATIC_MODE = 'data-mode="server"', 'data-mode="static"'


def write_site(out: Path, bundles: Sequence[Bundle], *, overwrite: bool = False) -> None:
    """Write the page with ``bundles`` to a temporary folder beside ``out``, and rename it into place.

    Args:
        out: the folder to make.
        bundles: the first is the one that the page starts with.
        overwrite: replace an older site (and nothing else).

    Raises:
        InputError: ``out`` may not be replaced or written, or the page was not built.
    """
    if not runtimes():
        raise InputError("There is nothing yet that runs the models in the browser; run 'make wasm' or 'make web'.")
    names = [bundle.name for bundle in bundles]
    if len(set(names)) < len(names):
        raise InputError(f"Two models have one name ({', '.join(names)}); leave one of them out.")
    recover(out.parent)
    _check_target(out, overwrite)
    try:
        with replaced(out) as site:
            _fill(site, bundles)
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error.strerror or error}; choose another folder.") from error


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / INDEX).is_file():
        raise InputError(f"{out} exists and is not such a site; choose another folder.")
    if not overwrite:
        raise InputError(f"{out} exists; choose another folder, or replace it with --overwrite.")


def _fill(site: Path, bundles: Sequence[Bundle]) -> None:
    shutil.copytree(PAGE, site)
    html = index_page()
    if _SERVER_MODE not in html:
        raise InputError(f"{PAGE / 'index.html'} has no {_SERVER_MODE}; it is not the page of this version.")
    (site / "index.html").write_text(html.replace(_SERVER_MODE, _STATIC_MODE, 1), encoding="utf-8")
    for path, file in DATA_FILES.items():
        (site / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, site / path)
    for bundle in bundles:
        for name in _MODEL_FILES:
            target = site / "models" / bundle.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bundle.read(name))
        (site / "models" / bundle.name / MANIFEST_FILE).write_bytes(bundle.manifest.to_json())
    models = [
        {"name": bundle.name, "classes": bundle.num_classes, "multi_label": bundle.config.multi_label}
        for bundle in bundles
    ]
    index = {"models": models}
    (site / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
