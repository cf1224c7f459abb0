# SPDX-License-Identifier: GPL-2.0-only
"""The open entry: keys in order of acceptance, never more words than were reserved."""

import pytest

from bcached.store.journal.open_entry import OpenEntry


def test_it_gives_back_what_it_was_given_in_order_and_is_empty_then() -> None:
    entry = OpenEntry(100, lambda: 7.0)
    assert entry.append(b"first", 3, 1)
    assert not entry.append(b"second", 5, 2)
    assert (entry.words, entry.key_count, entry.opened_at) == (8, 3, 7.0)
    assert entry.close() == b"firstsecond"
    assert (entry.words, entry.key_count, entry.opened_at) == (0, 0, None)
    assert entry.append(b"third", 1, 1)


def test_it_ages_from_its_first_key() -> None:
    now = [1.0]
    entry = OpenEntry(100, lambda: now[0])
    entry.append(b"", 1, 1)
    now[0] = 2.0
    entry.append(b"", 1, 1)
    assert entry.opened_at == 1.0


def test_grants_are_used_up_and_outlive_the_entry() -> None:
    entry = OpenEntry(100, lambda: 0.0)
    entry.granted_words = 10
    entry.append(b"", 4, 1)
    entry.close()
    assert entry.granted_words == 6


@pytest.mark.parametrize("words", [0, 101])
def test_no_words_and_too_many_are_a_bug(words: int) -> None:
    with pytest.raises(AssertionError, match="reserved"):
        OpenEntry(100, lambda: 0.0).append(b"", words, 1)
