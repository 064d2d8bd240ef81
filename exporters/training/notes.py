"""The folder of a training run, and what a model card says of it. Imports no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.pdparams"
BUNDLE_FOLDER = "bundle"


def training_notes(*runs: tuple[Mapping[str, Any], str]) -> str:
    """Return the card's section on how the weights were trained, as Markdown.

    Args:
        runs: one after the other, each from the weights of the one before: every choice, as ``Recipe.to_dict`` gives
            them, and what a user typed.
    """
    told = [_run_notes(recipe, command) for recipe, command in runs]
    return "\n\n".join(["## Training", *(["In several runs, one after the other."] if len(runs) > 1 else []), *told])


def _run_notes(recipe: Mapping[str, Any], command: str) -> str:
    return f"""```sh
{command}
```

In full, with seed {recipe["seed"]}:

```json
{json.dumps(recipe, indent=2)}
```"""
