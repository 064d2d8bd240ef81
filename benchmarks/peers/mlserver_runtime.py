"""The same model as a custom runtime of MLServer, with its own batching across requests.

``serve.py`` writes its settings and starts it with the Python of an environment that has MLServer.
"""

from __future__ import annotations

import base64
import os

import cv2
import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from ghostzoo.bundle.folder import Bundle
from ghostzoo.images.preprocess import preprocess


class Runtime(MLModel):
    async def load(self) -> bool:
        self._bundle = Bundle.open(os.environ["BENCHMARK_BUNDLE"])
        self._session = ort.InferenceSession(self._bundle.model(), providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = []
        for text in payload.inputs[0].data:
            data = base64.b64decode(text)
            rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            pixels.append(preprocess(rgb, self._bundle.preprocessing))
        (logits,) = self._session.run(["logits"], {"pixel_values": np.stack(pixels)})
        output = ResponseOutput(name="logits", shape=list(logits.shape), datatype="FP32", data=logits.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
