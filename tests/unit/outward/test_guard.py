"""A URL that others name leads to public servers only."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from alexq_schema.errors import OutwardRefusedError, OutwardUnavailableError, SettingsError
from alexq_schema.outward import Outward
from tests.helpers.outside import PUBLIC, Inside, Internet, fetched, response, serving
from tests.unit.outward.attacks import ATTACKS


@pytest.mark.parametrize("url", ATTACKS.values(), ids=ATTACKS)
def test_no_url_leads_inside(url: str, internet: Internet, inside: Inside, outward: Outward) -> None:
    url = url.format(port=inside.port)

    with pytest.raises(OutwardRefusedError):
        fetched(outward, url)
    with pytest.raises(OutwardRefusedError):
        outward.post(url, content=b"{}", headers={})

    assert internet.connections == []
    assert inside.accepted() == 0


def test_the_listeners_inside_would_have_seen_it(internet: Internet, inside: Inside) -> None:
    """Or the tests above prove nothing."""
    outward = Outward(hosts=None, timeout_s=2.0, allow_private=True)

    with pytest.raises(OutwardUnavailableError):
        fetched(outward, f"http://localhost:{inside.port}/")

    assert inside.accepted() == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["fd00:ec2::254"],
        ["0.0.0.0"],
        ["64:ff9b::7f00:1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [PUBLIC, "::1"],
        ["2606:4700::1", "10.0.0.1"],
        [],
    ],
    ids=lambda addresses: " and ".join(addresses) or "none",
)
def test_a_name_with_any_address_inside_is_refused(
    addresses: list[str], internet: Internet, inside: Inside, outward: Outward
) -> None:
    internet.names["images.example"] = [addresses]

    with pytest.raises(OutwardRefusedError):
        fetched(outward, f"http://images.example:{inside.port}/")

    assert internet.connections == []
    assert inside.accepted() == 0


def test_the_refusal_does_not_tell_a_name_inside_from_one_that_is_unknown(
    internet: Internet, outward: Outward
) -> None:
    internet.names["inside.example"] = [["10.1.2.3"]]
    internet.names["absent.example"] = [[]]
    told = []
    for name in ("inside.example", "absent.example"):
        with pytest.raises(OutwardRefusedError) as refusal:
            outward.post(f"http://{name}/", content=b"", headers={})
        told.append(str(refusal.value).replace(name, ""))

    assert told[0] == told[1]
    assert "10.1" not in told[0]


def test_a_name_that_changes_its_address_is_looked_up_once(
    internet: Internet, inside: Inside, outward: Outward
) -> None:
    """DNS rebinding: public when it is checked, loopback when it is connected to."""
    with serving(lambda sock, _: sock.sendall(response(b"public"))) as port:
        internet.publish("images.example", port)
        internet.names["images.example"] += [["127.0.0.1"]]

        assert fetched(outward, f"http://images.example:{inside.port}/") == b"public"

    assert internet.lookups == ["images.example"]
    assert internet.connections == [PUBLIC]
    assert inside.accepted() == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://user@images.example/",
        "http://169.254.169.254/latest/meta-data/",
        "\\\\127.0.0.1:{port}\\",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
        "http://elsewhere.example/",
        "//elsewhere.example/",
        "http://images.example.elsewhere.example/",
        "http://[",
    ],
)
def test_no_redirect_leads_inside_or_to_other_hosts(
    location: str, internet: Internet, inside: Inside
) -> None:
    target = location.format(port=inside.port)

    def talk(sock: socket.socket, request: str) -> None:
        is_first = request.startswith("GET / ")
        sock.sendall(response(status="302 Found", Location="/second" if is_first else target))

    with serving(talk) as port:
        internet.publish("images.example", port)
        internet.publish("elsewhere.example", inside.port, "93.184.216.35")
        outward = Outward(hosts=["images.example"], timeout_s=60)
        with pytest.raises(OutwardRefusedError):
            fetched(outward, "http://images.example/")

    assert internet.connections == [PUBLIC, PUBLIC]
    assert inside.accepted() == 0


def test_a_name_is_looked_up_anew_for_a_redirect(
    internet: Internet, inside: Inside, outward: Outward
) -> None:
    with serving(lambda sock, _: sock.sendall(response(status="302 Found", Location="/"))) as port:
        internet.publish("images.example", port)
        internet.names["images.example"] += [["127.0.0.1"]]
        with pytest.raises(OutwardRefusedError):
            fetched(outward, f"http://images.example:{inside.port}/")

    assert internet.connections == [PUBLIC]
    assert inside.accepted() == 0


def test_three_redirects_are_followed_and_no_fourth(internet: Internet, outward: Outward) -> None:
    def talk(sock: socket.socket, request: str) -> None:
        left = int(request.split()[1].strip("/"))
        answer = response(b"there") if not left else response(status="307 Again", Location=f"/{left - 1}")
        sock.sendall(answer)

    with serving(talk) as port:
        internet.publish("images.example", port)

        assert fetched(outward, "http://images.example/3") == b"there"
        with pytest.raises(OutwardRefusedError, match="redirects"):
            fetched(outward, "http://images.example/4")


def test_a_post_does_not_follow_a_redirect(internet: Internet, inside: Inside, outward: Outward) -> None:
    location = f"http://127.0.0.1:{inside.port}/"
    with serving(lambda sock, _: sock.sendall(response(status="307 Again", Location=location))) as port:
        internet.publish("hooks.example", port)

        assert outward.post("http://hooks.example/", content=b"{}", headers={}).status == 307

    assert inside.accepted() == 0


@pytest.mark.parametrize(
    ("pattern", "url", "fits"),
    [
        ("images.example", "http://images.example/a.jpg", True),
        ("Images.Example", "https://IMAGES.example/", True),
        ("images.example", "http://x.images.example/", False),
        ("images.example", "http://ximages.example/", False),
        ("images.example", "http://images.example.com/", False),
        ("*.images.example", "http://a.b.images.example/", True),
        ("*.images.example", "http://images.example/", False),
        ("*.images.example", "http://ximages.example/", False),
        ("*", "http://any.example/", True),
        ("bücher.example", "http://xn--bcher-kva.example/", True),
        ("xn--bcher-kva.example", "http://bücher.example/", True),
        (PUBLIC, f"http://{PUBLIC}/", True),
        ("2606:4700::1", "http://[2606:4700:0::1]/", True),
    ],
)
def test_only_hosts_on_the_list_are_allowed(pattern: str, url: str, fits: bool) -> None:
    outward = Outward(hosts=[pattern], timeout_s=60)
    if fits:
        outward.check(url)
    else:
        with pytest.raises(OutwardRefusedError, match="not among the hosts"):
            outward.check(url)


@pytest.mark.parametrize(
    "pattern", ["", "*.", "*example", "a b", "http://a", "a/b", "127.1", "*.127.0.0.1", "a:80"]
)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(SettingsError, match="could be allowed"):
        Outward(hosts=[pattern], timeout_s=60)


def test_private_networks_can_be_allowed_and_metadata_services_never() -> None:
    outward = Outward(hosts=None, timeout_s=60, allow_private=True)
    for host in (
        "127.0.0.1",
        "[::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fd12::1]",
        PUBLIC,
    ):
        outward.check(f"http://{host}/")
    for host in (
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "[fe80::1]",
    ):
        with pytest.raises(OutwardRefusedError):
            outward.check(f"http://{host}/")


def test_a_proxy_from_the_environment_is_not_used(
    internet: Internet, inside: Inside, outward: Outward, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{inside.port}")
    with serving(lambda sock, _: sock.sendall(response(b"direct"))) as port:
        internet.publish("images.example", port)

        assert fetched(outward, "http://images.example/") == b"direct"

    assert inside.accepted() == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_the_certificate_is_checked_against_the_name_and_not_the_address(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=images.example"),
            *("-addext", "subjectAltName=DNS:images.example"),
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    outward = Outward(hosts=None, timeout_s=60)

    with serving(
        lambda sock, _: sock.sendall(response(b"secret")),
        lambda sock: context.wrap_socket(sock, server_side=True),
    ) as port:
        internet.publish("images.example", port)
        internet.publish("other.example", port)

        assert fetched(outward, "https://images.example/") == b"secret"
        with pytest.raises(OutwardUnavailableError, match="certificate"):
            fetched(outward, "https://other.example/")
        with pytest.raises(OutwardUnavailableError, match="certificate"):
            fetched(outward, f"https://{PUBLIC}/")

    assert asked[:2] == ["images.example", "other.example"]
