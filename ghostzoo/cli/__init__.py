"""The command line: a module a command; each parses and prints, and decides nothing.

Data goes to stdout, everything else to stderr. A command's module is imported when the command is called.
"""

from __future__ import annotations

import click

from .._version import __version__
from .console import LazyGroup

_COMMANDS = {
    "list": "ghostzoo.cli.models:list_command",
    "info": "ghostzoo.cli.models:info",
    "predict": "ghostzoo.cli.predict:predict",
    "explain": "ghostzoo.cli.explain:explain",
    "batch": "ghostzoo.cli.batch:batch",
    "eval": "ghostzoo.cli.evaluate:eval_command",
    "fit": "ghostzoo.cli.fit:fit",
    "index": "ghostzoo.cli.similar:index",
    "search": "ghostzoo.cli.similar:search",
    "dedup": "ghostzoo.cli.similar:dedup",
    "bench": "ghostzoo.cli.bench:bench",
    "serve": "ghostzoo.cli.serve:serve",
    "pull": "ghostzoo.cli.pull:pull",
    "cache": "ghostzoo.cli.cache:cache",
    "doctor": "ghostzoo.cli.doctor:doctor",
    "convert": "ghostzoo.cli.convert:convert",
    "build-engine": "ghostzoo.cli.build_engine:build_engine",
    "export-triton": "ghostzoo.cli.export_triton:export_triton",
}
"""Name -> module and command, in the order of the help."""


@click.group(cls=LazyGroup, commands=_COMMANDS)
@click.version_option(__version__, message="ghostzoo %(version)s")
def main() -> None:
    """GhostNet image classifiers as ONNX models that are proven equal to the original.

    \b
    Examples:
      ghostzoo predict cat.jpg
      ghostzoo predict photos/ --model GhostNet_x1_0
      ghostzoo list
    """
