# SPDX-License-Identifier: GPL-2.0-only
"""The protocol core alone: bytes in, bytes out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.client.protocol.exchange import CLOSED, Call, Exchange
from bcached.errors import ClientClosed, ConnectionLost, NoSuchVolume, ShuttingDown
from bcached.wire.admin_messages import Change, News, Watch
from bcached.wire.messages import REPLY_BYTES_MAX, Allocate, Committed, Nothing
from instruments.time.interruptions import interrupted_at


def call(undo: bool = False, more: bool = False) -> Call[int]:
    if more:
        return Call("a.b.Watch", Watch(), News, lambda _: -1, more=True)
    give_back = (lambda it: b"undo %d\0" % it.sequence) if undo else None
    return Call("a.b.Get", Nothing(), Committed, lambda it: it.sequence, give_back)


def answer(number: int) -> bytes:
    return b'{"parameters":{"sequence":%d}}\0' % number


def news(number: int) -> bytes:
    return b'{"parameters":{"changes":[{"name":"x","value":%d}]},"continues":true}\0' % number


REFUSAL = b'{"error":"io.bcached.Allocator.NoSuchVolume","parameters":{"inode":7}}\0'


def asked(*calls: Call[int]) -> Exchange:
    exchange = Exchange("s")
    for one in calls:
        exchange.ask(one)
    assert exchange.to_send() == b"".join(one.message for one in calls)
    return exchange


def test_a_request_is_sent_once_and_its_answer_settles_it() -> None:
    one = call()
    exchange = asked(one)
    assert one.message == b'{"method":"a.b.Get","parameters":{}}\0'
    assert exchange.to_send() == b""
    assert exchange.receive(answer(7)) == [one]
    assert one.outcome() == 7


@pytest.mark.parametrize(
    ("data", "is_taken"),
    [
        (answer(7), True),
        (b"", False),
        (answer(7)[:9], False),
        (answer(7)[:-1], False),
        (answer(7) + answer(8), False),
        (answer(7) + answer(8)[:9], False),
        (REFUSAL, False),
        (news(1), False),
        (b"no JSON\0", False),
        (b'{"parameters":{}}\0', False),
        (b"\0", False),
    ],
)
@pytest.mark.parametrize("behind", [0, 1, 2])
def test_only_one_whole_reply_to_the_next_call_is_taken_at_once(
    data: bytes, is_taken: bool, behind: int
) -> None:
    calls, twins = [call() for _ in range(3)], [call() for _ in range(3)]
    exchange, twin = asked(*calls), asked(*twins)
    got = exchange.receive_reply(calls[behind], data)
    assert got == (is_taken and behind == 0)
    if not got:
        exchange.receive(data)
    twin.receive(data)
    rest = answer(2) + answer(3) + answer(4)
    for one in (exchange, twin):
        one.receive(rest)
        one.end("over")
    assert [one.given for one in calls] == [one.given for one in twins]
    assert exchange.broken == twin.broken


@pytest.mark.parametrize(
    "receive",
    [
        lambda exchange, _: exchange.receive(answer(7)),
        lambda exchange, one: exchange.receive_reply(one, answer(7)),
    ],
)
def test_no_call_is_left_without_an_outcome_by_an_interruption(
    receive: Callable[[Exchange, Call[int]], object],
) -> None:
    number = 0
    while True:
        one = call()
        exchange = asked(one)
        if not interrupted_at(number, partial(receive, exchange, one)):
            break
        exchange.end("interrupted")
        assert one.is_settled
        number += 1
    assert number > 2
    assert one.outcome() == 7


def test_the_end_of_a_reply_is_not_taken_for_a_whole_one() -> None:
    one = call()
    exchange = asked(one)
    exchange.receive(b'{"parameters":')
    assert not exchange.receive_reply(one, b'{"sequence":7}}\0')
    assert exchange.receive(b'{"sequence":7}}\0') == [one]
    assert not exchange.receive_reply(one, answer(8))  # it is answered
    other = call()
    exchange = asked(other)
    exchange.receive(b"[")
    assert not exchange.receive_reply(other, answer(7))


def test_a_refusal_is_raised_and_the_next_answer_is_the_next_calls() -> None:
    one, other = call(), call()
    exchange = asked(one, other)
    assert exchange.receive(REFUSAL + answer(2)) == [one, other]
    with pytest.raises(NoSuchVolume):
        one.outcome()
    assert other.outcome() == 2


def test_what_cannot_be_encoded_takes_no_place() -> None:
    with pytest.raises(TypeError):
        Call("a.b.Get", Allocate(0, object(), 8), Committed, lambda it: it.sequence)  # type: ignore[arg-type]


def test_news_come_before_the_last_answer() -> None:
    stream = call(more=True)
    exchange = asked(stream)
    assert b'"more":true' in stream.message
    exchange.receive(news(1) + news(2))
    assert (len(stream.news), stream.is_answered, stream.is_settled) == (2, True, False)
    assert stream.news.popleft().changes == (Change("x", 1),)
    exchange.receive(b'{"parameters":{}}\0')
    assert stream.is_settled
    assert stream.outcome() == -1


def test_news_nobody_asked_for_are_dropped() -> None:
    one = call()
    exchange = asked(one)
    exchange.receive(b'{"parameters":{"sequence":1},"continues":true}\0' + answer(2))
    assert (one.outcome(), len(one.news)) == (2, 0)


def test_what_is_granted_to_an_abandoned_call_is_given_back() -> None:
    one, other = call(undo=True), call()
    exchange = asked(one, other)
    exchange.abandon(one)
    assert exchange.to_send() == b""
    assert exchange.receive(answer(5) + answer(6)) == [one, other]
    assert exchange.to_send() == b"undo 5\0"
    assert other.outcome() == 6


def test_what_was_granted_just_before_is_given_back_too_and_once() -> None:
    one = call(undo=True)
    exchange = asked(one)
    exchange.receive(answer(5))
    exchange.abandon(one)
    exchange.abandon(one)
    assert exchange.to_send() == b"undo 5\0"


@pytest.mark.parametrize("reply", [REFUSAL, answer(5)])
def test_there_is_nothing_to_give_back_of_a_refusal_or_of_what_grants_nothing(reply: bytes) -> None:
    one = call(undo=reply == REFUSAL)
    exchange = asked(one)
    exchange.abandon(one)
    exchange.receive(reply)
    assert exchange.to_send() == b""


def test_what_is_told_takes_no_answer() -> None:
    one = call()
    exchange = asked(one)
    exchange.send_oneway(b"told\0")
    assert exchange.to_send() == b"told\0"
    exchange.receive(answer(1))
    assert one.outcome() == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (answer(1) + answer(2), "answer to nothing"),
        (b"HTTP/1.1 400 Bad Request\r\n\0", "not varlink"),
        (b'{"parameters":{"sequence":"x"}}\0', "not varlink"),
        (b'{"error":"a.b.C","parameters":7}\0', "not varlink"),
        (b'"\xff"\0', "not varlink"),
        (b"[" * 100_000 + b"\0", "not varlink"),
        (b"x" * (REPLY_BYTES_MAX + 1), "more than 4194304 bytes"),
    ],
)
def test_what_is_no_answer_breaks_the_exchange(data: bytes, words: str) -> None:
    exchange = asked(call())
    exchange.receive(data)
    assert words in exchange.broken


def test_why_the_daemon_will_not_serve_us_is_what_it_says_unasked() -> None:
    exchange = Exchange("s")
    exchange.receive(
        b'{"error":"io.bcached.Allocator.LimitExceeded","parameters":{"limit":"connections","value":6}}\0'
    )
    assert exchange.broken == "6 exceeds the limit: connections"


@pytest.mark.parametrize(("stop_is_loss", "error"), [(False, ShuttingDown), (True, ConnectionLost)])
def test_a_refusal_by_a_daemon_that_stops(stop_is_loss: bool, error: type) -> None:
    exchange, one = Exchange("s", stop_is_loss=stop_is_loss), call()
    exchange.ask(one)
    exchange.receive(b'{"error":"io.bcached.Allocator.ShuttingDown","parameters":{}}\0')
    with pytest.raises(error, match="the daemon is stopping"):
        one.outcome()


@pytest.mark.parametrize(("reason", "error"), [("gone", ConnectionLost), (CLOSED, ClientClosed)])
def test_the_end_refuses_what_waits_and_all_that_comes_after(reason: str, error: type) -> None:
    one, other = call(), call()
    exchange = asked(one, other)
    exchange.receive(answer(1))
    assert exchange.end(reason) == [other]
    assert one.outcome() == 1
    with pytest.raises(error):
        other.outcome()
    with pytest.raises(error):
        exchange.ask(call())
    exchange.send_oneway(b"told\0")
    assert (exchange.to_send(), exchange.end("again")) == (b"", [])


# However the bytes are cut


@dataclass
class Story:
    """What is asked in turn, how each is answered, which callers stop waiting, and where reads end."""

    kinds: list[str]
    given_up: set[int]
    cuts: list[int] = field(default_factory=list)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    kinds = draw(st.lists(st.sampled_from(["answer", "refusal", "news", "told"]), min_size=1, max_size=12))
    given_up = draw(st.sets(st.integers(0, len(kinds) - 1)))
    return Story(kinds, given_up, draw(st.lists(st.integers(0, 400), max_size=20)))


def replies(kind: str, number: int) -> bytes:
    match kind:
        case "answer":
            return answer(number)
        case "refusal":
            return REFUSAL
        case "news":
            return news(number) + news(number + 1) + b'{"parameters":{}}\0'
        case _:
            return b""


@given(stories())
def test_each_call_gets_its_own_answers_however_the_bytes_are_cut(story: Story) -> None:
    exchange = Exchange("s")
    calls: dict[int, Call[int]] = {}
    for number, kind in enumerate(story.kinds):
        if kind == "told":
            exchange.send_oneway(b"told %d\0" % number)
        else:
            calls[number] = call(undo=kind == "answer", more=kind == "news")
            exchange.ask(calls[number])
    sent = exchange.to_send().split(b"\0")[:-1]
    assert len(sent) == len(story.kinds)
    for number in story.given_up & calls.keys():
        exchange.abandon(calls[number])
    data = b"".join(replies(kind, number) for number, kind in enumerate(story.kinds))
    ends = sorted({min(cut, len(data)) for cut in story.cuts} | {len(data)})
    answered, start = [], 0
    for end in ends:
        answered += exchange.receive(data[start:end])
        start = end
    order = [number for one in answered for number, own in calls.items() if own is one]
    assert order == sorted(order)
    assert not exchange.broken
    given_back = [b"undo %d" % number for number in sorted(story.given_up) if story.kinds[number] == "answer"]
    assert exchange.to_send().split(b"\0")[:-1] == given_back
    for number, one in calls.items():
        assert one.is_settled
        match story.kinds[number]:
            case "answer" if number not in story.given_up:
                assert one.outcome() == number
            case "refusal":
                with pytest.raises(NoSuchVolume):
                    one.outcome()
            case "news":
                told = [each.changes[0].value for each in one.news]
                assert told == ([] if number in story.given_up else [number, number + 1])


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_raise_whatever_they_are(data: bytes, cut: int) -> None:
    exchange = asked(call(), call(more=True))
    for part in (data[:cut], data[cut:] + b"\0"):
        exchange.receive(part)
    assert exchange.broken or msgspec.json.decode(data.split(b"\0")[0]) is not None
