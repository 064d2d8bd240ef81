"""``ghostzoo explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .console import ANY_PATH, Command, percent, print_prose, printable
from .options import BUNDLED_MODEL, engine_options, fetch_options, image_options, model_option

_LARGE = 0.5
"""From this share of the logit on, the constant is worth a word."""


@click.command(cls=Command, short_help="Show where in an image a class comes from.")
@click.argument("image")
@model_option
@click.option("--class", "index", help="Class to explain, by name or index.  [default: the best]")
@click.option("--against", help="Explain what speaks for the class rather than for this one.")
@click.option("--out", type=ANY_PATH, help="Picture to write, .png or .jpg: red speaks for the class, blue against.")
@fetch_options
@engine_options
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the map.")
def explain(
    image: str,
    model: str | None,
    index: str | None,
    against: str | None,
    out: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show which places of IMAGE add to a class's logit, and which take from it.

    The map is exact: its values and a constant, which comes from no place, add up to the logit.

    \b
    Examples:
      ghostzoo explain cat.jpg --out why.png
      ghostzoo explain cat.jpg --class cat --against dog --out why.png
    """
    from ..loading import announce_bundled, load

    with load(BUNDLED_MODEL if model is None else model, **options) as classifier:
        if model is None:
            announce_bundled()
        found = classifier.explain(image, _class(index), _class(against))
        if out is not None:
            _write(Path(out), found.overlay(image))
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    name = found.label if found.against_label is None else f"{found.label} rather than {found.against_label}"
    click.echo(
        f"{printable(name)}: logit {found.logit:.3f}, of which {found.map.sum():.3f} from places and "
        f"{found.constant:.3f} from none"
    )
    if found.against is None and found.constant_share > _LARGE and classifier.bundle.num_classes > 1:
        print_prose(
            f"The part that comes from no place is {percent(found.constant_share)} of the logit; --against another "
            "class shows what speaks for the one rather than the other.",
            err=True,
        )
    if out is not None:
        click.echo(f"Wrote {out}", err=True)


def _class(given: str | None) -> int | str | None:
    return int(given) if given is not None and given.isdecimal() else given


def _write(path: Path, rgb: Any) -> None:
    import cv2

    from .._utils.files import write_atomically
    from ..errors import OptionError

    suffix = path.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise OptionError(f"{path} is neither a .png nor a .jpg file; give --out a name that ends so.")
    _, encoded = cv2.imencode(suffix, rgb[:, :, ::-1])
    write_atomically(path, encoded.tobytes())
