"""``python -m exporters export``: its options and its output."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ghostzoo.bundle.edit import check_target
from ghostzoo.cli.bars import steps
from ghostzoo.cli.console import ANY_PATH, Command, print_table
from ghostzoo.errors import InputError
from ghostzoo.images.inputs import expand

if TYPE_CHECKING:
    from exporters.export import Export

_EXAMPLES = Path(__file__).parents[1] / "examples"


@click.command(cls=Command, short_help="Turn Paddle weights into a bundle, proven equal to Paddle.")
@click.option("--model", help="Catalog model.  [e.g. GhostNet_x1_0]")
@click.option("--name", help="Name of your own model; its width is taken from the weights.")
@click.option("--weights", type=ANY_PATH, help="A .pdparams file.")
@click.option("--prefix", help="Take the network whose keys begin so, of several in the file.  [e.g. Student.]")
@click.option("--archive", type=ANY_PATH, help="An inference archive (.tar) instead of weights.")
@click.option("--all", "every", is_flag=True, help="All models of the catalog, from --weights-dir.")
@click.option("--weights-dir", type=ANY_PATH, help="Folder with <model>_pretrained.pdparams files, for --all.")
@click.option("--out", required=True, type=ANY_PATH, help="The bundle folder to make; with --all, their parent.")
@click.option("--labels", type=ANY_PATH, help="Class names: a text or an inference.yml.  [default: ImageNet's]")
@click.option("--multi-label", is_flag=True, help="As for 'ghostzoo convert'; not with --all.")
@click.option("--images", type=ANY_PATH, help="Folder of photographs to compare on.  [default: examples/]")
@click.option("--overwrite", is_flag=True, help="Replace existing bundles.")
def export(
    model: str | None,
    name: str | None,
    weights: str | None,
    archive: str | None,
    every: bool,
    weights_dir: str | None,
    out: str,
    images: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Turn Paddle weights into a bundle, proven equal to Paddle on real images.

    Three routes must agree on every image: Paddle's own forward pass, paddle2onnx's graph and ghostzoo's graph in ONNX
    Runtime. Otherwise nothing is written.

    \b
    Examples:
      python -m exporters export --model GhostNet_x1_0 --weights GhostNet_x1_0_pretrained.pdparams \\
          --images photos --out GhostNet_x1_0
      python -m exporters export --all --weights-dir weights --images photos --out bundles
      python -m exporters export --model GhostNet_x1_0 --archive GhostNet_x1_0_infer.tar \\
          --images photos --out GhostNet_x1_0
    """
    chosen = [option for option, value in (("weights", weights), ("archive", archive), ("all", every)) if value]
    if len(chosen) != 1:
        raise click.UsageError("Give one of --weights, --archive and --all.")
    if every != (weights_dir is not None):
        raise click.UsageError("--all and --weights-dir belong together.")
    if every and (model or name or options["multi_label"]):
        raise click.UsageError("--all exports the models of the catalog; leave out --model, --name and --multi-label.")
    if not every and model is None and name is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    sources = list(expand(images or _example_photographs()))
    jobs = _jobs(Path(weights_dir), Path(out)) if weights_dir else [(model, weights, Path(out))]
    for _, _, target in jobs:
        check_target(target, overwrite)
    exporting = _import_export()
    exports = []
    try:
        with steps(len(jobs) * (exporting.STEPS + len(sources))) as on_step:
            for job_model, job_weights, target in jobs:

                def report(step: str, subject: str | None = job_model or name) -> None:
                    on_step(f"{subject}: {step}")

                exports.append(
                    exporting.export_model(
                        target,
                        sources,
                        weights=job_weights,
                        archive=archive,
                        model=job_model,
                        name=name,
                        overwrite=overwrite,
                        on_step=report,
                        **options,
                    )
                )
    finally:  # report what was written, even if a later one fails
        for result in exports:
            _print_report(result)


def _example_photographs() -> str:
    if not _EXAMPLES.is_dir():
        raise click.UsageError("Give --images: a folder of photographs.")
    return str(_EXAMPLES)


def _jobs(weights_dir: Path, out: Path) -> list[tuple[str, Path, Path]]:
    from ghostzoo.catalog import list_official_models

    jobs = [(name, weights_dir / f"{name}_pretrained.pdparams", out / name) for name in list_official_models()]
    missing = [path.name for _, path, _ in jobs if not path.is_file()]
    if missing:
        raise InputError(f"{weights_dir} lacks {', '.join(missing)}; download them, or export the others one by one.")
    return jobs


def _import_export() -> Any:
    os.environ.setdefault("GLOG_minloglevel", "2")  # or Paddle's log lines mix with our output
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
    from exporters import export as exporting

    return exporting


def _print_report(export: Export) -> None:
    comparison, counts = export.comparison, export.counts
    rows = []
    for route in comparison.agreements:
        agreement = comparison.summary(route)
        rows.append(
            [
                route,
                f"{agreement.max_difference:.2e}",
                f"{agreement.relative:.2e}",
                "equal" if agreement.top5_equal else "different",
                Path(comparison.worst_image(route)).name,
            ]
        )
    caption = f"against {comparison.reference} on {len(comparison.images)} images"
    print_table([export.bundle.name, "max difference", "of the scale", "top-5", "worst image"], rows, caption=caption)
    report = export.bundle.manifest.validation["counts"]
    padding = counts.padded_multiply_adds / counts.multiply_adds - 1
    rows = [
        ["parameters", f"{counts.parameters / 1e6:.2f} M", *_published(report, "parameters")],
        ["multiply-adds", f"{counts.operations / 1e6:.2f} M", *_published(report, "multiply_adds")],
        ["padding", f"{100 * padding:.1f} % multiply-adds", "", ""],
    ]
    print_table([export.bundle.name, "as PaddleClas counts", "published", "agree"], rows)
    click.echo(f"Wrote {export.bundle.path}")


def _published(counts: dict[str, Any], name: str) -> tuple[str, str]:
    if f"{name}_agree" not in counts:
        return "-", "-"
    return f"{counts[f'published_{name}_millions']:.2f} M", "yes" if counts[f"{name}_agree"] else "no"
