"""Labels: 32 bytes of text, padded with zeros, that nobody ever checked."""

import re

LABEL_BYTES = 32

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")


def parse_label(raw: bytes) -> str:
    """The text up to the first zero byte.

    Bytes that are not UTF-8 (the kernel cuts in mid-character) are kept as lone surrogates, as Python does
    with file names, so that a label we did not write goes back to disk as it was.
    """
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def label_bytes(label: str) -> bytes:
    """The bytes of a label, not padded; callers that take a label from a user check their number."""
    return label.encode("utf-8", "surrogateescape")


def pack_label(label: str) -> bytes:
    """The 32 bytes of a label."""
    raw = label_bytes(label)
    assert len(raw) <= LABEL_BYTES, f"label {label!r} has {len(raw)} bytes"
    assert b"\0" not in raw, "a label has no zero byte inside"
    return raw.ljust(LABEL_BYTES, b"\0")


def printable_label(label: str) -> str:
    """The label fit for JSON and terminals: what is no text there shows as a replacement character."""
    return _CONTROL.sub("\ufffd", label_bytes(label).decode("utf-8", "replace"))
