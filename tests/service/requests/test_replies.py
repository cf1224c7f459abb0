# SPDX-License-Identifier: GPL-2.0-only
import json
from typing import Any

import msgspec
import pytest

from bcached.errors import NoSuchVolume, NotReserved, RequestError
from bcached.keys import Key, Pointer
from bcached.service.requests.method import Long
from bcached.service.requests.replies import Replies
from bcached.service.requests.request_counts import RequestCounts
from bcached.wire.messages import REPLY_BYTES_MAX, Nothing
from bcached.wire.methods import METHODS

LOOKUP = METHODS["io.bcached.Allocator.Lookup"].request
COMMIT = METHODS["io.bcached.Allocator.Commit"].request


class Text(msgspec.Struct):
    """Results of any length."""

    text: str


@pytest.fixture
def counts() -> RequestCounts:
    return RequestCounts()


@pytest.fixture
def replies(counts: RequestCounts) -> Replies:
    return Replies(counts)


def both(replies: Replies, kind: type, results: Any) -> dict[str, Any]:
    """The reply, which is the same encoded and as a message."""
    message = replies.message(kind, results)
    assert message == bytes(replies.encoded(kind, results)) + b"\0"
    decoded: dict[str, Any] = json.loads(message[:-1])
    return decoded


def test_results_are_sent_as_they_are_and_nothing_is_counted(replies: Replies, counts: RequestCounts) -> None:
    nothing: Any = Nothing()
    assert both(replies, COMMIT, nothing) == {"parameters": {}}
    assert both(replies, COMMIT, Long(nothing)) == {"parameters": {}}
    assert counts.of(COMMIT).errors == 0


def test_what_fills_the_limit_is_sent_and_one_byte_more_is_refused(
    replies: Replies, counts: RequestCounts
) -> None:
    empty: Any = Text("")
    frame = len(replies.encoded(LOOKUP, empty))
    longest: Any = Text("x" * (REPLY_BYTES_MAX - 1 - frame))
    assert len(replies.message(LOOKUP, longest)) == REPLY_BYTES_MAX
    assert counts.of(LOOKUP).errors == 0
    refused = both(replies, LOOKUP, Text(longest.text + "x"))
    assert refused["error"].endswith(".LimitExceeded")
    assert refused["parameters"]["limit"] == "reply_bytes"
    assert counts.of(LOOKUP).errors == 2  # one for each way


@pytest.mark.parametrize("error", [NoSuchVolume(3), NotReserved(Key(0, 0, 8, False, (Pointer(0, 8192, 1),)))])
def test_an_error_bears_the_name_of_the_interface_that_was_called(
    replies: Replies, counts: RequestCounts, error: RequestError
) -> None:
    own_name = error.NAME.rpartition(".")[2]
    for name, method in METHODS.items():
        refusal = replies.refusal(method.request, error)
        assert refusal.error == f"{name.rpartition('.')[0]}.{own_name}"
        assert counts.of(method.request).errors == 1
