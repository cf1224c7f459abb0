# SPDX-License-Identifier: MIT
"""Values to bytes and back: bytes and str as they are, all else by a serializer.

The codec is stored with the value, and a value of another serializer is refused, not guessed at.
"""

from importlib import import_module
from typing import Any, Protocol

import msgspec

from bcached.client.arguments import utf8

RAW, TEXT, MSGPACK, PICKLE, CUSTOM = 0, 1, 2, 3, 16
CODECS = {
    RAW: "bytes",
    TEXT: "str",
    MSGPACK: "msgpack",
    PICKLE: "pickle",
    CUSTOM: "a serializer of its writer",
}


class Serializer(Protocol):
    """As the modules json, pickle and marshal have it."""

    def dumps(self, value: Any, /) -> bytes | str:
        """Returns the value as bytes, or as text, which is stored as UTF-8."""

    def loads(self, data: bytes, /) -> Any:
        """Returns the value of these bytes."""


class _Msgpack:
    def dumps(self, value: Any, /) -> bytes:
        return msgspec.msgpack.encode(value)

    def loads(self, data: bytes, /) -> Any:
        return msgspec.msgpack.decode(data)


class Values:
    """Encodes and decodes values with one serializer.

    serializer: "msgpack", "pickle", or an object with dumps and loads. Unpickling runs code that the pickle
    names: choose "pickle" only if every program that may write to the volume is trusted.
    """

    def __init__(self, serializer: "str | Serializer" = "msgpack") -> None:
        self._serializer: Serializer
        if serializer == "msgpack":
            self._codec, self._serializer = MSGPACK, _Msgpack()
        elif serializer == "pickle":
            self._codec, self._serializer = PICKLE, import_module("pickle")
        elif isinstance(serializer, str):
            raise ValueError(f'no serializer {serializer!r}: expected "msgpack", "pickle", or an object')
        elif not (
            callable(getattr(serializer, "dumps", None)) and callable(getattr(serializer, "loads", None))
        ):
            raise TypeError(f"no serializer {serializer!r}: expected an object with dumps and loads")
        else:
            self._codec, self._serializer = CUSTOM, serializer

    def encode(self, value: Any) -> tuple[int, bytes | memoryview]:
        """Returns codec and bytes. Raises what the serializer does, TypeError of msgpack."""
        kind = type(value)
        if kind is bytes:
            return RAW, value
        if kind is str:
            return TEXT, utf8("a str value", value)
        if kind is bytearray or kind is memoryview:
            return RAW, _flat(memoryview(value))
        data = self._serializer.dumps(value)
        if type(data) is bytes:
            return self._codec, data
        if isinstance(data, str):
            return self._codec, utf8("what dumps of the serializer returns", data)
        return self._codec, _of_serializer(data)

    def decode(self, codec: int, data: bytes) -> Any:
        """Returns the value. Raises ValueError for a codec that this serializer does not read."""
        if codec == RAW:
            return data
        if codec == TEXT:
            return data.decode()
        if codec != self._codec:
            raise ValueError(
                f"the value was stored with {CODECS.get(codec, f'codec {codec}')}, "
                f"and this cache reads {CODECS[self._codec]}: open it with that serializer"
            )
        return self._serializer.loads(data)


def _of_serializer(data: Any) -> bytes | memoryview:
    """Returns what a serializer has made as bytes. Raises TypeError if it is neither bytes nor like them."""
    try:
        return _flat(memoryview(data))
    except TypeError:
        raise TypeError(
            f"dumps of the serializer returned {type(data).__name__}, expected bytes or str"
        ) from None


def _flat(view: memoryview) -> bytes | memoryview:
    """Returns a view of bytes, whatever its items are."""
    return view.cast("B") if view.c_contiguous else view.tobytes()
