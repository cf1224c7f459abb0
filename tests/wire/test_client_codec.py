# SPDX-License-Identifier: GPL-2.0-only
import msgspec
import pytest

from bcached.keys import Key, Pointer
from bcached.wire.admin_messages import News
from bcached.wire.client_codec import UNREADABLE, Answer, Question, RawAnswer, decode_answer, encode_question
from bcached.wire.messages import Done, Found, Lookup, Nothing

KEY = Key(1, 8, 16, False, (Pointer(0, 1024, 3),))


def test_what_is_left_out_is_not_sent() -> None:
    assert encode_question(Question("a.b.C", Nothing())) == b'{"method":"a.b.C","parameters":{}}\0'
    assert encode_question(Question("a.b.C", Lookup(1, 8, 16, pin=True), oneway=True)) == (
        b'{"method":"a.b.C","parameters":{"inode":1,"offset":8,"sectors":16,"pin":true},"oneway":true}\0'
    )


def test_an_answer_is_decoded_as_its_methods_results() -> None:
    raw = msgspec.json.encode({"parameters": {"keys": [KEY], "next": 24}, "later_extension": 1})
    answer = decode_answer(raw, Found)
    assert isinstance(answer, Answer)
    assert (answer.parameters, answer.continues) == (Found((KEY,), 24), False)
    more = decode_answer(b'{"parameters":{},"continues":true}', News)
    assert isinstance(more, Answer)
    assert more.continues


def test_empty_parameters_may_be_left_out() -> None:
    answer = decode_answer(b"{}", Done)
    assert isinstance(answer, Answer)
    assert isinstance(answer.parameters, Done)


@pytest.mark.parametrize(
    "results", [Found, Done, News]
)  # a Done or News would take any parameters for its own
def test_an_error_keeps_its_parameters_for_later(results: type[Found | Done | News]) -> None:
    answer = decode_answer(b'{"error":"a.b.NoSuchVolume","parameters":{"inode":7}}', results)
    assert isinstance(answer, RawAnswer)
    assert (bytes(answer.parameters), answer.error) == (b'{"inode":7}', "a.b.NoSuchVolume")
    bare = decode_answer(b'{"error":"a.b.E"}', results)
    assert isinstance(bare, RawAnswer)
    assert bytes(bare.parameters) == b"{}"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"parameters":{"keys":7}}',
        b'{"parameters":{}}',
        b'{"error":7}',
        b'"\xff"',
    ],
)
def test_what_is_neither_is_unreadable(message: bytes) -> None:
    with pytest.raises(UNREADABLE):
        decode_answer(message, Found)
