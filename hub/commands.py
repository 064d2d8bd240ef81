"""``python -m hub publish``, ``collection`` and ``card``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import find_record, get_model, list_models
from ghostzoo.cli.bars import steps
from ghostzoo.cli.console import Command, print_table
from ghostzoo.errors import OptionError
from ghostzoo.fetch.lockfile import LOCK_FILE
from ghostzoo.fetch.official import find_published_sha256
from ghostzoo.fetch.options import FetchOptions
from ghostzoo.fetch.resolver import fetch, open_bundled
from ghostzoo.fetch.store import Store
from hub.card import CardFacts, write_full_card
from hub.publish import Published, Target
from hub.publish import publish as publish_bundle
from hub.reports import read_evaluations, read_speeds

_F = TypeVar("_F", bound=Callable[..., Any])
_STEPS = 6
"""About so many for each bundle."""

_NAMESPACE = click.option(
    "--namespace",
    required=True,
    envvar="GHOSTZOO_HUB_NAMESPACE",
    show_envvar=True,
    help="User or organisation of the Hub.",
)
_CARD_OPTIONS = (
    click.option("--license", "license_id", help="Licence of weights of your own, as the Hub spells it.  [e.g. mit]"),
    click.option(
        "--evaluation",
        "evaluations",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A report.json of 'ghostzoo eval --out'; it names its model. Can be repeated.",
    ),
    click.option(
        "--speed",
        "speeds",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A bench.json of 'ghostzoo bench --out'; it names its models. Can be repeated.",
    ),
)
_PUBLISH_OPTIONS = (
    _NAMESPACE,
    click.option("--private", is_flag=True, help="Make new repositories private."),
    click.option("--tag", help="Tag for the commit.  [e.g. v1.0]"),
    click.option("--dry-run", is_flag=True, help="Only say what would be done."),
    click.option("--endpoint", metavar="URL", help="The Hub's address.  [default: HF_ENDPOINT or huggingface.co]"),
    click.option("--token", help="The Hub's token; HF_TOKEN keeps it out of the list of processes."),
    click.option(
        "--lock",
        "lock_file",
        default=LOCK_FILE,
        show_default="the package's",
        type=click.Path(path_type=Path),
        help="Lock file that gets the commit and the manifest's hash.",
    ),
    *_CARD_OPTIONS,
)


def _with(options: Sequence[Callable[[_F], _F]]) -> Callable[[_F], _F]:
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


@click.command(cls=Command)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@_with(_PUBLISH_OPTIONS)
def publish(bundles: tuple[Path, ...], **options: Any) -> None:
    """Publish bundles, each in a repository of its name.

    Each gets the full model card and is uploaded in one commit, downloaded again and compared; then the commit is
    tagged and recorded in the lock file. Publishing the same again makes no commit.

    \b
    Examples:
      python -m hub publish GhostNet_x1_0 --namespace me --tag v1.0
      python -m hub publish bundles/* --namespace me --private --dry-run
    """
    _publish_all(bundles, **options)


@click.command(cls=Command)
@click.option(
    "--bundles",
    type=click.Path(path_type=Path),
    help="Folder with the official models by name, as 'python -m exporters export --all' writes it.  "
    "[default: where ghostzoo.load finds them]",
)
@_with(_PUBLISH_OPTIONS)
def collection(bundles: Path | None, **options: Any) -> None:
    """Publish all models of the catalog.

    \b
    Example:
      python -m hub collection --bundles bundles --namespace me --tag v1.0
    """
    _publish_all([_find(name, bundles) for name in list_models()], **options)


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@_with((_NAMESPACE, *_CARD_OPTIONS))
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: stdout]")
def card(bundle: Path, namespace: str, out: Path | None, **options: Any) -> None:
    """Write the model card that a bundle would be published with.

    \b
    Example:
      python -m hub card GhostNet_x1_0 --namespace me
    """
    opened = Bundle.open(bundle)
    text = write_full_card(opened, f"{namespace}/{opened.name}", _facts([opened], **options))
    if out is None:
        click.echo(text, nl=False)
    else:
        _write(out, text)


def _find(name: str, bundles: Path | None) -> Path:
    """The embedded models are exported by nobody: they come with the package."""
    return fetch(name).path if bundles is None or get_model(name).embedded else bundles / name


def _publish_all(
    paths: Sequence[Path],
    license_id: str | None,
    evaluations: tuple[Path, ...],
    speeds: tuple[Path, ...],
    **options: Any,
) -> None:
    opened = [Bundle.open(path) for path in paths]  # a damaged one is found before any is published
    facts = _facts(opened, license_id, evaluations, speeds)
    target = Target(**options)
    done: list[Published] = []
    try:
        with steps(_STEPS * len(paths)) as on_step:
            for path in paths:
                done.append(publish_bundle(path, target, facts, on_step))
    finally:
        if done:
            print_table(("repository", "commit", "what was done"), [_shown(result) for result in done])


def _facts(
    bundles: Sequence[Bundle], license_id: str | None, evaluations: tuple[Path, ...], speeds: tuple[Path, ...]
) -> CardFacts:
    facts = CardFacts(license_id, _known_weights(bundles), read_evaluations(evaluations), read_speeds(speeds))
    known = {bundle.name for bundle in bundles}
    strangers = facts.evaluations.keys() - known
    if facts.speeds and not facts.speeds.keys() & known:  # a bench.json may be of more models than these
        strangers |= facts.speeds.keys()
    if strangers:
        raise OptionError(f"There is a report on {min(strangers)}, which is none of these models.")
    return facts


def _known_weights(bundles: Sequence[Bundle]) -> set[str]:
    """Return the SHA-256s of the weights that the catalog's figures are of, as far as this machine knows them."""
    store, known = Store(FetchOptions().models_cache), set[str]()
    for bundle in bundles:
        record = find_record(bundle.name, bundle.manifest.weights.get("source_url"))
        if record is not None and record.embedded:
            known.add(open_bundled(record.name).manifest.weights["sha256"])
        elif record is not None:
            published = find_published_sha256(record, store)
            known |= {published} if published else set()
            if published != bundle.manifest.weights["sha256"]:
                click.echo(
                    f"The weights of {bundle.name} are not known to be the published ones, so its card gets no "
                    f"published accuracy. 'ghostzoo pull {bundle.name}' downloads these, and notes their SHA-256.",
                    err=True,
                )
    return known


def _shown(result: Published) -> tuple[str, str, str]:
    megabytes = sum(result.files.values()) / 1e6
    words = ["creates the repository"] if result.created else []
    words.append(
        f"uploads {len(result.files)} files, {megabytes:.1f} MB" if result.uploaded else "same content, no upload"
    )
    if result.tag:
        words.append(f"tag {result.tag}")
    if result.pin is None:
        return result.repo, "-", "would: " + ", ".join(words)
    return result.repo, result.pin.commit, ", ".join(words)


def _write(out: Path, text: str) -> None:
    from ghostzoo._utils.files import write_atomically

    try:
        write_atomically(out, text.encode())
    except OSError as error:
        raise OptionError(f"Cannot write {out}: {error.strerror or error}; choose another file.") from error
