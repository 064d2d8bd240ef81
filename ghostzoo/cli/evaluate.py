"""``ghostzoo eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import ANY_PATH, Command, print_table, progress
from .options import engine_options, fetch_options, image_options, model_option
from .unreadable import report_damaged, report_unreadable

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation, Proportion


@click.command("eval", cls=Command)
@model_option
@click.option("--data", required=True, type=ANY_PATH, help="Folder a class, .tar of one, or .txt list file.")
@fetch_options
@engine_options
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images a call.")
@image_options
@click.option("--limit", type=click.IntRange(min=1), help="Take this many images, spread evenly over the data.")
@click.option("--out", type=ANY_PATH, help="Folder for report.json, classes.csv, confusion.png, mistakes.png.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def eval_command(
    model: str | None, data: str, batch_size: int, limit: int | None, out: str | None, as_json: bool, **options: Any
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
    from ..catalog import find_record
    from ..evaluation.evaluate import evaluate, open_labelled, take_evenly
    from ..loading import load

    if out is not None:
        from ..evaluation.report import check_folder, write_report

        check_folder(Path(out))
    with load(model, **options) as classifier:
        dataset = take_evenly(open_labelled(data, classifier.bundle.labels), limit)
        record = find_record(classifier.bundle.name, classifier.bundle.manifest.weights.get("source_url"))
        with progress(len(dataset.samples), "evaluating") as advance:
            result = evaluate(
                classifier,
                dataset,
                data=Path(data).resolve().name,
                published=record.published if record is not None else None,
                batch_size=batch_size,
                on_image=advance,
            )
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_evaluation(result)
    if out is not None:
        click.echo(f"Wrote {', '.join(map(str, write_report(result, Path(out))))}", err=True)
    report_damaged(result.damaged)
    report_unreadable(result.unreadable, len(dataset.samples), dataset.passed_over)


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
