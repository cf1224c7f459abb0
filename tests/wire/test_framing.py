# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.wire.framing import Frames

MESSAGES = [b'{"a":1}', b"", b"\xff\xfe", b'{"method":"x"}', b" "]
STREAM = b"".join(message + b"\0" for message in MESSAGES)


def messages(pieces: list[bytes], limit: int = 1000) -> list[bytes]:
    frames = Frames(limit)
    block = b"".join(frames.feed(piece) for piece in pieces)
    assert block == b"" or block.endswith(b"\0")
    return block.split(b"\0")[:-1]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_stream_cut_in_two_anywhere_gives_the_same_messages(cut: int) -> None:
    assert messages([STREAM[:cut], STREAM[cut:]]) == MESSAGES


@given(st.lists(st.binary(max_size=30)))
def test_a_stream_in_any_pieces_gives_the_same_messages(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert messages(pieces) == messages([stream])
    assert messages(pieces) == stream.split(b"\0")[:-1]


def test_one_byte_at_a_time_gives_the_same_messages() -> None:
    assert messages([STREAM[at : at + 1] for at in range(len(STREAM))]) == MESSAGES


def test_a_read_of_whole_messages_is_passed_on_uncopied() -> None:
    assert Frames(1000).feed(STREAM) is STREAM


def test_half_a_message_is_kept_and_nothing_is_given() -> None:
    frames = Frames(1000)
    assert frames.feed(b'{"a"') == b""
    assert frames.partial == b'{"a"'
    assert frames.feed(b":1}\0x") == b'{"a":1}\0'
    assert frames.partial == b"x"


def test_a_message_of_just_the_limit_passes() -> None:
    frames = Frames(10)
    assert frames.feed(b"x" * 10 + b"\0") == b"x" * 10 + b"\0"
    assert frames.feed(b"y" * 10) == b""
    assert frames.overrun == 0
    assert frames.feed(b"\0") == b"y" * 10 + b"\0"
    assert frames.overrun == 0


@pytest.mark.parametrize(
    "pieces", [[b"x" * 11], [b"x" * 11 + b"\0"], [b"x" * 6, b"x" * 5], [b"x" * 6, b"x" * 5 + b"\0more\0"]]
)
def test_a_message_beyond_the_limit_is_an_overrun_and_keeps_no_bytes(pieces: list[bytes]) -> None:
    frames = Frames(10)
    assert b"".join(frames.feed(piece) for piece in pieces) == b""
    assert frames.overrun == 11
    assert frames.partial == b""


def test_messages_before_an_overrun_are_still_given() -> None:
    frames = Frames(10)
    assert frames.feed(b"one\0two\0" + b"x" * 11 + b"\0three\0") == b"one\0two\0"
    assert frames.overrun == 11


def test_many_short_messages_longer_than_the_limit_together_pass() -> None:
    frames = Frames(10)
    assert frames.feed(b"abc\0" * 100) == b"abc\0" * 100
    assert frames.overrun == 0
