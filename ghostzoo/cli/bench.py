"""``ghostzoo bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..catalog import DEFAULT_MODEL
from .bars import steps
from .console import ANY_PATH, Command, print_prose, print_table
from .options import fetch_options

if TYPE_CHECKING:
    from ..bench.results import Results
    from ..bench.tables import Table


class _Counts(click.ParamType):  # type: ignore[type-arg]  # older versions of click have none
    """Numbers such as ``1,2,4``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(dict.fromkeys(int(part) for part in value.split(",")))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} is not a list of whole numbers from 1, such as 1,2,4.", param, ctx)
        return counts


@click.command(cls=Command)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@fetch_options
@click.option("--engine", "engines", multiple=True, help="Engine; may be repeated.  [default: all that are installed]")
@click.option(
    "--precision", "precisions", multiple=True, help="fp32, fp16, int8 or bf16; may be repeated.  [default: fp32]"
)
@click.option(
    "--threads",
    type=_Counts(),
    default="1,2,4",
    show_default=True,
    help="Thread counts, at batch size 1.",
)
@click.option(
    "--batch-sizes",
    type=_Counts(),
    default="1,4,8",
    show_default=True,
    help="At the first thread count.",
)
@click.option("--seconds", type=click.FloatRange(min=0), default=4.0, show_default=True, help="To measure each row.")
@click.option("--image", type=ANY_PATH, help="Image to classify.  [default: a generated JPEG of 500 x 375 pixels]")
@click.option("--out", type=ANY_PATH, help="Folder for bench.md, bench.json and bench.png.")
@click.option("--compare", type=ANY_PATH, help="bench.json of an earlier run to compare with.")
@click.option("--wide", is_flag=True, help="Print all columns, and the published figures; needs 175 columns.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    models: tuple[str, ...],
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    seconds: float,
    image: str | None,
    out: str | None,
    compare: str | None,
    wide: bool,
    as_json: bool,
    **fetching: Any,
) -> None:
    """Measure the speed of models on this machine.

    MODELs are names or bundle folders. Every engine runs with several numbers of threads and several batch sizes. They
    take turns, so that whatever else the machine does slows all of them alike; the remaining noise is printed.

    \b
    Examples:
      ghostzoo bench
      ghostzoo bench GhostNet_x0_5 GhostNet_x1_0 --engine onnxruntime --out report
      ghostzoo bench --compare report/bench.json
    """
    from .._utils.plots import require_matplotlib
    from ..bench.measure import installed_engines, plan_cells, run_bench
    from ..bench.results import Results
    from ..bench.sample_image import open_picture
    from ..bench.tables import INT8_SPEED, core_tables, photograph_notes, result_tables
    from ..bench.tables import compare as compare_results
    from ..errors import InputError
    from ..fetch.options import FetchOptions

    old = Results.read(Path(compare)) if compare is not None else None
    if out is not None:
        require_matplotlib()
    models = models or (DEFAULT_MODEL,)
    cells = plan_cells(models, engines or installed_engines(), precisions or ("fp32",), threads, batch_sizes)
    if old is not None and not any(old.find(cell) for cell in cells):
        raise InputError(f"{compare} has no measurement in common with this run; name the models as they were then.")
    if any(cell.precision == "int8" for cell in cells):
        print_prose(INT8_SPEED, err=True)
    picture = open_picture(Path(image)) if image is not None else None
    with steps(len(cells) + len(models)) as on_step:
        results = run_bench(cells, seconds=seconds, picture=picture, fetching=FetchOptions(**fetching), on_step=on_step)
    comparison = [] if old is None else compare_results(results, old)
    if as_json:
        click.echo(results.to_json().decode(), nl=False)
        for table in comparison:
            click.echo(table.to_markdown(), err=True)
    else:
        for table in (result_tables(results) if wide else core_tables(results)) + comparison:
            print_prose(table.title)
            print_table(table.columns, table.rows)
            click.echo()
        if wide:
            print_prose("\n".join(photograph_notes(results.models)))
    if results.warning is not None:
        advice = "Close other programs, or measure longer (--seconds)."
        print_prose(f"Warning: {results.warning} {advice}", err=True)
    for line in results.left_out_lines():
        click.echo(line, err=True)
    if out is not None:
        _write(results, comparison, Path(out))


def _write(results: Results, comparison: list[Table], folder: Path) -> None:
    from .._utils.files import write_atomically
    from ..bench.plot import draw
    from ..bench.tables import to_markdown
    from ..errors import InputError

    contents = {
        "bench.md": "\n".join([to_markdown(results), *(f"{table.to_markdown()}\n" for table in comparison)]).encode(),
        "bench.json": results.to_json(),
        "bench.png": draw(results),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise InputError(f"Cannot write the report to {folder}: {error.strerror or error}.") from error
    click.echo(f"Wrote {', '.join(contents)} to {folder}", err=True)
