"""``ghostzoo eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bars import progress
from .console import ANY_PATH, Command, echo, percent, print_table
from .options import BUNDLED_MODEL, engine_options, fetch_options, image_options, model_option
from .results import report_damaged, report_unreadable

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..evaluation.calibrate import CalibrationReport
    from ..evaluation.datasets import ImageDataset
    from ..evaluation.evaluate import Evaluation, Proportion
    from ..evaluation.multi_label import MultiLabelEvaluation


@click.command("eval", cls=Command)
@model_option
@click.option("--data", required=True, type=ANY_PATH, help="One folder per class, a .tar of these, or a .txt list.")
@fetch_options
@engine_options
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images per engine call.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="Lowest score of a class that counts; multi-label only.  [default: 0.5]",
)
@image_options
@click.option("--calibrate", is_flag=True, help="Measure the model's confidence, and write it into its bundle.")
@click.option("--calibrated-copy", type=ANY_PATH, help="Bundle folder for --calibrate to make instead.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only so many images, spread evenly over the data.")
@click.option("--out", type=ANY_PATH, help="Folder for report.json, classes.csv and pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def eval_command(
    model: str | None,
    data: str,
    batch_size: int,
    min_score: float | None,
    calibrate: bool,
    calibrated_copy: str | None,
    limit: int | None,
    out: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a model's accuracy on labelled images.

    Classes are matched by WordNet id, label or index. A list has a line '<path> <class index>' for each image, like the
    one that comes with ImageNet's validation set. For a multi-label model it has a line '<path><tab>0,1,0,...', and
    mean average precision and F1 are measured. Unreadable images are listed and make the exit status 1.

    \b
    Examples:
      ghostzoo eval --model GhostNet_x1_0 --data imagenet/val
      ghostzoo eval --model GhostNet_x1_0 --data val_list.txt --limit 5000
      ghostzoo eval --model ./flowers --data flowers.tar --out report
      ghostzoo eval --model ./flowers --data flowers.tar --calibrate
    """
    from ..errors import OptionError
    from ..evaluation.calibrate import check_calibration, write_calibration
    from ..evaluation.evaluate import Evaluation, open_labelled, take_evenly
    from ..evaluation.multi_label import open_multi_label
    from ..evaluation.report import check_folder, write_report
    from ..loading import announce_bundled, load

    with load(BUNDLED_MODEL if model is None else model, **options) as classifier:
        multi_label = classifier.bundle.config.multi_label
        if min_score is not None and not multi_label:
            raise OptionError(f"{classifier.bundle.name} is not a multi-label model; leave out --min-score.")
        copy = None if calibrated_copy is None else Path(calibrated_copy)
        if copy is not None and not calibrate:
            raise OptionError("--calibrated-copy is where --calibrate writes; give both.")
        if calibrate:
            check_calibration(classifier.bundle, copy)
        if out is not None:
            check_folder(Path(out), pictures=not multi_label)
        open_data = open_multi_label if multi_label else open_labelled
        dataset = take_evenly(open_data(data, classifier.bundle.labels), limit)
        with progress(len(dataset.samples), "evaluating") as advance:
            common = {"data": Path(data).resolve().name, "batch_size": batch_size, "on_image": advance}
            result = _evaluate(classifier, dataset, min_score, calibrate, common)
        written = None
        if isinstance(result, Evaluation) and result.calibration is not None:
            written = write_calibration(classifier.bundle, result.calibration, Path(data).resolve().name, copy)
    if model is None:
        announce_bundled()
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _print_evaluation(result)
    if written is not None:
        click.echo(f"{written.name}: wrote the calibration to {written.path}", err=True)
    if out is not None:
        names = ", ".join(path.name for path in write_report(result, Path(out)))
        click.echo(f"Wrote {names} to {out}", err=True)
    report_damaged(result.damaged)
    report_unreadable(result.unreadable, len(dataset.samples), dataset.passed_over)


def _evaluate(
    classifier: Classifier, dataset: ImageDataset, min_score: float | None, calibrated: bool, options: dict[str, Any]
) -> Evaluation | MultiLabelEvaluation:
    from ..catalog import find_record
    from ..evaluation.evaluate import evaluate
    from ..evaluation.multi_label import evaluate_multi_label

    bundle = classifier.bundle
    if bundle.config.multi_label:
        return evaluate_multi_label(classifier, dataset, min_score=min_score, **options)
    record = find_record(bundle.name, bundle.manifest.weights.get("source_url"))
    published = record.published if record is not None else None
    return evaluate(classifier, dataset, published=published, calibrated=calibrated, **options)


def _print_evaluation(result: Evaluation | MultiLabelEvaluation) -> None:
    from ..evaluation.evaluate import Evaluation

    if isinstance(result, Evaluation):
        _print_single_label(result)
    else:
        _print_multi_label(result)


def _print_multi_label(result: MultiLabelEvaluation) -> None:
    facts = result.to_dict()
    print_table(
        ["class", "images", "average precision", "F1", "recall", "precision"],
        [
            [
                row["label"],
                str(row["recall"]["total"]),
                "-" if row["average_precision"] is None else f"{row['average_precision']:.4f}",
                f"{row['f1']:.4f}",
                _percent(row["recall"]),
                _percent(row["precision"]),
            ]
            for row in facts["classes"]
        ],
    )
    rows = [
        ["mean average precision", f"{result.mean_average_precision:.4f}"],
        [f"F1 from {result.threshold:g} on, classes together", f"{result.micro_f1:.4f}"],
        [f"F1 from {result.threshold:g} on, mean of the classes", f"{result.macro_f1:.4f}"],
    ]
    print_table([result.model, "measured"], rows, caption=_speed_of(result))


def _speed_of(result: Evaluation | MultiLabelEvaluation) -> str:
    engine = "{engine} {version} on {device}".format_map(result.engine)
    return f"{result.to_dict()['images']:,} images, {result.images_per_second:.1f} a second, {engine}"


def _print_single_label(result: Evaluation) -> None:
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
    echo("")
    print_table(columns, rows, caption=_speed_of(result))
    if result.calibration is not None:
        _print_calibration(result.calibration)


def _print_calibration(report: CalibrationReport) -> None:
    rows = [
        ["temperature", f"{1:.4f}", f"{report.calibration.temperature:.4f}"],
        ["expected calibration error (ECE)", f"{report.before.error:.4f}", f"{report.after.error:.4f}"],
    ]
    caption = (
        f"temperature fitted to {report.fitted_on:,} images, the error measured on {report.calibration.images:,} others"
    )
    echo("")
    print_table(["confidence", "before", "after"], rows, caption=caption)


def _shown(proportion: Proportion) -> tuple[str, str]:
    low, high = proportion.interval
    return f"{proportion.value:.4f}", f"{low:.4f} to {high:.4f}"


def _percent(proportion: dict[str, Any]) -> str:
    return "-" if proportion["value"] is None else percent(proportion["value"])
