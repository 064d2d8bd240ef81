"""The same model as a custom runtime of MLServer, with its own batching across requests.

``serve.py`` writes its settings and starts it with the Python of an environment that has MLServer.
"""

from __future__ import annotations

import base64
import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from usual import preprocess

from ghostzoo.bundle.folder import Bundle


class Runtime(MLModel):
    async def load(self) -> bool:
        self._bundle = Bundle.open(os.environ["BENCHMARK_BUNDLE"])
        self._session = ort.InferenceSession(self._bundle.model(), providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = [base64.b64decode(text) for text in payload.inputs[0].data]
        pixels = np.concatenate([preprocess(image, self._bundle.preprocessing) for image in images])
        (logits,) = self._session.run(["logits"], {"pixel_values": pixels})
        output = ResponseOutput(name="logits", shape=list(logits.shape), datatype="FP32", data=logits.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
