"""``python -m ghostzoo`` is the ``ghostzoo`` command."""

from .cli import main

if __name__ == "__main__":
    main()
