# SPDX-License-Identifier: MIT
"""Requests to bytes and replies from bytes: the client's counterpart of codec.py.

It needs no class for each method, so a client that imports it loads little.
"""

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from bcached.wire.messages import Parameters, Results

UNREADABLE = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
)  # all that decoding may raise

R = TypeVar("R", bound=Results)


class Question(Struct, omit_defaults=True, gc=False):
    """A request as the client sends it."""

    method: str
    parameters: Parameters
    oneway: bool = False
    more: bool = False


class Answer(Struct, Generic[R], gc=False):
    """A reply to a method whose results have a struct."""

    parameters: R
    error: str | None = None
    continues: bool | None = False


class RawAnswer(Struct, gc=False):
    """Any reply: its error or its method determines the type of its parameters."""

    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    error: str | None = None
    continues: bool | None = False


class _Decoders(dict[type[Results], "msgspec.json.Decoder[Any]"]):
    """By the results of the method, each made when first needed."""

    def __missing__(self, results: type[Results]) -> "msgspec.json.Decoder[Any]":
        decoder = msgspec.json.Decoder(Answer[results])  # type: ignore[valid-type]
        return self.setdefault(results, decoder)


_encoder = msgspec.json.Encoder()
_raw_answers = msgspec.json.Decoder(RawAnswer)
_answers = _Decoders()


def encode_question(question: Question) -> bytes:
    """Returns the bytes of a request, with its NUL."""
    return _encoder.encode(question) + b"\0"


def decode_answer(message: bytes, results: type[R]) -> Answer[R] | RawAnswer:
    """Returns a reply from bytes without NUL; raw if it is an error. Raises one of UNREADABLE otherwise."""
    try:
        answer: Answer[R] = _answers[results].decode(message)
        if answer.error is None:
            return answer
    except msgspec.ValidationError:
        pass
    raw = decode_raw_answer(message)
    if raw.error is not None:
        return raw
    # Empty parameters may be left out; anything else raises msgspec's error here.
    return Answer(msgspec.json.decode(raw.parameters, type=results), continues=raw.continues)


def decode_raw_answer(message: bytes) -> RawAnswer:
    """Returns a reply to any method from bytes without NUL."""
    return _raw_answers.decode(message)
