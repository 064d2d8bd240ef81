"""The folder of a training run, and what a model card says of it. Imports no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.pdparams"
BUNDLE_FOLDER = "bundle"


def training_notes(recipe: Mapping[str, Any], command: str) -> str:
    """Return the card's section on how the weights were trained, as Markdown.

    Args:
        recipe: every choice, as ``Recipe.to_dict`` gives them.
        command: what a user typed.
    """
    return f"""## Training

```sh
{command}
```

In full, with seed {recipe["seed"]}:

```json
{json.dumps(recipe, indent=2)}
```"""
