# SPDX-License-Identifier: GPL-2.0-only
"""Labels: 32 bytes of text, padded with zeros; the kernel checks none."""

import re

LABEL_BYTES = 32

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


def parse_label(raw: bytes) -> str:
    """Returns the text up to the first zero byte.

    Bytes that are not UTF-8 (the kernel cuts in mid-character) are kept as lone surrogates, as Python does
    with file names, so that a label of the kernel is written back unchanged.
    """
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def label_bytes(label: str) -> bytes:
    """Returns the bytes of a label, not padded; callers check the length of a user's label."""
    return label.encode("utf-8", "surrogateescape")


def pack_label(label: str) -> bytes:
    """The 32 bytes of a label."""
    raw = label_bytes(label)
    assert len(raw) <= LABEL_BYTES, f"label {label!r} has {len(raw)} bytes"
    assert b"\0" not in raw, "label with a zero byte inside"
    return raw.ljust(LABEL_BYTES, b"\0")


def printable_label(label: str) -> str:
    """Returns the label fit for JSON and terminals: non-text shows as a replacement character."""
    return _CONTROL.sub("\ufffd", label_bytes(label).decode("utf-8", "replace"))
