"""Who may ask what: the key, the names that the server answers to, what pages may do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import requests
from fastapi.routing import APIRoute

from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import OptionError
from ghostzoo.serve import classify, documentation, information, paddle, web_page
from ghostzoo.serve.open_inference import rest
from ghostzoo.serve.open_inference.messages import SERVICE, message
from ghostzoo.serve.options import ServeOptions
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef-test"
WITH_KEY = {"X-API-Key": KEY}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
PROBES = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
OPEN = {
    "/docs",
    "/openapi.json",
    "/static-offline-docs/swagger-ui-bundle.js",
    "/static-offline-docs/swagger-ui.css",
    "/static-offline-docs/favicon.png",
}


@pytest.fixture(scope="module")
def locked(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """With a key, and with all that may be allowed to some."""
    allowed = ("--allowed-host", "zoo.example", "--cors-origin", "https://page.example", "--model-control")
    with running_server("--model", str(tiny_bundle.path), *allowed, env={"GHOSTZOO_API_KEY": KEY}) as process:
        yield process


def route_paths() -> list[str]:
    """Every path that the application has a route for, with a model, and with names that lead elsewhere."""
    modules = (classify, information, paddle, rest)
    routes = [route for module in modules for route in module.router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 15
    names = ("tiny", "static-offline-docs", "docs", "healthz", "..", "%2e%2e", "")
    return sorted(
        {
            route.path.replace("{name}", name).replace("{version}", "1").replace("{path:path}", "config.json")
            for route in routes
            for name in names
        }
    )


OTHERS = [
    "/nothing",
    "/docs/",
    "/docs/oauth2-redirect",
    "/docs/prediction",
    "/static-offline-docs/",
    "/static-offline-docs/redoc.standalone.js",
    "/static-offline-docs/prediction",
    "/static-offline-docs/../v1/models",
    "/static-offline-docs/..%2f..%2fv1/models",
    "//v1/models",
    "/healthz/prediction",
    "/healthz/../v1/models",
]


def status_of(server: ServerProcess, method: str, path: str, *headers: str) -> int:
    """The status of a request whose path is sent as it is."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 0", "Connection: close", *headers]
    with socket.create_connection(server.host_and_port, timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_without_the_key_only_open_paths_are_read(locked: ServerProcess) -> None:
    is_open = PROBES | OPEN | web_page.page_paths()
    refused = 0
    for path in sorted({*route_paths(), *OTHERS, *is_open}):
        for method in METHODS:
            status = status_of(locked, method, path)
            if path in is_open and method in ("GET", "HEAD"):
                assert status in ((200,) if method == "GET" else (200, 405)), (method, path, status)
            else:
                assert status == 401, (method, path, status)
                refused += 1
    assert refused > 300


def test_with_the_key_the_same_paths_are_answered(locked: ServerProcess, http: requests.Session) -> None:
    for path in route_paths():
        assert status_of(locked, "GET", path, f"X-API-Key: {KEY}") in (200, 307, 404, 405), path
    assert http.get(f"{locked.http}/v1/models", headers=WITH_KEY).status_code == 200


def test_the_key_is_shown_whole(locked: ServerProcess, http: requests.Session, jpeg: bytes) -> None:
    url = f"{locked.http}/v1/classify"
    assert http.post(url, data=jpeg).json()["error"].startswith("This server requires its API key")
    for headers in ({"Authorization": f"Bearer {KEY}"}, WITH_KEY):
        assert http.post(url, data=jpeg, headers=headers).status_code == 200
    for wrong in (KEY[:-1], KEY + "x", "", "\u00e9".encode().decode("latin-1")):
        for headers in ({"Authorization": f"Bearer {wrong}"}, {"Authorization": KEY}, {"X-API-Key": wrong}):
            assert http.post(url, data=jpeg, headers=headers).status_code == 401
    http.get(f"{locked.http}/v1/models", headers={**WITH_KEY, "X-Request-ID": "the-last"})
    assert locked.lines_with(request_id="the-last")
    assert KEY not in str(locked.log())


def test_the_key_over_grpc(locked: ServerProcess) -> None:
    def call(method: str, *metadata: tuple[str, str]) -> Any:
        with grpc.insecure_channel(str(locked.grpc)) as channel:
            parse = message(f"{method}Response").FromString
            return channel.unary_unary(f"/{SERVICE}/{method}", None, parse)(b"", timeout=30, metadata=metadata)

    for wrong in ((), (("authorization", "Bearer wrong"),), (("x-api-key", KEY[:-1]),)):
        with pytest.raises(grpc.RpcError) as caught:
            call("ServerMetadata", *wrong)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    for right in (("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)):
        assert call("ServerMetadata", right).name == "ghostzoo"
    assert call("ServerLive").live


def test_a_page_is_told_what_it_may_ask(locked: ServerProcess, server: ServerProcess, http: requests.Session) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    url = f"{locked.http}/v1/classify"
    allowed = http.options(url, headers=asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://page.example")
    for name in asked:  # not what a browser asks before it sends
        assert http.options(url, headers={name: asked[name]}).status_code == 401
    assert http.post(url, headers=asked).status_code == 401
    for answer in (
        http.options(url, headers={**asked, "Origin": "https://evil.example"}),
        http.options(f"{server.http}/v1/classify", headers=asked),  # where nothing is allowed to pages
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_other_sites_can_do_nothing(locked: ServerProcess, http: requests.Session, jpeg: bytes) -> None:
    change = f"{locked.http}/v2/repository/models/tiny"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = http.post(f"{change}/unload", headers={"Origin": origin, "Content-Type": "text/plain", **WITH_KEY})
        assert (answer.status_code, "another site" in answer.text) == (403, True)
    for origin in (locked.http, "https://page.example"):
        answer = http.post(f"{locked.http}/v1/classify", data=jpeg, headers={"Origin": origin, **WITH_KEY})
        assert answer.status_code == 200
    for what in ("unload", "load"):
        assert http.post(f"{change}/{what}", headers=WITH_KEY).status_code == 200  # what is no page says no origin


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.:80",
        "127.0.0.1",
        "127.0.0.1:8000",
        "10.1.2.3:8000",  # a pod's address, at which a probe asks
        "[::1]",
        "[::1]:8000",
        "[fe80::1]:1",
        "zoo.example",
        "ZOO.example:443",
        "zoo.example.",
    ],
)
def test_names_that_the_server_answers_to(locked: ServerProcess, http: requests.Session, host: str) -> None:
    for path in ("/healthz", "/v1/models"):
        assert http.get(locked.http + path, headers={"Host": host, **WITH_KEY}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "evil.example/127.0.0.1",
        "other.zoo.example",
        "0x7f000001",
        "[evil.example]",
        "[::1",
        "::1",
        "localhost:8000:1",
        "localhost:x",
        "",
    ],
)
def test_other_names_get_nothing(locked: ServerProcess, http: requests.Session, host: str) -> None:
    for path in ("/", "/healthz", "/docs", "/v1/models", "/nothing"):
        answer = http.get(locked.http + path, headers={"Host": host, **WITH_KEY})
        assert answer.status_code == 421, (path, answer.text)
        assert "--allowed-host" in answer.json()["error"]
        assert "tiny" not in answer.text


def raw(server: ServerProcess, head: bytes) -> bytes:
    with socket.create_connection(server.host_and_port, timeout=30) as connection:
        connection.sendall(head)
        with connection.makefile("rb") as answer:
            return answer.readline().split()[1]


def test_there_is_one_host(locked: ServerProcess) -> None:
    end = b"Connection: close\r\n\r\n"
    assert raw(locked, b"GET /healthz HTTP/1.1\r\n" + end) == b"400"
    assert raw(locked, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n" + end) == b"400"
    assert raw(locked, b"GET /healthz HTTP/1.0\r\n\r\n") == b"200"  # as load balancers' probes ask
    assert raw(locked, b"GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n") == b"421"
    absolute = b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n" + end
    assert raw(locked, absolute) == b"421"


def test_http_2(locked: ServerProcess, jpeg: bytes) -> None:
    """Without TLS, and without asking whether it is spoken: as strict as HTTP/1.1."""
    httpx = pytest.importorskip("httpx", reason="httpx, which speaks HTTP/2, is not installed here")
    url = f"{locked.http}/v1/classify"
    with httpx.Client(http1=False, http2=True, timeout=60) as client:
        assert client.get(f"{locked.http}/healthz").http_version == "HTTP/2"
        assert client.post(url, content=jpeg).status_code == 401
        assert client.post(url, content=bytes(2**20)).status_code == 401
        assert client.post(url, content=jpeg, headers={"Host": "evil.example", **WITH_KEY}).status_code == 421
        assert client.post(url, content=jpeg, headers=WITH_KEY).json()["images"][0]["predictions"]


def test_websockets_are_refused(locked: ServerProcess) -> None:
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    assert status_of(locked, "GET", "/healthz", *upgrade, "Sec-WebSocket-Version: 13") == 403


def test_a_rebound_page_reads_and_changes_nothing(locked: ServerProcess, http: requests.Session) -> None:
    """A page whose name the attacker has pointed at 127.0.0.1 is of the same origin as what it asks."""
    page = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", **WITH_KEY}
    assert http.post(f"{locked.http}/v2/repository/index", headers=page).status_code == 421
    assert http.post(f"{locked.http}/v2/repository/models/tiny/unload", headers=page).status_code == 421
    assert http.get(f"{locked.http}/v1/models", headers=page).status_code == 421
    assert http.get(f"{locked.http}/v1/models", headers=WITH_KEY).json()["models"][0]["ready"]
    assert locked.lines_with(status="421", path="/v2/repository/models/tiny/unload")


def test_any_name_where_all_are_allowed(tiny_bundle: Bundle, http: requests.Session) -> None:
    arguments = ("--model", str(tiny_bundle.path), "--no-grpc", "--host", "0.0.0.0", "--allowed-host", "*")  # noqa: S104
    with running_server(*arguments) as server:
        url = server.http.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert http.get(f"{url}/readyz", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize("name", ["http://zoo.example", "zoo.example:80", "", "a b", "*.example"])
def test_an_allowed_host_is_a_name(name: str) -> None:
    with pytest.raises(OptionError, match="without scheme and port"):
        ServeOptions(allowed_hosts=(name,))


def test_models_stay_as_they_are_unless_asked_for(server: ServerProcess, http: requests.Session) -> None:
    for change in ("load", "unload"):
        answer = http.post(f"{server.http}/v2/repository/models/tiny/{change}")
        assert answer.status_code == 403
        assert "without --model-control" in answer.json()["error"]
    with grpc.insecure_channel(str(server.grpc)) as channel:
        for change in ("Load", "Unload"):
            request: Any = message(f"RepositoryModel{change}Request")(model_name="tiny")
            run = channel.unary_unary(f"/{SERVICE}/RepositoryModel{change}", type(request).SerializeToString)
            with pytest.raises(grpc.RpcError) as caught:
                run(request, timeout=30)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert http.get(f"{server.http}/v1/models").json()["models"][0]["ready"]


def test_the_documentation_says_what_it_may_load(server: ServerProcess, http: requests.Session) -> None:
    answer = http.get(f"{server.http}/docs")
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert {path for path in OPEN if path.startswith("/static")} == {
        path for path in documentation.PATHS if path in answer.text and path != "/openapi.json"
    }
