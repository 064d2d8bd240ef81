"""Downloads for people who are not trusted: public addresses only, whatever names and redirects say."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ghostzoo._utils.addresses import Address, AddressRefusedError, is_public, resolve
from ghostzoo._utils.http import Download, DownloadError
from tests.fixtures.server import certified, content, redirect, serve


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2001:0:102:304:0:0:80ff:fffe",
        "2001:0:808:808:0:0:f7f7:f7f7",
        "::8.8.8.8",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "2606:4700::5efe:127.0.0.1",
        "2606:4700::200:5efe:10.0.0.1",
        "2606:4700::5efe:8.8.8.8",
        "fec0::1",
        "feff::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "192.88.99.1",
        "192.0.0.8",
        "5f00::1",
        "100::1",
        "100:0:0:1::1",
        "4000::1",
    ],
)
def test_what_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "93.184.216.34",
        "8.8.8.8",
        "192.88.98.1",
        "192.0.1.1",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450:4001:81b::200e",
        "3ffe::1",
        "2606:4700::5eff:808:808",
    ],
)
def test_what_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    routes: dict[str, Any] = {"/image": content(b"an image")}
    with serve(routes) as address:
        port = address.rpartition(":")[2]
        routes["/inside"] = redirect(f"http://127.0.0.2:{port}/image")
        routes["/there-and-back"] = redirect(f"http://public.test:{port}/image")
        yield address


def first_loopback(address: Address) -> bool:
    """Stands for the public ones, since the tests reach none: 127.0.0.1 may be connected to, nothing else."""
    return str(address) == "127.0.0.1"


def fetch(url: str, policy: Any = first_loopback, ports: Collection[int] = ()) -> bytes:
    download = Download(url, max_bytes=1000, timeout=20, max_redirects=3, address_policy=policy, ports=ports)
    download.start()
    assert download.ended.wait(60)
    return download.result()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Name -> the addresses of each look-up in turn; the last ones stay."""
    table: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in table:
            return real(host, port, *arguments, **options)
        answers = table[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


def test_an_allowed_address_is_fetched(server: str, names: dict[str, list[list[str]]]) -> None:
    assert fetch(f"{server}/image") == b"an image"
    names["public.test"] = [["127.0.0.1"]]
    port = server.rpartition(":")[2]
    assert fetch(f"http://public.test:{port}/image") == b"an image"
    assert fetch(f"{server}/there-and-back") == b"an image"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_no_spelling_of_loopback_passes(server: str, host: str) -> None:
    with pytest.raises(DownloadError, match=r"not public|cannot be resolved|not a valid URL"):
        fetch(f"http://{host}:{server.rpartition(':')[2]}/image", is_public)


def test_other_ports_are_not_connected_to(server: str) -> None:
    port = int(server.rpartition(":")[2])
    assert fetch(f"{server}/image", ports=(80, port)) == b"an image"
    with pytest.raises(DownloadError, match=rf"port is {port}, and only 80, 443 are allowed \(url_ports\)"):
        fetch(f"{server}/image", ports=(80, 443))
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        leads = {"/out": redirect(f"http://127.0.0.1:{other.getsockname()[1]}/")}
        with serve(leads) as address, pytest.raises(DownloadError, match="url_ports"):
            fetch(f"{address}/out", ports=(int(address.rpartition(":")[2]),))
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_redirect_leads_to_no_other_address(server: str) -> None:
    with pytest.raises(DownloadError, match="not public"):
        fetch(f"{server}/inside")


def test_https_is_pinned_and_its_certificate_is_for_the_name(
    names: dict[str, list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, trusted = certified("public.test", tmp_path)
    for name in ("public.test", "other.test"):
        names[name] = [["127.0.0.1"]]
    routes: dict[str, Any] = {"/image": content(b"an image")}
    with serve(routes, tls=tls) as address:
        port = address.rpartition(":")[2]
        routes["/inside"] = redirect(f"https://127.0.0.2:{port}/image")
        routes["/elsewhere"] = redirect(f"https://other.test:{port}/image")
        routes["/itself"] = redirect(f"https://public.test:{port}/image")
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(DownloadError, match="certificate verify failed"):
            fetch(f"https://public.test:{port}/image")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        for path in ("/image", "/itself"):
            assert fetch(f"https://public.test:{port}{path}") == b"an image"
        for url in (
            f"https://other.test:{port}/image",
            f"https://127.0.0.1:{port}/image",
            f"https://public.test:{port}/elsewhere",
        ):
            with pytest.raises(DownloadError, match=r"(?i)hostname mismatch|ip address mismatch|doesn't match"):
                fetch(url)
        with pytest.raises(DownloadError, match="not public"):
            fetch(f"https://public.test:{port}/inside")


def test_one_private_address_among_public_ones_is_enough(server: str, names: dict[str, list[list[str]]]) -> None:
    names["mixed.test"] = [["127.0.0.1", "10.0.0.1"]]
    with pytest.raises(DownloadError, match="not public"):
        fetch(f"http://mixed.test:{server.rpartition(':')[2]}/image")


def test_a_name_is_looked_up_once(server: str, names: dict[str, list[list[str]]]) -> None:
    """A name that is public when it is checked and private when it is connected to."""
    names["rebind.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    assert fetch(f"http://rebind.test:{server.rpartition(':')[2]}/image") == b"an image"
    assert names["rebind.test"] == [["127.0.0.2"]]


def test_proxies_of_the_environment_are_not_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(f"{server}/image") == b"an image"


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 300, "", "a..b"])
def test_a_name_without_addresses_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(AddressRefusedError, match=r"its host (cannot be resolved|has an address that is not public)"):
        resolve(name, 80, is_public)


def test_of_several_addresses_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*texts: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in texts]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    answers("2606:4700::1111", "8.8.8.8")
    assert str(resolve("x", 80, is_public)) == "8.8.8.8"
    answers("8.8.8.8", "127.0.0.1")
    with pytest.raises(AddressRefusedError, match="not public"):
        resolve("x", 80, is_public)
    answers()
    with pytest.raises(AddressRefusedError, match="not public"):
        resolve("x", 80, is_public)
