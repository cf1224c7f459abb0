# SPDX-License-Identifier: GPL-2.0-only
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.format.label import LABEL_BYTES, pack_label, parse_label, printable_label
from bcached.wire.volume_messages import LABEL_BYTES_MAX


@given(st.binary(min_size=LABEL_BYTES, max_size=LABEL_BYTES))
def test_a_label_goes_back_as_it_was_up_to_its_first_zero(raw: bytes) -> None:
    text = raw.split(b"\0")[0]
    assert pack_label(parse_label(raw)) == text.ljust(LABEL_BYTES, b"\0")


@given(st.binary(min_size=LABEL_BYTES, max_size=LABEL_BYTES))
def test_every_label_can_be_printed(raw: bytes) -> None:
    printed = printable_label(parse_label(raw))
    printed.encode()
    assert not any(unicodedata.category(character) == "Cc" for character in printed)


def test_text_stays_text() -> None:
    assert parse_label(pack_label("Größe")) == printable_label("Größe") == "Größe"


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    assert printable_label("\x1b]0;a\x07 \x9bb\n") == "�]0;a� �b�"


@pytest.mark.parametrize("label", ["x" * 33, "ü" * 17, "a\0b"])
def test_what_does_not_fit_is_our_own_bug(label: str) -> None:
    with pytest.raises(AssertionError):
        pack_label(label)


def test_clients_refuse_what_is_longer_than_the_field() -> None:
    assert LABEL_BYTES_MAX == LABEL_BYTES
