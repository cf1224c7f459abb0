# SPDX-License-Identifier: GPL-2.0-only
"""Parses a request to the metrics port: as much HTTP as a scrape or a probe needs.

Any input has a response. Input that is not HTTP/1 is refused as soon as that is visible, since a TLS or
HTTP/2 client never sends the empty line that ends a request.
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from prometheus_client.exposition import choose_encoder

HEAD_BYTES_MAX = 8192
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # an HTTP method
VERSION = re.compile(rb"HTTP/\d\.\d")
ORIGIN = re.compile(rb"(?i)https?://[^/?#]*")
SPACE = b" \t\r"
METRICS = "/metrics"
OF_SET = re.compile(r"/sets/([A-Za-z0-9_][\w.:-]{0,63})/metrics", re.ASCII)  # of bcached@NAME
PROBES = ("/", "/-/healthy", "/-/ready")  # the pages beside the metrics, as Prometheus itself has them


class Wanted(NamedTuple):
    """A request for the metrics in this encoding; gzip: compressed."""

    encode: Callable[[Any], bytes]
    kind: str
    head_only: bool
    gzip: bool = False


class Probe(NamedTuple):
    """A request for one of PROBES."""

    path: str
    head_only: bool


class Relayed(NamedTuple):
    """A request for the metrics of another set of the host: its name, and the request to its daemon."""

    name: str
    request: bytes


class Refused(NamedTuple):
    """A request that is refused: the status, and the body or headers that say why."""

    status: HTTPStatus
    body: bytes = b""
    header: str | None = None


def parse(received: bytes) -> Wanted | Probe | Relayed | Refused | None:
    """Returns the request or its refusal; None while more input is needed."""
    start = 2 if received.startswith(b"\r\n") else 0  # RFC 9112: one empty line before a request is ignored
    head, is_whole = head_of(received[start:])
    if not is_whole and len(head) <= HEAD_BYTES_MAX:
        return refusal_before_the_end(head)
    if len(head) > HEAD_BYTES_MAX:
        return refusal_before_the_end(head) or Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, *fields = head.split(b"\n")
    refused = refusal_of_line(first) or refusal_of_target(first)
    if refused is not None:
        return refused
    path, head_only = path_of(first), first.split()[0] == b"HEAD"
    if (named := OF_SET.fullmatch(path)) is not None:
        line = b"%s %s HTTP/1.1" % (first.split()[0], METRICS.encode())
        return Relayed(named[1], b"\r\n".join([line, *(field.rstrip(b"\r") for field in fields), b"", b""]))
    return wanted(fields, head_only=head_only) if path == METRICS else Probe(path, head_only)


def head_of(received: bytes) -> tuple[bytes, bool]:
    """Returns all up to the empty line, and whether there is one."""
    ends = [end for end in (received.find(b"\n\r\n"), received.find(b"\n\n")) if end >= 0]
    return (received[: min(ends)], True) if ends else (received, False)


def refusal_before_the_end(head: bytes) -> Refused | None:
    """Returns a refusal if the input so far cannot be the beginning of a request."""
    first, newline, _ = head.partition(b"\n")
    if newline:
        return refusal_of_line(first)
    method, _, _ = first.partition(b" ")
    return None if not method.strip(SPACE) or TOKEN.fullmatch(method.strip(SPACE)) else bad_request()


def refusal_of_line(line: bytes) -> Refused | None:
    """Returns a refusal if this is not a request line of HTTP/1."""
    parts = line.split()
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not VERSION.fullmatch(parts[2]):
        return bad_request()
    if not parts[2].startswith(b"HTTP/1."):
        return Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, b"this is HTTP/1.1\n")
    return None


def refusal_of_target(line: bytes) -> Refused | None:
    """Returns a refusal if there is no such page or the method is not GET or HEAD."""
    path = path_of(line)
    if path not in (METRICS, *PROBES) and OF_SET.fullmatch(path) is None:
        return Refused(HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n")
    if line.split()[0] not in (b"GET", b"HEAD"):
        return Refused(HTTPStatus.METHOD_NOT_ALLOWED, b"", "Allow: GET, HEAD")
    return None


def path_of(line: bytes) -> str:
    """Returns the path of a request line, without host and query."""
    target = ORIGIN.sub(b"", line.split()[1])
    return re.split(rb"[?#]", target, maxsplit=1)[0].decode("latin-1") or "/"


def wanted(fields: list[bytes], *, head_only: bool) -> Wanted:
    """Returns the encoding that the header fields ask for, or the default one."""
    encode, kind = encoder(_values_of(b"accept", fields))
    return Wanted(encode, kind, head_only, accepts_gzip(_values_of(b"accept-encoding", fields)))


def _values_of(name: bytes, fields: list[bytes]) -> str:
    """Returns the values of all header fields of a name, as one list."""
    split = [field.partition(b":") for field in fields]
    return b",".join(value for key, _, value in split if key.strip().lower() == name).decode("latin-1")


def accepts_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding field lists gzip with a weight above zero."""
    for item in accepted.lower().split(","):
        coding, *parameters = [part.strip() for part in item.split(";")]
        if coding == "gzip":
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return False


def encoder(accept: str) -> tuple[Callable[[Any], bytes], str]:
    """Returns the library's choice for an Accept field; its default if it cannot parse the field."""
    try:
        encode, kind = choose_encoder(accept)
    except Exception:  # the parser does not check versions, and may raise any exception
        return choose_encoder("")
    return (encode, kind) if kind.isascii() and kind.isprintable() else choose_encoder("")


def bad_request() -> Refused:
    """Returns the refusal for a peer that does not speak HTTP."""
    return Refused(HTTPStatus.BAD_REQUEST, b"expected GET /metrics HTTP/1.1\n")
