"""What is at a URL that others name costs no more bytes and time than were allowed."""

from __future__ import annotations

import gzip
import socket
import threading

import pytest

from alexq_schema.errors import OutwardRefusedError, OutwardUnavailableError
from alexq_schema.outward import ANSWER_BYTES, Outward
from tests.helpers.outside import PUBLIC, Internet, Talk, fetched, response, serving

MAX_BYTES = 1000


def endless(sock: socket.socket, _request: str) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        sock.sendall(b"x" * 2**16)


def trickle(head: bytes) -> Talk:
    """Return a server that says ``head`` and then a byte now and then, for much longer than allowed."""
    gone = threading.Event()

    def talk(sock: socket.socket, _request: str) -> None:
        sock.sendall(head)
        while not gone.wait(0.02):
            sock.sendall(b"x")

    return talk


def test_a_body_is_cut_as_soon_as_it_is_too_large(internet: Internet, outward: Outward) -> None:
    with serving(endless) as port:
        internet.publish("images.example", port)

        assert len(fetched(outward, "http://images.example/", MAX_BYTES)) == MAX_BYTES + 1
        assert len(outward.post("http://images.example/", content=b"", headers={}).body) == ANSWER_BYTES


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["body", "header", "status", "chunk"],
)
def test_bytes_that_trickle_do_not_win_time(head: bytes, internet: Internet) -> None:
    outward = Outward(hosts=None, timeout_s=0.5)
    with serving(trickle(head)) as port:
        internet.publish("images.example", port)
        with pytest.raises(OutwardUnavailableError):
            fetched(outward, "http://images.example/", max_bytes=2**30)


def test_a_chain_of_slow_redirects_does_not_win_time(internet: Internet) -> None:
    outward = Outward(hosts=None, timeout_s=0.5)
    slow = threading.Event()

    def talk(sock: socket.socket, _request: str) -> None:
        slow.wait(0.3)
        sock.sendall(response(status="302 Found", Location="/"))

    with serving(talk) as port:
        internet.publish("images.example", port)
        with pytest.raises(OutwardUnavailableError, match=r"in 0\.5 s"):
            fetched(outward, "http://images.example/")


def test_a_server_that_does_not_read_does_not_win_time(internet: Internet) -> None:
    outward = Outward(hosts=None, timeout_s=0.5)
    done = threading.Event()
    with serving(lambda _sock, _request: bool(done.wait(20)) and None) as port:
        internet.publish("hooks.example", port)
        with pytest.raises(OutwardUnavailableError, match=r"in 0\.5 s"):
            outward.post("http://hooks.example/", content=bytes(2**25), headers={})
        done.set()


def test_a_silent_name_server_does_not_win_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: answered.wait(20) and [])
    outward = Outward(hosts=None, timeout_s=0.2)
    try:
        with pytest.raises(OutwardUnavailableError, match=r"in 0\.2 s"):
            fetched(outward, "http://images.example/")
    finally:
        answered.set()
        outward.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2**17 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"+PONG\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Slower\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"",
    ],
    ids=[
        "long header",
        "many headers",
        "broken off",
        "negative",
        "no chunk",
        "no HTTP",
        "503",
        "429",
        "another protocol",
        "nothing",
    ],
)
def test_an_answer_that_may_be_better_later_is_told_as_such(
    answer: bytes, internet: Internet, outward: Outward
) -> None:
    with serving(lambda sock, _: sock.sendall(answer)) as port:
        internet.publish("images.example", port)
        with pytest.raises(OutwardUnavailableError):
            fetched(outward, "http://images.example/")


@pytest.mark.parametrize(
    "answer",
    [
        response(status="404 Not Found"),
        response(status="204 No Content"),
        response(status="304 Not Modified"),
        response(gzip.compress(bytes(2**24)), Content_Encoding="gzip"),
        response(b"x", Content_Encoding="identity, br"),
    ],
    ids=["404", "204", "304", "a bomb", "two encodings"],
)
def test_an_answer_that_is_no_content_is_refused(answer: bytes, internet: Internet, outward: Outward) -> None:
    with serving(lambda sock, _: sock.sendall(answer)) as port:
        internet.publish("images.example", port)
        with pytest.raises(OutwardRefusedError):
            fetched(outward, "http://images.example/")


def test_an_address_that_does_not_answer_gives_way_to_the_next(internet: Internet, outward: Outward) -> None:
    with serving(lambda sock, _: sock.sendall(response(b"second"))) as port, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        internet.publish("images.example", port)
        internet.routes["93.184.216.35"] = closed.getsockname()
        internet.names["images.example"] = [["93.184.216.35", PUBLIC]]

        assert fetched(outward, "http://images.example/") == b"second"


def test_a_post_carries_what_it_is_given(internet: Internet, outward: Outward) -> None:
    asked: list[str] = []

    def talk(sock: socket.socket, request: str) -> None:
        asked.append(request)
        sock.sendall(response(b"y" * 2000, "429 Slower", Retry_After="7"))

    with serving(talk) as port:
        internet.publish("hooks.example", port)
        answer = outward.post("http://hooks.example/a?b=c#d", content=b"{}", headers={"X-Signature": "s"})

    [request] = asked
    head, _, _body = request.lower().partition("\r\n\r\n")
    assert head.splitlines()[0] == "post /a?b=c http/1.1"
    assert {"host: hooks.example", "content-length: 2", "x-signature: s"} <= set(head.splitlines())
    assert (answer.status, answer.retry_after_s, answer.body) == (429, 7.0, b"y" * ANSWER_BYTES)


@pytest.mark.parametrize(
    ("told", "least_s", "most_s"),
    [("0", 0, 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 2199 23:59:59 GMT", 1e9, 1e10)],
)
def test_retry_after_may_be_a_date(
    told: str, least_s: float, most_s: float, internet: Internet, outward: Outward
) -> None:
    with serving(lambda sock, _: sock.sendall(response(Retry_After=told))) as port:
        internet.publish("hooks.example", port)
        answer = outward.post("http://hooks.example/", content=b"", headers={})

    assert answer.retry_after_s is not None
    assert least_s <= answer.retry_after_s <= most_s


def test_secrets_in_a_url_are_not_told(internet: Internet, outward: Outward) -> None:
    for url in ("http://absent.example/a.jpg?signature=secret", "http://me:secret@images.example/"):
        with pytest.raises(OutwardRefusedError) as refusal:
            fetched(outward, url)

        assert "secret" not in str(refusal.value)
