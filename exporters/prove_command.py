"""``python -m exporters prove``: its options and its output."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from ghostzoo._utils.files import write_atomically
from ghostzoo.cli.bars import steps
from ghostzoo.cli.console import ANY_PATH, Command
from ghostzoo.errors import EngineUnavailableError, InputError
from ghostzoo.images.inputs import expand

_START, _END = "<!-- proof -->", "<!-- /proof -->"
_LIBRARIES = ("timm", "torch", "onnxruntime")


@click.command(cls=Command, short_help="Prove the graphs of timm's models, all in one run.")
@click.option("--images", required=True, type=ANY_PATH, help="Folder of photographs to compare on.")
@click.option("--model", "models", multiple=True, help="A model, such as repghostnet_100.  [default: all with weights]")
@click.option("--weights-dir", type=ANY_PATH, help="Folder with <model>.safetensors.  [default: fetch from the Hub]")
@click.option("--random", "at_random", is_flag=True, help="Take random weights, calibrated on the images.")
@click.option("--write", type=ANY_PATH, help="Page to write the table into, between its marks.")
def prove(images: str, models: tuple[str, ...], weights_dir: str | None, at_random: bool, write: str | None) -> None:
    """Compare timm's forward pass in float64 with PyTorch's graph and ghostzoo's on photographs.

    Every logit must be within 1e-5 of the largest one, and the five best classes the same; the first that is not ends
    the run. Parameters and multiply-adds are counted in the graph. It needs the environment that 'nox -s timm' makes.

    \b
    Examples:
      python -m exporters prove --images photos --write docs/guides/family.md
      python -m exporters prove --images photos --random --model ghostnetv2_100
    """
    if at_random and weights_dir is not None:
        raise click.UsageError("Give --random or --weights-dir, not both.")
    try:
        from exporters import prove as proving
    except ImportError as error:
        raise EngineUnavailableError(
            f"Proving needs timm, PyTorch and torchvision ({error}); run 'nox -s timm', and this with "
            ".venv-timm/bin/python."
        ) from error

    sources = list(expand(images))
    source: proving.Source = proving.hub_source
    description = "timm's weights"
    if at_random:
        source, description = proving.random_source(sources), "random weights calibrated on photographs"
    elif weights_dir is not None:
        source = proving.folder_source(Path(weights_dir))
    names = models or proving.MODELS
    proofs = []
    with steps(len(names) * (2 + len(sources))) as on_step:
        for name in names:
            on_step(f"{name}: reading the weights")
            proofs.append(proving.prove(name, source(name), sources, on_step))
    table = proving.to_markdown(proofs, description, {name: version(name) for name in _LIBRARIES})
    click.echo(table)
    if write is not None:
        _insert(Path(write), table)


def _insert(page: Path, table: str) -> None:
    before, start, rest = page.read_text(encoding="utf-8").partition(_START) if page.is_file() else ("", "", "")
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise InputError(f"{page} has no {_START} ... {_END} to write the table between; add them.")
    write_atomically(page, f"{before}{_START}\n{table}{_END}{after}".encode())
