"""Publish a bundle: card, one commit, a second download through the runtime, tag, lock file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ghostzoo
from ghostzoo._utils.cache import CACHE_VARIABLE, cache_key, locked
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CARD_FILE, Bundle
from ghostzoo.bundle.manifest import MANIFEST_FILE
from ghostzoo.errors import GhostZooError
from ghostzoo.fetch.lockfile import LOCK_FILE, Pin, read_lock, write_lock
from hub.card import CardFacts, write_full_card
from hub.remote import PublishError, Remote, State, check_free


@dataclass(frozen=True)
class Target:
    """Where and how to publish."""

    namespace: str
    """The user or organisation."""
    endpoint: str | None = None
    """The Hub; ``None`` is ``HF_ENDPOINT`` or huggingface.co."""
    token: str | None = None
    """``None`` is ``HF_TOKEN`` or the one of ``hf auth login``."""
    private: bool = False
    """Make new repositories private."""
    tag: str | None = None
    dry_run: bool = False
    """Only say what would be done."""
    lock_file: Path = LOCK_FILE


@dataclass(frozen=True)
class Published:
    """What was done, or would be."""

    repo: str
    created: bool
    """Whether the repository is new."""
    uploaded: bool
    """Whether there is a new commit; not where the same content was there already."""
    files: dict[str, int]
    """Path -> size in bytes of each file of the bundle."""
    tag: str | None
    pin: Pin | None
    """``None`` after a dry run."""


def publish(path: Path, target: Target, facts: CardFacts, on_step: Callable[[str], None] = lambda _: None) -> Published:
    """Publish the bundle at ``path``; doing it again changes nothing.

    The uploaded bundle is that at ``path`` with the full model card, and a manifest that lists it.

    Args:
        path: the bundle's folder, which stays as it is.
        target: where and how.
        facts: what the card says besides.
        on_step: told of each step as it begins.

    Raises:
        PublishError: the Hub refused or cannot be reached, or what came back is not what was sent.
        GhostZooError: the bundle cannot be used.
    """
    original = Bundle.open(path)
    remote = Remote(f"{target.namespace}/{original.name}", target.endpoint, target.token)
    with tempfile.TemporaryDirectory(prefix="ghostzoo-hub-") as folder:
        scratch = Path(folder)
        on_step(f"{original.name}: writing the card")
        bundle = with_full_card(original, remote.repo, facts, scratch / "bundle")
        contents = {name: (bundle.path / name).read_bytes() for name in (*bundle.manifest.files, MANIFEST_FILE)}
        on_step(f"{original.name}: asking the Hub")
        state = _prepared(remote, target, contents)
        uploaded = state is None or not state.holds(contents)
        files = {name: len(data) for name, data in sorted(contents.items())}
        plan = Published(remote.repo, state is None, uploaded, files, target.tag, None)
        if target.dry_run:
            return plan
        if state is None:
            on_step(f"{original.name}: creating {remote.repo}")
            remote.create(target.private)
            state = remote.read()
            if state is None:
                raise PublishError(f"{remote.repo} on {remote.endpoint} was made and is not there; try again.")
        commit = state.head
        if uploaded:
            on_step(f"{original.name}: uploading")
            title = f"{bundle.name}, with ghostzoo {ghostzoo.__version__}"
            commit = remote.upload(bundle.path, title, state.head, state.stale(contents))
        pin = Pin(remote.repo, commit, hashlib.sha256(contents[MANIFEST_FILE]).hexdigest())
        on_step(f"{original.name}: downloading and comparing")
        verify(original, remote, pin, target.token, scratch / "cache")
    if target.tag is not None and target.tag not in state.tags:
        on_step(f"{original.name}: setting the tag {target.tag}")
        remote.tag(target.tag, commit)
    record(original.name, pin, target.lock_file)
    return Published(plan.repo, plan.created, plan.uploaded, plan.files, plan.tag, pin)


def with_full_card(bundle: Bundle, repo: str, facts: CardFacts, out: Path) -> Bundle:
    """Write ``bundle`` to ``out`` with the full card in place of its own, and return that."""
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    contents[CARD_FILE] = write_full_card(bundle, repo, facts).encode()
    return write_bundle(
        out,
        name=bundle.name,
        contents=contents,
        weights=bundle.manifest.weights,
        created_by=bundle.manifest.created_by,
        validation=bundle.manifest.validation,
    )


def verify(bundle: Bundle, remote: Remote, pin: Pin, token: str | None, cache: Path) -> None:
    """Download the published commit through the runtime and hold it against ``bundle``.

    Raises:
        PublishError: the download failed, or the manifest or a logit differs by a bit.
    """
    try:
        published = ghostzoo.load(
            f"hf://{pin.repo}",
            revision=pin.commit,
            endpoint=remote.endpoint,
            token=token,
            cache_dir=cache,
            engine="onnxruntime",
        )
    except GhostZooError as error:
        raise PublishError(
            f"{pin.repo} was uploaded as {pin.commit}, but cannot be downloaded again: {error} It was neither tagged "
            "nor recorded; run the same command again."
        ) from error
    with published, ghostzoo.load(bundle.path, engine="onnxruntime") as local:
        manifest = (published.bundle.path / MANIFEST_FILE).read_bytes()
        inputs = bundle.golden().pixel_values
        same_logits = np.array_equal(published.engine.run(inputs), local.engine.run(inputs))
    if hashlib.sha256(manifest).hexdigest() != pin.manifest_sha256 or not same_logits:
        raise PublishError(
            f"{pin.repo} holds something else at {pin.commit} than what was uploaded; it was neither tagged nor "
            "recorded. Do not use that commit, and publish again."
        )


def record(name: str, pin: Pin, lock_file: Path) -> None:
    """Write the model's pin into the lock file; several processes may do so at once.

    They wait for one another in ghostzoo's cache folder: beside the file, a lock would become part of the package.

    Raises:
        PublishError: the file cannot be written.
    """
    try:
        with locked(f"locks/{cache_key(str(lock_file.resolve()))}") as is_locked:
            if not is_locked:
                raise PublishError(
                    f"{pin.repo} is published as {pin.commit}, but not recorded in {lock_file}, since other processes "
                    f"cannot be kept from it; set {CACHE_VARIABLE} to a folder that can be written and run the same "
                    "command again."
                )
            pins = read_lock(lock_file) if lock_file.exists() else {}
            if pins.get(name) != pin:
                write_lock({**pins, name: pin}, lock_file)
    except OSError as error:
        raise PublishError(
            f"{pin.repo} is published as {pin.commit}, but {lock_file} cannot be written "
            f"({error.strerror or error}); make it writable and run the same command again."
        ) from error


def _prepared(remote: Remote, target: Target, contents: dict[str, bytes]) -> State | None:
    """Refuse what cannot go well before anything is changed; return what is there."""
    if not target.dry_run:
        remote.check_login()
    state = remote.read()
    if state is None:
        return None
    check_free(remote, state)
    if target.private and not state.private:
        raise PublishError(
            f"{remote.repo} on {remote.endpoint} is public already; make it private there first, or leave out "
            "--private."
        )
    tagged = state.tags.get(target.tag or "")
    if tagged is not None and (tagged != state.head or not state.holds(contents)):
        raise PublishError(
            f"{remote.repo} on {remote.endpoint} has a tag {target.tag} of another content ({tagged}); "
            "choose another tag: one that moves misleads whoever relies on it."
        )
    return state
