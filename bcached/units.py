# SPDX-License-Identifier: MIT
"""Sizes: sectors, bytes, and their short form (64k, 512M, 1T)."""

import re

SECTOR_BYTES = 512
SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Returns the bytes of "4096", "64k", "512M", "2G", "1T" (powers of 1024); else ValueError."""
    match = re.fullmatch(r"(\d{1,19})([kmgt]?)(?:i?b)?", text.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size: expected digits and one of k, M, G, T")
    return int(match[1]) * SUFFIXES[match[2]]


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: "1 bucket", "1,024 buckets"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_size(size_bytes: int) -> str:
    """Returns the shortest exact or one-decimal form of a size: 65536 is "64k", 1536 is "1.5k"."""
    for suffix, unit in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)):
        if size_bytes >= unit:
            whole, rest = divmod(size_bytes, unit)
            return f"{whole}{suffix}" if rest == 0 else f"{size_bytes / unit:.1f}{suffix}"
    return str(size_bytes)
