"""The real tritonclient against a server: ``triton.py http ADDRESS CASE.npz`` or ``triton.py grpc ADDRESS CASE.npz``.

Prints what each call gave as JSON; runs in an environment of its own, without ghostzoo.
"""

import importlib
import json
import sys

import numpy as np
from tritonclient.utils import InferenceServerException

kind, address, case_file = sys.argv[1:]
client_module = importlib.import_module(f"tritonclient.{kind}")
case = np.load(case_file)
pixels, images = case["pixel_values"], [image.tobytes() for image in (case["first"], case["second"])]
client = client_module.InferenceServerClient(address)


def tensor(name, values, datatype, **options):
    given = client_module.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, **options)
    return given


def results(answer, *names):
    return {name: np.asarray(answer.as_numpy(name)).tolist() for name in names}


def texts(values):
    return [text.decode() for text in np.asarray(values).ravel().tolist()]


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return error.message()
    return None


seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("tiny"),
    "other_ready": client.is_model_ready("other"),
}
as_json = {"as_json": True} if kind == "grpc" else {}
seen["server"] = client.get_server_metadata(**as_json)
seen["model"] = client.get_model_metadata("tiny", **as_json)
by_pixels = client.infer("tiny", [tensor("pixel_values", pixels, "FP32")], request_id="seven")
seen["pixels"] = results(by_pixels, "logits", "scores")
seen["labels"] = texts(by_pixels.as_numpy("labels"))
seen["id"] = by_pixels.get_response()["id"] if kind == "http" else by_pixels.get_response().id
encoded = np.array(images, dtype=np.object_)
seen["images"] = results(client.infer("tiny", [tensor("images", encoded, "BYTES")], model_version="1"), "logits")
outputs = [
    client_module.InferRequestedOutput("logits"),
    client_module.InferRequestedOutput("scores", class_count=2),
]
chosen = client.infer("tiny", [tensor("pixel_values", pixels, "FP32")], outputs=outputs)
seen["chosen"] = results(chosen, "logits")
seen["classification"] = texts(chosen.as_numpy("scores"))
if kind == "http":
    plain = [client_module.InferRequestedOutput(name, binary_data=False) for name in ("logits", "labels")]
    given = tensor("pixel_values", pixels, "FP32", binary_data=False)
    by_json = client.infer("tiny", [given], outputs=plain)
    seen["json"] = results(by_json, "logits", "labels")
    for algorithm in ("gzip", "deflate"):
        packed = client.infer("tiny", [tensor("pixel_values", pixels, "FP32")], request_compression_algorithm=algorithm)
        seen[algorithm] = results(packed, "logits")
if kind == "http":
    seen["async"] = results(client.async_infer("tiny", [tensor("pixel_values", pixels, "FP32")]).get_result(), "logits")
seen["errors"] = [
    error_of(lambda: client.infer("other", [tensor("pixel_values", pixels, "FP32")])),
    error_of(lambda: client.infer("tiny", [tensor("wrong", pixels, "FP32")])),
    error_of(lambda: client.infer("tiny", [tensor("pixel_values", pixels[:, :2], "FP32")])),
    error_of(lambda: client.infer("tiny", [tensor("images", np.array([b"no image"], dtype=np.object_), "BYTES")])),
    error_of(lambda: client.infer("tiny", [tensor("pixel_values", pixels, "FP32")], model_version="2")),
    error_of(lambda: client.load_model("other")),
]
index = client.get_model_repository_index(**as_json)
seen["index"] = index["models"] if kind == "grpc" else index
client.unload_model("tiny")
seen["unloaded"] = {
    "model_ready": client.is_model_ready("tiny"),
    "ready": client.is_server_ready(),
    "error": error_of(lambda: client.infer("tiny", [tensor("pixel_values", pixels, "FP32")])),
}
client.load_model("tiny")
seen["loaded"] = client.is_model_ready("tiny")
seen["after"] = results(client.infer("tiny", [tensor("pixel_values", pixels, "FP32")]), "logits")
print("\n" + json.dumps(seen))
