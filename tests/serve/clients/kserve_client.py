"""KServe's own clients against a server: ``kserve_client.py rest URL CASE.npz``, or ``grpc ADDRESS CASE.npz``."""

import asyncio
import base64
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

kind, address, case_file = sys.argv[1:]
case = np.load(case_file)
pixels, images = case["pixel_values"], [image.tobytes() for image in (case["first"], case["second"])]


def request(**parameters):
    given = InferInput("pixel_values", list(pixels.shape), "FP32")
    given.set_data_from_numpy(pixels, binary_data=parameters.pop("binary"))
    return InferRequest("tiny", [given], request_id="seven")


def results(answer):
    by_name = {output.name: output.as_numpy() for output in answer.outputs}
    return {"logits": by_name["logits"].tolist(), "scores": by_name["scores"].tolist(), "id": answer.id}


async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    seen = {
        "live": await client.is_server_live(address),
        "ready": await client.is_server_ready(address),
        "model_ready": await client.is_model_ready(address, "tiny"),
        "pixels": results(await client.infer(address, request(binary=False), model_name="tiny")),
        "binary": results(await client.infer(address, request(binary=True), model_name="tiny")),
    }
    texts = [base64.b64encode(image).decode() for image in images]
    given = InferInput("images", [len(images)], "BYTES", data=texts)
    seen["images"] = results(await client.infer(address, InferRequest("tiny", [given]), model_name="tiny"))
    await client.close()
    return seen


async def grpc():
    client = InferenceGRPCClient(address)
    seen = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("tiny"),
        "pixels": results(await client.infer(request(binary=False))),
        "binary": results(await client.infer(request(binary=True))),
    }
    given = InferInput("images", [len(images)], "BYTES")
    given.set_data_from_numpy(np.array(images, dtype=np.object_), binary_data=True)
    seen["images"] = results(await client.infer(InferRequest("tiny", [given])))
    await client.close()
    return seen


print("\n" + json.dumps(asyncio.run(rest() if kind == "rest" else grpc())))
