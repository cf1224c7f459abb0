# SPDX-License-Identifier: GPL-2.0-only
import random
from http import HTTPStatus

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from bcached.service.metrics.scrape_request import HEAD_BYTES_MAX, Refused, Wanted, accepts_gzip, parse

GET = b"GET /metrics HTTP/1.1\r\n"
ODD_VERSIONS = [
    "x",
    "1e999",
    "1..0",
    "1.0.0-rc.0",
    "",
    "0.0.x",
    "-1",
    "9" * 5000,
    "1." * 2000,
    "\u00b2",
    "1\x00",
    "٣",
    "==",
    "1.0.0\x1b[2J",
    '"1.0.0"',
    "inf",
    "nan",
]


def status(head: bytes) -> int | None:
    """What the request comes to; None while it is not whole."""
    asked = parse(head)
    if asked is None:
        return None
    return asked.status if isinstance(asked, Refused) else HTTPStatus.OK


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ODD_VERSIONS)
def test_an_encoding_that_cannot_be_read_is_the_usual_one(kind: str, version: str) -> None:
    accept = f"{kind};version={version}".encode("latin-1", "replace")
    asked = parse(GET + b"Accept: " + accept + b"\r\n\r\n")
    assert isinstance(asked, Wanted)
    assert asked.kind.isascii()
    assert asked.kind.isprintable()
    registry = CollectorRegistry()
    Gauge("it", "text", registry=registry)
    assert b"it 0.0" in asked.encode(registry)
    if version in ("x", "1e999", "1..0"):
        assert asked.kind == CONTENT_TYPE_PLAIN_0_0_4


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (GET + b"\r\n", 200),
        (b"\r\n" + GET + b"\r\n", 200),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /metrics?name=x&y HTTP/1.1\r\n\r\n", 200),
        (b"GET http://host:9712/metrics HTTP/1.1\nHost: host\n\n", 200),
        (GET + b"Accept\r\n : : \r\n\xff\xfe\r\n\r\n", 200),
        (GET + b"\r\n" + GET, 200),
        (GET + b"\r\n" + b"x" * 100_000, 200),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /%6detrics HTTP/1.1\r\n\r\n", 404),
        (b"GET * HTTP/1.1\r\n\r\n", 404),
        (b"CONNECT host:80 HTTP/1.1\r\n\r\n", 404),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n", 400),  # HTTP/0.9: no empty line will come
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS hello: no line at all will come
        (b"\x00", 400),
        (b"GET /metrics HTTP/1.1 more\r\n", 400),
        (b"GET /metrics HTTPS/1.1\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"G\xc3\x89T /metrics HTTP/1.1\r\n\r\n", 400),
        (b"x" * (HEAD_BYTES_MAX + 1), 431),
        (GET + b"Accept: " + b"," * HEAD_BYTES_MAX, 431),
        (GET + b"Accept: " + b"," * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (b"", None),
        (b"\r", None),
        (b"\r\n", None),
        (b"GET", None),
        (b"GET /metrics HTT", None),
        (GET, None),
        (GET + b"Accept: x\r\n", None),
    ],
)
def test_every_beginning_has_its_answer(head: bytes, expected: int | None) -> None:
    assert status(head) == expected


def test_a_whole_request_may_come_in_any_two_parts() -> None:
    head = b"\r\n" + GET + b"Accept: text/plain\r\n\r\n"
    assert [status(head[:end]) for end in range(len(head))] == [None] * len(head)
    assert status(head) == HTTPStatus.OK


def test_no_bytes_at_all_are_too_odd() -> None:
    draw = random.Random(5)
    samples = [
        GET + b"Accept: application/openmetrics-text;version=1.0.0;escaping=dots,text/plain;q=0.5\r\n\r\n",
        b"POST http://x/metrics?y#z HTTP/1.0\nExpect: 100-continue\n\nbody",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    pieces = [
        b"\r\n",
        b"\n\n",
        b"\r",
        b" ",
        b":",
        b";",
        b"=",
        b",",
        b"\0",
        b"\xff",
        b"version=",
        b"9" * 99,
        b"HTTP/1.",
    ]
    found = set()
    for _ in range(5000):
        head = bytearray(draw.choice(samples))
        for _ in range(draw.randint(1, 6)):
            at, to = sorted(draw.choices(range(len(head) + 1), k=2))
            head[at : draw.choice((at, at + 1, to))] = draw.choice([*pieces, draw.randbytes(3)])
        asked = parse(bytes(head))
        found.add(asked.status if isinstance(asked, Refused) else type(asked))
    assert found >= {Wanted, type(None), 400, 404, 405, 505}


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip; q = 0.000", False),
        ("identity", False),
        ("gzipped", False),
        (";;q=,", False),
    ],
)
def test_gzip_is_sent_only_to_those_that_take_it(accepted: str, expected: bool) -> None:
    assert accepts_gzip(accepted) is expected
