# SPDX-License-Identifier: MIT
"""Requests from bytes and replies to bytes, a whole read at a time: the daemon's half.

The daemon decodes all messages of a read with one call and encodes their replies with another, which halves
the cost of a message. If that decode fails, each message is decoded by itself, so that each bad one gets its
own precise error and the good ones are served.
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
    """The reply, or the last of several."""

    parameters: Results


class Continued(Struct, gc=False):
    """One of several replies; more follow."""

    parameters: Results
    continues: bool = True


class Refusal(Struct, gc=False):
    """An error reply."""

    error: str
    parameters: dict[str, Any]


AnyReply = Reply | Continued | Refusal | msgspec.Raw  # Raw: encoded already

_requests: "msgspec.json.Decoder[Request | RequestError]" = msgspec.json.Decoder(
    Union[tuple(method.request for method in METHODS.values())]  # noqa: UP007
)
_encoder = msgspec.json.Encoder()


def decode_requests(block: bytes) -> list[Request | RequestError]:
    """Returns the requests of a block of whole messages (each with its NUL); for a bad one, its error.

    If any is bad, only of the first DOUBTFUL_MAX: an empty message has one byte, its error takes hundreds.
    """
    try:
        if block.index(0) + 1 == len(block):
            return [_requests.decode(block[:-1])]
        # No JSON text continues between "}" and "{", so after this each value ends within its own message;
        # as many values as messages then means one in each, and any other NUL is a decode error.
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
    """Returns the bytes of all replies, each with its NUL."""
    # JSON written by msgspec has no raw newline, so the only ones are those between the lines.
    return _encoder.encode_lines(replies).replace(b"\n", b"\0")


def encode_reply(reply: AnyReply) -> msgspec.Raw:
    """Returns one reply encoded early; encode_replies adds its NUL."""
    return msgspec.Raw(_encoder.encode(reply))
