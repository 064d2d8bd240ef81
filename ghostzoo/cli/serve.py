"""``ghostzoo serve``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import click

from ..catalog import DEFAULT_MODEL
from ..errors import EngineUnavailableError
from .console import INTERRUPTED, Command
from .options import fetch_options

_LIBRARIES = ("fastapi", "fastapi_offline", "grpc", "hypercorn", "prometheus_client", "python_multipart")


@click.command(cls=Command, short_help="Serve models over REST, gRPC and a web page.")
@click.option("--model", "models", multiple=True, help=f"May be repeated.  [default: {DEFAULT_MODEL}]")
@fetch_options
@click.option("--engine", "engines", multiple=True, default=["auto"], show_default=True, help="May be repeated.")
@click.option("--device", help="Device, by the engine's name for it.  [default: the CPU]")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32; fp16 or int8 if the bundle has it; bf16 if the CPU has it.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads per engine call.  [default: 1]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0 takes a free one.")
@click.option("--grpc/--no-grpc", default=True, show_default=True, help="Speak gRPC too.")
@click.option(
    "--brpc-port", type=click.IntRange(0, 65535), help="Answer clients of Paddle Serving's C++ server here too."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that infer, and processes that decode.  [default: usable CPUs + 1]",
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Images per engine call.  [default: 8]")
@click.option("--max-delay-ms", type=click.FloatRange(min=0), help="Longest wait for a fuller batch.  [default: 5]")
@click.option("--queue-size", type=click.IntRange(min=1), help="Images that may wait.  [default: 256]")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds per request.  [default: 30]")
@click.option(
    "--write-timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for a client to take in some of an answer.  [default: 20]",
)
@click.option(
    "--decode-processes/--no-decode-processes",
    default=sys.platform != "win32",
    show_default=True,
    help="Decode images in processes that may hang or crash alone.",
)
@click.option(
    "--decode-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds per image there.  [default: 15]"
)
@click.option("--drain-timeout", type=click.FloatRange(min=0), help="Seconds to finish after SIGTERM.  [default: 30]")
@click.option("--max-body-mb", type=click.IntRange(min=1, max=2047), help="Largest request body in MiB.  [default: 64]")
@click.option("--max-buffered-mb", type=click.IntRange(min=1), help="All requests in memory, in MiB.  [default: 512]")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Largest image.  [default: 50000000]")
@click.option("--max-aspect-ratio", type=click.FloatRange(min=1), help="Longer side to shorter.  [default: 200]")
@click.option(
    "--max-scans", type=click.FloatRange(min=0, min_open=True), help="Scans of a progressive JPEG.  [default: 32]"
)
@click.option("--max-images", type=click.IntRange(min=1), help="Images per request.  [default: 64]")
@click.option("--api-key-file", type=click.Path(), help="File with the key that clients must show.")
@click.option("--cors-origin", "cors_origins", multiple=True, help="Origin whose pages may call; may be repeated.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="Name that clients reach it by, besides localhost and addresses; * for any; may be repeated.",
)
@click.option("--allow-urls", is_flag=True, help="Fetch images from public addresses for clients.")
@click.option(
    "--url-port",
    "url_ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Port that they may be fetched from; may be repeated.  [default: 80, 443]",
)
@click.option(
    "--model-control/--no-model-control", default=False, show_default=True, help="Clients may (un)load models."
)
@click.option(
    "--log",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="Text for people, or JSON Lines; auto is text on a terminal.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Serve the web page at /.")
def serve(api_key_file: str | None, log: str, **given: Any) -> None:
    """Serve models over REST, gRPC and a web page, on this machine only unless --host says otherwise.

    SIGTERM ends it once accepted requests are answered, with status 0, and Ctrl-C with 130; with 1 where something
    still hangs five seconds after --drain-timeout. A second Ctrl-C ends it at once.

    The API is documented at /docs. A key in GHOSTZOO_API_KEY, or in a file, must then be shown by all clients.

    \b
    Examples:
      ghostzoo serve --model GhostNet_x1_0
      ghostzoo serve --model ./flowers --model GhostNet_x1_0 \\
          --host 0.0.0.0 --api-key-file key.txt
      ghostzoo serve --host 0.0.0.0 --allowed-host zoo.example.com
    """
    if given["url_ports"] and not given["allow_urls"]:
        raise click.UsageError("--url-port needs --allow-urls; give both, or neither.")
    source = click.get_current_context().get_parameter_source("grpc_port")
    if not given["grpc"] and source == click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--grpc-port and --no-grpc exclude each other; leave one of them out.")
    if given["decode_timeout"] is not None and not given["decode_processes"]:
        raise click.UsageError("--decode-timeout and --no-decode-processes exclude each other; leave one of them out.")
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise EngineUnavailableError(
            f"Serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; run "
            "'pip install \"ghostzoo[serve]\"'."
        )
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is imported; what matters, errors say
    from ..serve.options import find_api_key
    from ..serve.server import serve as run

    text_log = log == "text" or (log == "auto" and sys.stderr.isatty())
    try:
        run(_options(api_key=find_api_key(api_key_file), text_log=text_log, **given))
    except KeyboardInterrupt:
        if text_log:
            raise
        sys.exit(INTERRUPTED)  # the log has said it, and all its lines are JSON


def _options(grpc: bool, grpc_port: int, **given: Any) -> Any:
    """What was given on the command line, in the server's own terms; the defaults are the server's."""
    from dataclasses import replace

    from ..fetch.options import FetchOptions
    from ..serve.options import ServeLimits, ServeOptions

    fetching = FetchOptions(
        **{name: given.pop(name) for name in ("revision", "cache_dir", "offline", "endpoint", "token", "progress")}
    )
    limits = ServeLimits()
    names = ("max_body_mb", "max_buffered_mb", "max_images")
    body_mb, buffered_mb, images = (given.pop(name) for name in names)
    if body_mb is not None:
        size = body_mb * 2**20
        image = replace(limits.image, max_bytes=size)
        buffered = max(size, limits.max_buffered_bytes)
        limits = replace(limits, max_body_bytes=size, max_buffered_bytes=buffered, image=image)
    if buffered_mb is not None:
        limits = replace(limits, max_buffered_bytes=buffered_mb * 2**20)
    image_names = ("max_pixels", "max_aspect_ratio", "max_scans")
    option_names = {"max_bytes": "--max-body-mb"} | {name: "--" + name.replace("_", "-") for name in image_names}
    chosen = {name: value for name in image_names if (value := given.pop(name)) is not None}
    limits = replace(limits, image=replace(limits.image, **chosen, option_names=option_names))
    if images is not None:
        limits = replace(limits, max_images=images)
    delay = given.pop("max_delay_ms")
    if delay is not None:
        given["max_delay"] = delay / 1000
    given["url_ports"] = given["url_ports"] or None
    values = {name: value for name, value in given.items() if value is not None}
    return ServeOptions(limits=limits, fetching=fetching, grpc_port=grpc_port if grpc else None, **values)
