"""The server's options: what the command line makes of them, its defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("hypercorn", reason="hypercorn, which the server needs, is not installed here")

from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.cli import main
from ghostzoo.errors import OptionError
from ghostzoo.serve import server
from ghostzoo.serve.options import ServeLimits, ServeOptions

MIB = 2**20


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ServeOptions:
    """What a server is started with for these arguments."""
    seen: list[ServeOptions] = []
    monkeypatch.setattr(server, "serve", seen.append)
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    (options,) = seen
    return options


def test_without_arguments_all_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    options = started(monkeypatch)
    expected: dict[str, Any] = {"models": (), "engines": ("auto",), "device": None, "precision": "fp32"}
    expected |= {"host": "127.0.0.1", "port": 8000, "grpc_port": 8001, "workers": usable_cpus() + 1, "max_batch": 8}
    expected |= {"max_delay": 0.005, "queue_size": 256, "deadline": 30, "write_timeout": 20, "decode_processes": True}
    expected |= {"decode_timeout": 15, "drain_timeout": 30, "api_key": None, "cors_origins": (), "allowed_hosts": ()}
    expected |= {"allow_urls": False, "url_ports": (80, 443), "model_control": False, "page": True, "text_log": False}
    assert {name: getattr(options, name) for name in expected} == expected
    assert options.engine_threads == 1
    limits = options.limits
    assert (limits.max_body_bytes, limits.max_buffered_bytes, limits.max_images) == (64 * MIB, 512 * MIB, 64)
    assert (limits.max_header_bytes, limits.image.max_bytes) == (32 * 1024, 32 * MIB)
    assert (limits.image.max_pixels, limits.image.max_aspect_ratio, limits.image.max_scans) == (50_000_000, 200, 32)


def test_each_argument_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[str, Any]] = {
        "models": ("--model a --model b", ("a", "b")),
        "engines": ("--engine mnn", ("mnn",)),
        "device": ("--device cuda:1", "cuda:1"),
        "precision": ("--precision int8", "int8"),
        "threads": ("--threads 3", 3),
        "host": ("--host 0.0.0.0", "0.0.0.0"),  # noqa: S104
        "port": ("--port 81", 81),
        "grpc_port": ("--no-grpc", None),
        "workers": ("--workers 5", 5),
        "max_batch": ("--max-batch 6", 6),
        "max_delay": ("--max-delay-ms 7", 0.007),
        "queue_size": ("--queue-size 88", 88),
        "deadline": ("--deadline 9", 9),
        "write_timeout": ("--write-timeout 10", 10),
        "decode_processes": ("--no-decode-processes", False),
        "drain_timeout": ("--drain-timeout 0", 0),
        "cors_origins": ("--cors-origin https://a.example", ("https://a.example",)),
        "allowed_hosts": ("--allowed-host a.example", ("a.example",)),
        "allow_urls": ("--allow-urls", True),
        "url_ports": ("--url-port 65535 --url-port 1", (65535, 1)),
        "model_control": ("--model-control", True),
        "page": ("--no-page", False),
        "text_log": ("--log text", True),
    }
    more = "--max-body-mb 3 --max-images 12 --max-pixels 13 --max-aspect-ratio 14 --max-scans 15"
    options = started(monkeypatch, *" ".join([text for text, _ in given.values()] + [more]).split())
    assert {name: getattr(options, name) for name in given} == {name: value for name, (_, value) in given.items()}
    limits = options.limits
    assert (limits.max_body_bytes, limits.image.max_bytes, limits.max_images) == (3 * MIB, 3 * MIB, 12)
    assert limits.max_buffered_bytes == 512 * MIB
    assert (limits.image.max_pixels, limits.image.max_aspect_ratio, limits.image.max_scans) == (13, 14, 15)
    assert options.engine_threads == 3
    assert started(monkeypatch, "--decode-timeout", "16").decode_timeout == 16
    assert started(monkeypatch, "--device", "cuda").engine_threads is None
    assert started(monkeypatch, "--max-body-mb", "700").limits.max_buffered_bytes == 700 * MIB
    assert started(monkeypatch, "--max-body-mb", "3", "--max-buffered-mb", "4").limits.max_buffered_bytes == 4 * MIB


@pytest.mark.parametrize(
    ("name", "least", "refused"),
    [
        ("workers", 1, 0),
        ("max_batch", 1, 0),
        ("queue_size", 64, 63),
        ("max_delay", 0, -0.001),
        ("drain_timeout", 0, -1),
        ("deadline", 0.001, 0),
        ("decode_timeout", 0.001, 0),
        ("write_timeout", 0.001, 0),
        ("url_ports", (1, 65535), ()),
        ("url_ports", (1,), (0,)),
        ("url_ports", (65535,), (65536,)),
        ("allowed_hosts", ("*", "a.b"), ("http://a",)),
        ("cors_origins", ("*", "null", "http://a:1"), ("http://a/",)),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, least: Any, refused: Any) -> None:
    assert getattr(ServeOptions(**{name: least}), name) == least
    with pytest.raises(OptionError):
        ServeOptions(**{name: refused})


def test_limits_that_make_no_sense_are_refused() -> None:
    for name in ("max_body_bytes", "max_header_bytes", "max_images"):
        assert getattr(ServeLimits(**{name: 1}), name) == 1
        with pytest.raises(OptionError, match=f"{name} must be at least 1, not 0"):
            ServeLimits(**{name: 0})
    largest = 2**31 - 1
    assert ServeLimits(max_body_bytes=largest, max_buffered_bytes=largest).max_body_bytes == largest
    for body, buffered in ((largest + 1, largest + 1), (2, 1), (0, 0)):
        with pytest.raises(OptionError):
            ServeLimits(max_body_bytes=body, max_buffered_bytes=buffered)
