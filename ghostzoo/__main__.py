"""``python -m ghostzoo`` is the ``ghostzoo`` command."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from .cli import main as command

        command()
    except KeyboardInterrupt:  # while the command line itself is being imported
        print("Interrupted.", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
