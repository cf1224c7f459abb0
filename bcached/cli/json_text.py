# SPDX-License-Identifier: GPL-2.0-only
"""JSON for programs, with any path: Python's json module reads back names that are not UTF-8, too."""

import json

import msgspec


def json_line(document: object) -> bytes:
    """Returns a document as one line."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(document), separators=(",", ":")).encode()


def json_text(document: object) -> bytes:
    """Returns a document as indented text."""
    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(document), indent=2).encode()
