"""Requests from bytes and replies to bytes, a whole read at a time: the daemon's half.

The daemon decodes all messages of a read with one call and encodes their replies with another; that
halves what a message costs. A read with anything wrong in it is taken apart and decoded message by
message, so that each bad one gets its own precise error and the good ones are served.
"""

from collections.abc import Sequence
from typing import Any, Union

import msgspec
from msgspec import Struct

from bcached.errors import RequestError
from bcached.wire.client_codec import UNREADABLE
from bcached.wire.messages import Results
from bcached.wire.methods import METHODS, Request
from bcached.wire.refusals import refusal_of

DOUBTFUL_MAX = 1024


class Reply(Struct, gc=False):
    """The answer, or the last of several."""

    parameters: Results


class Continued(Struct, gc=False):
    """One of several answers; more come."""

    parameters: Results
    continues: bool = True


class Refusal(Struct, gc=False):
    """The error that a request is answered with."""

    error: str
    parameters: dict[str, Any]


AnyReply = Reply | Continued | Refusal | msgspec.Raw  # Raw: encoded already

_requests: "msgspec.json.Decoder[Request | RequestError]" = msgspec.json.Decoder(
    Union[tuple(method.request for method in METHODS.values())]  # noqa: UP007
)
_encoder = msgspec.json.Encoder()


def decode_requests(block: bytes) -> list[Request | RequestError]:
    """What a block of whole messages (each with its NUL) asks for; in place of a bad one, its error.

    Where there is a bad one, of the first DOUBTFUL_MAX only: an empty message is a byte, its error hundreds.
    """
    try:
        if block.index(0) + 1 == len(block):
            return [_requests.decode(block[:-1])]
        # Between "}" and "{" no JSON text goes on, so after this each value ends within its own message;
        # as many values as messages then means one in each, and any other NUL is an error by itself.
        requests = _requests.decode_lines(block[:-1].replace(b"}\0{", b"}\n{"))
    except UNREADABLE:
        return _decode_one_by_one(block)
    return requests if len(requests) == block.count(0) else _decode_one_by_one(block)


def _decode_one_by_one(block: bytes) -> list[Request | RequestError]:
    requests: list[Request | RequestError] = []
    for message in block[:-1].split(b"\0", DOUBTFUL_MAX)[:DOUBTFUL_MAX]:
        try:
            requests.append(_requests.decode(message))
        except UNREADABLE as error:
            requests.append(refusal_of(message, error))
    return requests


def encode_replies(replies: Sequence[AnyReply]) -> bytes:
    """All of them, each with its NUL."""
    # JSON as msgspec writes it holds no raw newline, so the only ones are those between the lines.
    return _encoder.encode_lines(replies).replace(b"\n", b"\0")


def encode_reply(reply: AnyReply) -> msgspec.Raw:
    """One reply, encoded early; its NUL comes with encode_replies."""
    return msgspec.Raw(_encoder.encode(reply))
