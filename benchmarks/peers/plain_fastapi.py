"""What most people write: a FastAPI handler that decodes an image and calls ONNX Runtime.

Started by ``serve.py`` with uvicorn. The handler is a plain function, so FastAPI runs it in its pool of threads; the
session has ONNX Runtime's default options, and the pixels go the original's way.
"""

from __future__ import annotations

import os

import onnxruntime as ort
from fastapi import Body, FastAPI
from usual import preprocess

from ghostzoo.bundle.folder import Bundle
from ghostzoo.predictions import softmax, top_predictions

bundle = Bundle.open(os.environ["BENCHMARK_BUNDLE"])
session = ort.InferenceSession(bundle.model(), providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/classify")
def classify(image: bytes = Body(media_type="image/jpeg")) -> dict[str, object]:
    (logits,) = session.run(["logits"], {"pixel_values": preprocess(image, bundle.preprocessing)})
    return {"predictions": [each.to_dict() for each in top_predictions(softmax(logits)[0], bundle.labels, 5)]}
