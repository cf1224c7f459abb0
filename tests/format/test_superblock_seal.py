# SPDX-License-Identifier: GPL-2.0-only
"""The identity of a superblock, put right over fields that are kept."""

import pytest

from bcached.errors import BadField
from bcached.format.superblock_seal import checksum_of, resealed
from instruments.samples.format_samples import SUPERBLOCK, with_field


def test_a_sound_superblock_stays_as_it_is() -> None:
    raw = SUPERBLOCK.pack()
    assert resealed(raw, "here") == raw
    assert checksum_of(raw, "here") == int.from_bytes(raw[:8], "little")


def test_an_erased_magic_and_a_wrong_checksum_are_put_right() -> None:
    raw = SUPERBLOCK.pack()
    erased = bytes(16) + raw[16:24] + bytes(16) + raw[40:]
    assert resealed(erased, "here") == raw


def test_other_fields_are_kept() -> None:
    changed = with_field(SUPERBLOCK.pack(), 112, "Q", 99)
    assert resealed(changed, "here")[8:] == changed[8:]


def test_without_the_length_of_the_checksum_there_is_none() -> None:
    with pytest.raises(BadField, match="njournal_buckets: expected at most 256, found 257"):
        resealed(with_field(SUPERBLOCK.pack(), 206, "H", 257), "here")
