"""Requests to bytes and answers back: the client's half of what codec.py does for the daemon.

It needs no class for each method, so a client that imports it loads little.
"""

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from bcached.wire.messages import Parameters, Results

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that a decode of bytes raises

R = TypeVar("R", bound=Results)


class Question(Struct, omit_defaults=True, gc=False):
    """A request as the client sends it."""

    method: str
    parameters: Parameters
    oneway: bool = False
    more: bool = False


class Answer(Struct, Generic[R], gc=False):
    """A reply to a method whose results are known."""

    parameters: R
    error: str | None = None
    continues: bool | None = False


class RawAnswer(Struct, gc=False):
    """Any reply: what its parameters are, its error or its method says."""

    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    error: str | None = None
    continues: bool | None = False


_encoder = msgspec.json.Encoder()
_raw_answers = msgspec.json.Decoder(RawAnswer)
_answers: dict[type[Results], msgspec.json.Decoder[Any]] = {}


def encode_question(question: Question) -> bytes:
    """A request with its NUL."""
    return _encoder.encode(question) + b"\0"


def decode_answer(message: bytes, results: type[R]) -> Answer[R] | RawAnswer:
    """A reply without its NUL: raw if it is an error. One of UNREADABLE if it is neither."""
    decoder = _answers.get(results)
    if decoder is None:
        decoder = _answers[results] = msgspec.json.Decoder(Answer[results])  # type: ignore[valid-type]
    try:
        answer: Answer[R] = decoder.decode(message)
        if answer.error is None:
            return answer
    except msgspec.ValidationError:
        pass
    raw = decode_raw_answer(message)
    if raw.error is not None:
        return raw
    # Empty parameters may be left out; anything else is refused here, and in msgspec's words.
    return Answer(msgspec.json.decode(raw.parameters, type=results), continues=raw.continues)


def decode_raw_answer(message: bytes) -> RawAnswer:
    """A reply without its NUL, whatever it answers."""
    return _raw_answers.decode(message)
