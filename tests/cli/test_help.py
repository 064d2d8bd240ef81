"""What ``--help`` says of each command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from exporters.cli import main as exporters
from ghostzoo.cli import main
from ghostzoo.cli.cache import cache
from hub.cli import main as hub

COMMANDS = [[name] for name in main.list_commands(click.Context(main))] + [["cache", name] for name in cache.commands]


def help_of(*command: str, program: click.Command = main) -> str:
    result = CliRunner().invoke(program, [*command, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("program", [main, cache, exporters, hub])
def test_the_list_of_commands_cuts_no_sentence(program: click.Command) -> None:
    _, _, commands = help_of(program=program).partition("Commands:\n")
    assert commands
    assert all(line.endswith(".") and not line.endswith("...") for line in commands.splitlines())


@pytest.mark.parametrize("command", [*COMMANDS, []], ids=" ".join)
def test_help_fits_eighty_columns_and_shows_examples(command: list[str]) -> None:
    text = help_of(*command)
    assert max(map(len, text.splitlines())) <= 80
    _, _, examples = text.partition("Examples:\n")
    assert " ".join(["    ghostzoo", *command]) in examples
