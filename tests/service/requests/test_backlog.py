# SPDX-License-Identifier: GPL-2.0-only
from hypothesis import given
from hypothesis import strategies as st

from bcached.service.requests.backlog import Backlog, lengths

message = st.binary(max_size=5).map(lambda it: it.replace(b"\0", b"x") + b"\0")


@given(st.lists(st.tuples(st.lists(message, min_size=1), st.integers(0, 3), st.integers(0, 4)), max_size=8))
def test_messages_come_out_as_they_went_in(turns: list[tuple[list[bytes], int, int]]) -> None:
    backlog, left = Backlog(), []
    for messages, past_at_most, count in turns:
        past = min(past_at_most, len(messages))
        backlog.add(b"".join(messages), past)
        left += messages[past:]
        some = backlog.first(count)
        assert some == b"".join(left[:count])
        backlog.drop(count)
        left = left[count:]
        assert bool(backlog.block) == bool(left)
    assert backlog.first(len(left)) == b"".join(left)


def test_the_lengths_of_messages_are_told() -> None:
    assert lengths(b"abc\0\0de\0")[:3] == [3, 0, 2]
