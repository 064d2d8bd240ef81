"""The command line: parses and prints, decides nothing. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .errors import ImageError
from .terminal import CommandGroup, flatten, print_table, progress

if TYPE_CHECKING:
    from .evaluate import Evaluation, Proportion
    from .results import ResultWriter


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="ghostzoo %(version)s")
def main() -> None:
    """GhostNet image classifiers as proven ONNX models.

    \b
    Examples:
      ghostzoo list
      ghostzoo convert --model GhostNet_x1_0 --weights GhostNet_x1_0_pretrained.pdparams --out GhostNet_x1_0
      ghostzoo predict cat.jpg --model GhostNet_x1_0
    """


@main.command("list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the catalog's models whose name matches PATTERN (wildcards * ? [..]).

    \b
    Examples:
      ghostzoo list
      ghostzoo list "*x1*"
    """
    from .catalog import get_model, list_models

    records = [get_model(name) for name in list_models(pattern)]
    if not records:
        raise click.ClickException(f"No model matches {pattern!r}. Known: {', '.join(list_models())}.")
    if as_json:
        for record in records:
            click.echo(json.dumps(record.to_dict()))
        return
    print_table(
        ["model", "width", "parameters", "multiply-adds", "top-1", "top-5", "MB"],
        [
            [
                record.name,
                f"{record.width:g}",
                f"{record.published.parameters_millions:.2f} M",
                f"{record.published.multiply_adds_millions:.2f} M",
                f"{record.published.top1:.4f}",
                f"{record.published.top5:.4f}",
                str(record.published.storage_mb),
            ]
            for record in records
        ],
        caption="Figures as published by PaddleClas.",
    )


