"""``ghostzoo cache list``, ``verify``, ``prune`` and ``path``: the models that were fetched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import Command, Group, format_size, print_table
from .options import cache_dir_option

if TYPE_CHECKING:
    from ..fetch.pruning import Removal
    from ..fetch.store import Store


@click.group(cls=Group)
def cache() -> None:
    """Manage the models that were fetched.

    \b
    Examples:
      ghostzoo cache list
      ghostzoo cache verify
      ghostzoo cache prune
    """


@cache.command("list", cls=Command)
@cache_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object per model.")
def list_kept(cache_dir: str | None, as_json: bool) -> None:
    """List the models in the cache.

    \b
    Examples:
      ghostzoo cache list
      ghostzoo cache list --json
    """
    store = _store(cache_dir)
    entries = [(entry.name, entry.size, entry.path) for entry in store.entries()]
    if as_json:
        for name, size, path in entries:
            click.echo(json.dumps({"name": name, "bytes": size, "path": str(path)}))
    elif entries:
        total = format_size(sum(size for _, size, _ in entries))
        rows = [[name, format_size(size), str(path.relative_to(store.root))] for name, size, path in entries]
        print_table(["model", "size", "folder"], rows)
        click.echo(f"{total} in {store.root}")
    else:
        click.echo(f"No model is kept in {store.root}.", err=True)


@cache.command("verify", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@cache_dir_option
def verify(names: tuple[str, ...], cache_dir: str | None) -> None:
    """Check the files of the models in the cache.

    Every file of all models, or of those NAMEd, is compared with its SHA-256.

    \b
    Examples:
      ghostzoo cache verify
      ghostzoo cache verify GhostNet_x1_0
    """
    from ..fetch.pruning import choose, damage

    found = [(entry.name, damage(entry)) for entry in choose(_store(cache_dir), names)]
    if found:
        print_table(["model", "state"], [[name, "damaged" if reason else "whole"] for name, reason in found])
    for name, reason in found:
        if reason:
            click.echo(f"Error: {name}: {' '.join(reason.split())}", err=True)
    if any(reason for _, reason in found):
        click.echo("'ghostzoo cache prune' removes what is damaged; it is fetched again when it is used.", err=True)
        sys.exit(1)


@cache.command("prune", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--all", "everything", is_flag=True, help="Remove all models, and what engines prepared from them.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@cache_dir_option
def prune(names: tuple[str, ...], everything: bool, dry_run: bool, cache_dir: str | None) -> None:
    """Remove what is of no use, or the models NAMEd.

    Of no use are remains of broken downloads, damaged models, and versions that a branch has moved on from. The hashes
    of the first downloads of official weights are kept: later downloads are still compared with them.

    \b
    Examples:
      ghostzoo cache prune
      ghostzoo cache prune GhostNet_x1_0
      ghostzoo cache prune --all --dry-run
    """
    from ..fetch.pruning import Removal, choose, prepared_models, remove_prepared, useless

    if names and everything:
        raise click.UsageError("Name models, or give --all.")
    store = _store(cache_dir)
    chosen = choose(store, names) if names or everything else []
    removals = [Removal(entry.path, entry.name) for entry in chosen]
    if not names:
        paths = {removal.path for removal in removals}
        removals += [removal for removal in useless(store) if removal.path not in paths]
    prepared = list(prepared_models()) if everything and cache_dir is None else []
    total = sum(removal.size for removal in (*removals, *prepared))
    _show(removals + prepared, store.root)
    if not dry_run:
        for removal in removals:
            removal.carry_out(store)
        for removal in prepared:
            remove_prepared(removal)
    click.echo(f"{format_size(total)} {'would be' if dry_run else 'were'} freed.", err=True)


@cache.command("path", cls=Command)
@cache_dir_option
def show_path(cache_dir: str | None) -> None:
    """Print the path of the cache.

    \b
    Examples:
      ghostzoo cache path
      du -sh "$(ghostzoo cache path)"
    """
    click.echo(str(_store(cache_dir).root))


def _store(cache_dir: str | None) -> Store:
    from .._utils.cache import NO_CACHE
    from ..fetch.options import FetchOptions
    from ..fetch.store import Store

    store = Store(FetchOptions(cache_dir=cache_dir).models_cache)
    if store.root.is_relative_to(NO_CACHE):
        raise store.unwritable(OSError())
    return store


def _show(removals: list[Removal], root: Path) -> None:
    for removal in removals:
        path = removal.path.relative_to(root) if removal.path.is_relative_to(root) else removal.path
        click.echo(f"{path}  {removal.reason}, {format_size(removal.size)}")
