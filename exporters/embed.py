"""``python -m exporters embed``: make the result of a training run the bundled model of the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from exporters.training.reporting import BUNDLE_FOLDER, RUN_FILE, WEIGHTS_FILE, training_section
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import DEFAULT_MODEL, CatalogModel, get_model
from ghostzoo.cli.console import Command
from ghostzoo.converter import Provenance, write_model_bundle
from ghostzoo.errors import InputError
from ghostzoo.fetch.resolver import BUNDLED_FOLDER
from ghostzoo.weights.params import read_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
_MEASURED = ("top1", "top5", "images", "data", "photographs")


@click.command(cls=Command, short_help="Make a training run the bundled model of the package.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="[EARLIER_RUN]... RUN")
def embed(runs: tuple[Path, ...]) -> None:
    """Make the result of the training RUN the bundled model of the package.

    The model card also describes the earlier runs that it started from. Accuracy and limits come from the catalog:
    measure with 'ghostzoo eval --out' first, and copy its report to ghostzoo/data. The weights go to examples/, where
    other runs can start from them; the bundle goes to ghostzoo/models.

    \b
    Examples:
      ghostzoo eval --model GhostNet_x0_5_cifar10/bundle --data cifar10-test-dev.tar --out report
      python -m exporters embed first GhostNet_x0_5_cifar10
    """
    *earlier, run = runs
    bundle = embed_run(run, BUNDLED_FOLDER, EXAMPLES, get_model(DEFAULT_MODEL), earlier=earlier)
    size = sum(record.size for record in bundle.manifest.files.values())
    click.echo(f"wrote {bundle.path}, {size / 1e6:.2f} MB", err=True)


def embed_run(run: Path, models: Path, examples: Path, record: CatalogModel, *, earlier: Sequence[Path] = ()) -> Bundle:
    """Write the run's weights to ``examples``, and its bundle, with the catalog's figures in the card, to ``models``.

    The graph is rebuilt from the weights and checked against the golden vectors of the trained network. The size that
    images are resized to before the crop is the catalog's; training does not depend on it.

    Args:
        run: the folder of a finished training run.
        models: the folder of the bundled models.
        examples: the folder for the weights.
        record: the model's record in the catalog.
        earlier: the runs before it, each of which started from the weights of the previous one; ``run.json`` is enough.

    Raises:
        InputError: the run is not finished, or an earlier one's record is missing.
        GhostZooError: the weights do not fit the record, or the graph does not compute what the network did.
    """
    told = [*(_read_run(folder, RUN_FILE) for folder in earlier), _read_run(run, RUN_FILE, WEIGHTS_FILE, BUNDLE_FOLDER)]
    trained = Bundle.open(run / BUNDLE_FOLDER)
    weights = read_weights(run / WEIGHTS_FILE, width=record.width, num_classes=record.num_classes)
    if trained.manifest.weights["sha256"] != weights.sha256:
        raise InputError(f"{run / WEIGHTS_FILE} are not the weights of {run / BUNDLE_FOLDER}; train again.")
    size, ours = trained.preprocessing.crop_size, record.preprocessing.crop_size
    if size != ours:
        raise InputError(f"{run} was trained for {size} pixels; the catalog says {ours} of {record.name}.")
    kept = examples / f"{record.name}.pdparams"
    shutil.copyfile(run / WEIGHTS_FILE, kept)
    notes = f"{_result_notes(record)}\n\n{training_section(*told)}"
    return write_model_bundle(
        read_weights(kept),
        models / record.name,
        model_name=record.name,
        labels=trained.labels,
        preprocessing=record.preprocessing,
        provenance=Provenance(
            record,
            golden=trained.golden(),
            validation=_validation(trained, record),
            tools={name: text for name, text in trained.manifest.created_by.items() if name == "torch"},
            card_notes=notes,
        ),
        overwrite=True,
    )


def _read_run(folder: Path, *needed: str) -> tuple[dict[str, Any], str]:
    """Return recipe and command line of a run whose folder must have the ``needed`` files."""
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; is it the folder of a finished training run?")
    facts = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    return facts["recipe"], facts["command"]


def _validation(trained: Bundle, record: CatalogModel) -> dict[str, Any]:
    report = {name: value for name, value in trained.manifest.validation.items() if name != "golden_check"}
    measured = asdict(record.measured) if record.measured else {}
    return {**report, "measured": {name: measured[name] for name in _MEASURED if measured.get(name)}}


def _result_notes(record: CatalogModel) -> str:
    measured = record.measured
    if measured is None:
        return ""
    photographs = f" It recognised {measured.photographs}." if measured.photographs else ""
    return f"""## Result and limits

Top-1 {measured.top1:.4f}, top-5 {measured.top5:.4f}: measured with `ghostzoo eval` on {measured.data} \
({measured.images:,} images), on which it was not trained.{photographs}

{record.limits}"""
