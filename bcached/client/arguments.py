# SPDX-License-Identifier: MIT
"""Checks of what callers pass: each says at once what was expected, before anything is sent or stored."""

import os
from collections.abc import Iterable
from typing import Any, TypeVar

from bcached.keys import INODE_MAX
from bcached.wire.volume_messages import LABEL_BYTES_MAX

T = TypeVar("T")

SHOWN_CHARACTERS = 80  # of a value that is wrong


def shown(value: object) -> str:
    """Returns a value as an error shows it."""
    try:
        text = repr(value)
    except Exception:  # of an object's own making; or an int of more digits than Python converts
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def socket_path(path: object) -> str:
    """Returns the path of a socket. Raises TypeError for what is neither str nor a path, ValueError."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"the path of a socket is a str or a path, not {shown(path)}")
    if not text:
        raise ValueError("the path of a socket has at least one character, found ''")
    return text


def patience(seconds: Any) -> float:
    """Returns how long to wait for a daemon; infinity is for ever. Raises TypeError or ValueError."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"patience_s is a number of seconds, not {shown(seconds)}")
    if not seconds >= 0:  # also a NaN
        raise ValueError(f"patience_s is a number of seconds from 0 on, not {shown(seconds)}")
    return seconds


def check_cache_arguments(path: object, volume: object, patience_s: object) -> None:
    """Raises TypeError or ValueError for what no cache can be made with."""
    socket_path(path)
    volume_named(volume)
    patience(patience_s)


def flags(**values: object) -> None:
    """Raises TypeError for a value that is neither True nor False: "no" would count as true."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is True or False, not {shown(value)}")


def volume_named(volume: Any) -> str | int:
    """Returns the label or the inode of a volume. Raises TypeError or ValueError for what can be neither."""
    if isinstance(volume, bool) or not isinstance(volume, str | int):
        raise TypeError(f"a volume is its label (str) or its inode (int), not {shown(volume)}")
    if isinstance(volume, int):
        if not 0 <= volume <= INODE_MAX:
            raise ValueError(f"the inode of a volume is 0 to {INODE_MAX}, not {shown(volume)}")
    elif not 0 < len(utf8("the label of a volume", volume)) <= LABEL_BYTES_MAX or "\0" in volume:
        most = f"1 to {LABEL_BYTES_MAX} bytes, none of them zero"
        raise ValueError(f"the label of a volume has {most}, found {shown(volume)}")
    return volume


def utf8(what: str, text: str) -> bytes:
    """Returns a text as bytes. Raises ValueError for surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is text that UTF-8 has, found {shown(text)}") from None


def several(what: str, values: Iterable[T]) -> Iterable[T]:
    """Returns the values, which are not the characters of a single one. Raises TypeError."""
    if not isinstance(values, str | bytes):
        try:
            iter(values)
        except TypeError:
            pass
        else:
            return values
    raise TypeError(f"expected several {what}, found {shown(values)}")
