"""Reads untrusted YAML as strings, lists and dicts only, at bounded cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAX_YAML_BYTES = 2**19
"""A list of 20,000 classes has 400 KB."""
_MAX_DEPTH = 32
"""Parsing time is quadratic in the depth."""


def load_yaml(path: Path) -> Any:
    """Read a YAML file; every scalar stays a string, as written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid YAML, too large or too deeply nested.
    """
    import yaml  # imported only where such a file is read

    with path.open("rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES} bytes")
    try:
        depth = 0
        for event in yaml.parse(data, yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        return yaml.load(data, yaml.BaseLoader)  # noqa: S506  # creates only strings, lists and dicts
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