@main.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL: a name of the catalog, or a bundle folder.

    \b
    Examples:
      ghostzoo info GhostNet_x1_0
      ghostzoo info ./my-bundle --json
    """
    from .fetch import describe_model

    facts = describe_model(model)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_table(["", model], flatten(facts))


@main.command()
@click.option("--model", help="Catalog model that the weights belong to.  [e.g. GhostNet_x1_0]")
@click.option("--name", help="Name of a model of your own; its width is taken from the weights.")
@click.option("--weights", required=True, type=click.Path(), help="A .pdparams file; nothing in it is executed.")
@click.option("--out", required=True, type=click.Path(), help="The bundle folder to make.")
@click.option("--labels", type=click.Path(), help="File with a line '<id> <name>' a class.  [default: ImageNet's]")
@click.option("--resize-short", type=click.IntRange(min=1), help="Short side in pixels.  [default: the model's]")
@click.option("--crop-size", type=click.IntRange(min=1), help="Side of the network's input.  [default: the model's]")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def convert(resize_short: int | None, crop_size: int | None, out: str, **options: Any) -> None:
    """Turn official weights into an ONNX bundle. Needs no Paddle.

    \b
    Examples:
      ghostzoo convert --model GhostNet_x1_0 --weights GhostNet_x1_0_pretrained.pdparams --out GhostNet_x1_0
      ghostzoo convert --name flowers --weights flowers.pdparams --labels flowers.txt --out flowers
    """
    from .catalog import Preprocessing
    from .converter import convert as convert_weights

    if options["model"] is None and options["name"] is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    sizes = {"resize_short": resize_short, "crop_size": crop_size}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    bundle = convert_weights(out=out, preprocessing=Preprocessing(**given) if given else None, **options)
    click.echo(f"{bundle.name}: {bundle.num_classes} classes, wrote {bundle.path}", err=True)


@main.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--model", required=True, help="A bundle folder.")
@click.option("--engine", default="auto", show_default=True, help="Inference library; auto measures which is best.")
@click.option("--device", help="Device, by the engine's name for it.  [default: the engine's]")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or fp16 / int8 where the bundle has them.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the CPUs that may be used]")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes for each image.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a call of the engine.  [default: 4]")
@click.option("--json", "output", flag_value="json", help="JSON lines on stdout.")
@click.option("--csv", "output", flag_value="csv", help="CSV on stdout.")
def predict(
    images: tuple[str, ...], model: str, top_k: int, batch_size: int | None, output: str | None, **options: Any
) -> None:
    """Classify IMAGEs: files, folders, glob patterns, or http(s) URLs.

    Unreadable images are named at the end and make the exit status 1; all others are classified.

    \b
    Examples:
      ghostzoo predict cat.jpg --model GhostNet_x1_0
      ghostzoo predict photos/ --model GhostNet_x1_0 --json > results.jsonl
      ghostzoo predict "photos/**/*.jpg" --model GhostNet_x1_0 --top-k 1 --csv
    """
    from .classifier import load
    from .images import describe
    from .sources import expand

    skipped: list[Any] = []
    sources = list(expand(images, on_skip=skipped.append))
    failed: list[ImageError] = []
    with load(model, **options) as classifier, progress(len(sources), "classifying") as advance:
        writer = _writer(output)
        results = classifier.predict(sources, top_k, batch_size, on_error="return")
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, ImageError):
                failed.append(result)
                writer.write_error(result)
            else:
                writer.write(describe(source), result)
            advance()
    _report(failed, len(sources), len(skipped))


@main.command("eval")
@click.option("--model", required=True, help="A bundle folder.")
@click.option("--data", required=True, type=click.Path(), help="Folder a class, .tar of one, or .txt list file.")
@click.option("--engine", default="auto", show_default=True, help="Inference library; auto measures which is best.")
@click.option("--device", help="Device, by the engine's name for it.  [default: the engine's]")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or fp16 / int8 where the bundle has them.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the CPUs that may be used]")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images a call.")
@click.option("--limit", type=click.IntRange(min=1), help="Take this many images, spread evenly over the data.")
@click.option("--out", type=click.Path(), help="Folder for report.json, classes.csv, confusion.png, mistakes.png.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def eval_command(
    model: str, data: str, batch_size: int, limit: int | None, out: str | None, as_json: bool, **options: Any
) -> None:
    """Measure a model's accuracy on labelled images.

    The classes are matched by WordNet id, label or index. A list file has a line '<path> <class index>' for each image,
    as ImageNet's validation set comes. Unreadable images are listed and make the exit status 1.

    \b
    Examples:
      ghostzoo eval --model GhostNet_x1_0 --data imagenet/val
      ghostzoo eval --model GhostNet_x1_0 --data imagenet/val_list.txt --limit 5000 --json
      ghostzoo eval --model ./flowers --data flowers.tar --out report
    """
    from .classifier import load
    from .evaluate import evaluate, open_labelled, published_figures, take_evenly

    with load(model, **options) as classifier:
        dataset = take_evenly(open_labelled(data, classifier.bundle.labels), limit)
        with progress(len(dataset.samples), "evaluating") as advance:
            result = evaluate(
                classifier,
                dataset,
                published=published_figures(classifier.bundle.name),
                batch_size=batch_size,
                on_image=advance,
            )
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_evaluation(result)
    if out is not None:
        from .evaluation_report import write_report

        click.echo(f"Wrote {', '.join(map(str, write_report(result, Path(out))))}", err=True)
    _report(result.unreadable, len(dataset.samples), 0)


def _print_evaluation(result: Evaluation) -> None:
    facts = result.to_dict()
    print_table(
        ["class", "images", "recall", "precision"],
        [
            [row["label"], str(row["recall"]["total"]), _percent(row["recall"]), _percent(row["precision"])]
            for row in facts["classes"]
        ],
    )
    rows = [["top-1", *_shown(result.top1)], ["top-5", *_shown(result.top5)]]
    columns = [result.model, "measured", "95 % interval"]
    if result.published is not None:
        columns += ["published", "within the interval"]
        for row, name in zip(rows, ("top1", "top5"), strict=True):
            published = facts["published"]
            row += [f"{published[name]:.4f}", "yes" if published[f"{name}_agrees"] else "no"]
    engine = ", ".join(str(value) for value in result.engine.values())
    print_table(
        columns, rows, caption=f"{result.top1.total} images, {result.images_per_second:.1f} a second ({engine})"
    )


def _shown(proportion: Proportion) -> tuple[str, str]:
    low, high = proportion.interval
    return f"{proportion.value:.4f}", f"{low:.4f} to {high:.4f}"


def _percent(proportion: dict[str, Any]) -> str:
    return "-" if proportion["value"] is None else f"{proportion['value']:.1%}"


def _report(failed: Sequence[ImageError], total: int, skipped: int) -> None:
    from .results import printable

    if skipped:
        click.echo(f"Passed over {skipped} other file{'s' if skipped > 1 else ''} in the folders.", err=True)
    for error in failed:
        click.echo(f"Error: {printable(' '.join(str(error).split()))}", err=True)
    if failed:
        click.echo(f"{len(failed)} of {total} images could not be read.", err=True)
        sys.exit(1)


def _writer(output: str | None) -> ResultWriter:
    from .results import CsvWriter, JsonLinesWriter, TableWriter

    kinds: dict[str | None, type[ResultWriter]] = {"json": JsonLinesWriter, "csv": CsvWriter}
    return kinds.get(output, TableWriter)(sys.stdout)
