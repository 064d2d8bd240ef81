"""Pictures classified by a Triton server, with ghostzoo's own preprocessing and labels:

ghostzoo export-triton GhostNet_x1_0 --out repository && tritonserver --model-repository repository
python triton_client.py localhost:8000 GhostNet_x1_0 cat.jpg dog.jpg
"""

import sys

import numpy as np
import tritonclient.http as triton  # pip install "tritonclient[http]"

import ghostzoo
from ghostzoo.predictions import Choice


def classify(address, model, pictures, top_k=5):
    """Return the classes of each picture, best first; MODEL is the one that was exported, by its name or folder."""
    classifier = ghostzoo.load(model)
    pixels = np.stack([classifier.read_tensor(picture)[0] for picture in pictures])
    tensor = triton.InferInput("pixel_values", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(address) as server:
        logits = server.infer(classifier.bundle.name, [tensor]).as_numpy("logits")
    return classifier.bundle.postprocessing.predictions(logits, Choice(top_k))


if __name__ == "__main__":
    for name, found in zip(sys.argv[3:], classify(*sys.argv[1:3], sys.argv[3:]), strict=True):
        sys.stdout.write(f"{name}: " + ", ".join(f"{each.label} ({each.score:.1%})" for each in found) + "\n")
