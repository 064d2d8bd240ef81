"""Write the SHA-256 of the tensors that timm's own transform makes of photographs; needs timm, PyTorch and Pillow.

python -m tests.images.timm_pixels FOLDER... > tests/images/timm_pixels.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def main(folders: list[str]) -> None:
    from exporters.timm_network import import_timm

    import_timm()
    from PIL import Image
    from timm import create_model
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=create_model("repghostnet_050")))
    hashes = {}
    for path in sorted(path for folder in folders for path in Path(folder).iterdir()):
        pixels = transform(Image.open(path).convert("RGB")).numpy()
        hashes[path.name] = hashlib.sha256(pixels.tobytes()).hexdigest()
    print(json.dumps(hashes, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
