"""The messages of bRPC, against those of Paddle Serving's own client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ghostzoo.serve.brpc import messages
from ghostzoo.serve.request_errors import RequestError
from tests.fixtures.brpc import message


def test_requests_are_read_as_the_client_writes_them() -> None:
    request, tensor = message("Request"), message("Tensor")
    floats = tensor(elem_type=1, shape=[1, 3], float_data=[0.5, -1, 2], name="image", alias_name="x", lod=[0])
    content = tensor(elem_type=1, shape=[300, 2], tensor_content=b"\0\0\x80?")
    images = tensor(elem_type=20, data=[b"one", b"two"])
    given = request(tensor=[floats, content, images], fetch_var_names=["a", "b"], log_id=2**63, profile_server=True)
    found = messages.parse_request(given.SerializeToString(), 8)
    assert (found.fetch, found.log_id) == (["a", "b"], 2**63)
    first, second, third = found.tensors
    assert (first.elem_type, first.shape, first.content, first.images) == (messages.FLOAT32, [1, 3], None, [])
    np.testing.assert_array_equal(first.floats(), np.array([0.5, -1, 2], np.float32))
    assert messages.parse_request(request().SerializeToString(), 8).log_id == 0
    assert (second.shape, bytes(second.content or b"")) == ([300, 2], b"\0\0\x80?")
    assert (third.elem_type, [bytes(image) for image in third.images]) == (messages.STRING, [b"one", b"two"])


def test_floats_may_come_one_by_one() -> None:
    """As version 2 of protobuf writes them, before and behind other fields."""
    one, two = (b"\x15" + np.float32(value).tobytes() for value in (1, 2))
    shape = message("Tensor")(elem_type=1, shape=[1, 3]).SerializeToString()
    for tensor in (one * 2 + two + shape, shape + one * 2 + two, one + shape + one + two):
        (found,) = messages.parse_request(b"\x0a" + bytes([len(tensor)]) + tensor, 8).tensors
        assert (found.shape, found.floats().tolist()) == ([1, 3], [1, 1, 2])


def test_answers_are_what_the_client_reads() -> None:
    written = messages.message("Response")(log_id=7)
    tensor = {"name": "a", "alias_name": "b", "elem_type": 1, "shape": [1, 2], "float_data": [0.5, 2]}
    written.outputs.add(engine_name="e").tensor.add(tensor_content=b"12", **tensor)
    read = message("Response")(log_id=7)
    read.outputs.add(engine_name="e").tensor.add(tensor_content=b"12", **tensor)
    assert message("Response").FromString(written.SerializeToString()) == read


@pytest.mark.parametrize(("write", "read"), [(message, messages.message), (messages.message, message)])
def test_both_sides_understand_each_others_metadata(write: Any, read: Any) -> None:
    meta = write("RpcMeta")(correlation_id=2**40, compress_type=2, attachment_size=3, authentication_data=b"key")
    meta.request.service_name, meta.request.method_name = "service", "method"
    meta.response.error_code, meta.response.error_text = 1003, "text"
    found = read("RpcMeta").FromString(meta.SerializeToString())
    for name in ("correlation_id", "compress_type", "attachment_size", "authentication_data"):
        assert getattr(found, name) == getattr(meta, name), name
    assert (found.request.service_name, found.request.method_name) == ("service", "method")
    assert (found.response.error_code, found.response.error_text) == (1003, "text")


def test_shapes_and_fields_without_end_are_refused() -> None:
    tensor = message("Tensor")(elem_type=1, shape=[2**20] * 100)
    with pytest.raises(RequestError, match="cannot be decoded"):
        messages.parse_request(message("Request")(tensor=[tensor]).SerializeToString(), 8)
    cut = b"\x12\x03abc"  # three bytes of packed floats
    (broken,) = messages.parse_request(b"\x0a" + bytes([len(cut)]) + cut, 8).tensors
    with pytest.raises(RequestError, match="cannot be decoded"):
        broken.floats()
