"""The official weights: downloaded from PaddleClas, timm's repositories on the Hub or a mirror, and converted.

PaddleClas publishes no checksums, and a branch of a repository may move. Therefore the hash of the first download is
kept, and a later download that differs is refused until the user accepts it; and the weights must match the
architecture in every shape. Those from the Hub must have the SHA-256 that the Hub states, too.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .._utils.files import write_atomically
from .._utils.hashes import SHA256
from .._utils.urls import is_url, without_secrets
from ..bundle.folder import Bundle
from ..catalog import HUB, TIMM_FILE, CatalogModel
from ..errors import FetchError, OptionError, WeightsError
from ..network.families import FAMILIES
from .huggingface_client import Hub
from .options import WEIGHTS_VARIABLE, FetchOptions, HubModel
from .store import Store

RECORD_FILE = "first-download.json"

_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class WeightsPlace:
    """Where one model's weights are: a URL, or a local file."""

    text: str

    @property
    def file(self) -> Path | None:
        """The local file, or ``None`` for a URL."""
        return None if is_url(self.text) else Path(os.path.expanduser(self.text))  # noqa: PTH111

    def __str__(self) -> str:
        """The URL or path without password and query."""
        return without_secrets(self.text) if is_url(self.text) else self.text


def weights_place(record: CatalogModel) -> WeightsPlace:
    """Return where to get the weights: ``GHOSTZOO_WEIGHTS_URL``, or where they are published.

    Raises:
        OptionError: the template in ``GHOSTZOO_WEIGHTS_URL`` has a placeholder other than ``{name}``.
    """
    official = record.weights_url or ""
    mirror = os.environ.get(WEIGHTS_VARIABLE, "").strip()
    if not mirror:
        return WeightsPlace(official)
    if "{" not in mirror:
        return WeightsPlace(f"{mirror.removeprefix('file://').rstrip('/')}/{_file_name(record)}")
    try:
        return WeightsPlace(mirror.removeprefix("file://").format(name=record.name))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise OptionError(f"{WEIGHTS_VARIABLE} is {mirror!r}; {{name}} is the only placeholder allowed.") from error


def build_from_official(
    record: CatalogModel,
    store: Store,
    options: FetchOptions,
    *,
    refresh: bool = False,
    accept: str | None = None,
) -> Bundle:
    """Download the official weights of ``record`` and build a bundle of them in the store.

    Args:
        record: the catalog's record.
        store: where bundles are kept.
        options: whether requests are allowed.
        refresh: build it again even if it exists, or another process has built it meanwhile.
        accept: SHA-256 of weights that may replace those of the first download.

    Raises:
        FetchError: the weights are not available, or the store cannot be written.
        WeightsError: they differ from the first download, or do not fit the architecture.
    """
    if accept is not None and not SHA256.fullmatch(accept):
        raise OptionError(f"A SHA-256 has 64 hexadecimal digits; {accept!r} cannot be accepted.")
    place = weights_place(record)
    if options.is_offline and place.file is None:
        raise FetchError(f"{place} was not asked, since requests are off")
    if place.file is not None and not place.file.is_file():
        raise FetchError(f"there is no file {place.file}")
    path = store.official_path(record.name)
    with store.exclusive(path):
        kept = None if refresh else store.open(path)
        if kept is not None:
            return kept
        try:
            if place.text == record.weights_url and record.repo is not None:
                with store.scratch(path) as folder:
                    place, file = _download_from_hub(record, folder, options)
                    return _build(record, place, file, path, store, accept)
            file = place.file or _download(place, path.parent, record, options)
            return _build(record, place, file, path, store, accept)
        except OSError as error:
            raise store.unwritable(error) from error


def _download(place: WeightsPlace, folder: Path, record: CatalogModel, options: FetchOptions) -> Path:
    from .._utils.http import DownloadError
    from ..weights.params import MAX_WEIGHTS_BYTES
    from .download import download_file

    target = folder / f".{_file_name(record)}"
    try:
        report = partial(options.report, record.name)
        download_file(place.text, target, max_bytes=MAX_WEIGHTS_BYTES, title=record.name, report=report)
    except DownloadError as error:
        raise FetchError(f"{place} was not downloaded: {error}") from error
    return target


def _download_from_hub(record: CatalogModel, folder: Path, options: FetchOptions) -> tuple[WeightsPlace, Path]:
    """Return the address with its commit, and the file, whose hash is the one that the Hub states."""
    from ..weights.params import MAX_WEIGHTS_BYTES

    hub = Hub(HubModel(record.repo or "", record.commit), options)
    commit, file = hub.save_large(TIMM_FILE, folder, MAX_WEIGHTS_BYTES, record.name)
    return WeightsPlace(f"{HUB}/{record.repo}/resolve/{commit}/{TIMM_FILE}"), file


def _file_name(record: CatalogModel) -> str:
    """Name of the file with the weights, in a mirror and in a bundle's manifest."""
    return f"{record.name}.safetensors" if record.repo else f"{record.name}_pretrained.pdparams"


def _build(
    record: CatalogModel, place: WeightsPlace, file: Path, path: Path, store: Store, accept: str | None
) -> Bundle:
    from ..converter import Provenance, write_model_bundle
    from ..labels import resolve_labels
    from ..weights.params import read_weights

    try:
        family = FAMILIES[record.family]
        weights = read_weights(file, width=record.width, family=family, num_classes=record.num_classes)
    except WeightsError as error:
        if place.file is not None:
            raise
        reason = str(error).replace(str(file), "the file")
        raise WeightsError(f"{place} gives no weights of {record.name}, and nothing was kept: {reason}") from error
    finally:
        if place.file is None:
            file.unlink(missing_ok=True)
    _check_first_download(record, place, path.with_name(RECORD_FILE), weights.sha256, accept)
    with store.scratch(path) as scratch:
        bundle = write_model_bundle(
            replace(weights, file_name=_file_name(record)),
            scratch / "bundle",
            model_name=record.name,
            labels=resolve_labels(None, record.num_classes),
            preprocessing=record.preprocessing,
            provenance=Provenance(record, place.text if record.has_weights_at(place.text) else None),
        )
        _record_first_download(path.with_name(RECORD_FILE), place, weights.sha256, weights.size)
        store.install(bundle.path, path)
    return replace(bundle, path=path, origin="official weights")


def find_published_sha256(record: CatalogModel, store: Store) -> str | None:
    """Return the SHA-256 of the weights that were downloaded from where they are published, if any were.

    The catalog has no checksums, so this is how those weights are known that its figures are of.

    Raises:
        WeightsError: the note of the first download is damaged.
    """
    first = _read_record(store.official_path(record.name).with_name(RECORD_FILE))
    return first["sha256"] if first is not None and record.has_weights_at(first["url"]) else None


def _check_first_download(
    record: CatalogModel, place: WeightsPlace, note: Path, sha256: str, accept: str | None
) -> None:
    """Refuse weights that differ from the first download, unless their hash was accepted."""
    first = _read_record(note)
    if accept is not None and accept != sha256:
        raise WeightsError(f"{place} gives weights with SHA-256 {sha256}, not {accept}; nothing was changed.")
    if first is None or first["sha256"] == sha256:
        return
    if accept == sha256:
        _log.warning("%s: new weights are accepted: %s instead of %s.", record.name, sha256, first["sha256"])
        return
    raise WeightsError(
        f"{place} gives other weights of {record.name} than before, which are refused: SHA-256 {sha256}, but the "
        f"first download, of {first['date']} from {first['url']}, had {first['sha256']}. If you know that the new ones "
        f"are right, accept them with 'ghostzoo pull {record.name} --accept {sha256}'."
    )


def _read_record(note: Path) -> dict[str, str] | None:
    try:
        content = json.loads(note.read_bytes())
        return {key: str(content[key]) for key in ("sha256", "url", "date")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{note} is damaged, so nothing tells which weights were downloaded first; delete it to trust the "
            "next download."
        ) from error


def _record_first_download(note: Path, place: WeightsPlace, sha256: str, size: int) -> None:
    first = _read_record(note)
    if first is None or first["sha256"] != sha256:  # they are the first ones, or were accepted
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"url": str(place), "sha256": sha256, "size": size, "date": now}
        write_atomically(note, json.dumps(content, indent=2).encode())
