# SPDX-License-Identifier: GPL-2.0-only
"""Values to bytes and back."""

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.client.cache.values.serializers import CUSTOM, MSGPACK, PICKLE, RAW, TEXT, Values

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def round_trip(values: Values, value: object) -> object:
    codec, data = values.encode(value)
    return values.decode(codec, bytes(data))


@given(PLAIN)
def test_what_msgpack_holds_comes_back(value: object) -> None:
    values = Values()
    back = round_trip(values, value)
    assert repr(back) == repr(value)
    assert type(back) is type(value)


def test_bytes_and_str_are_stored_as_they_are() -> None:
    values = Values()
    assert values.encode(b"ab") == (RAW, b"ab")
    assert values.encode("é") == (TEXT, b"\xc3\xa9")
    assert round_trip(values, bytearray(b"ab")) == b"ab"
    assert round_trip(values, memoryview(b"abcd").cast("H")) == b"abcd"


def test_what_msgpack_does_not_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        Values().encode(object())


class Returning:
    """A serializer whose dumps returns what it is given."""

    def dumps(self, value: Any, /) -> Any:
        return value

    def loads(self, data: bytes, /) -> Any:
        return data


def test_what_a_serializer_returns_is_made_bytes_or_refused() -> None:
    values = Values(Returning())
    codec, data = values.encode(array("d", [1.0, 2.0]))
    assert (codec, len(data)) == (CUSTOM, 16)
    assert bytes(data) == array("d", [1.0, 2.0]).tobytes()
    for wrong in (5, None, [1]):
        with pytest.raises(TypeError, match=r"dumps of the serializer returned \w+, expected bytes or str"):
            values.encode(wrong)


def test_pickle_is_used_by_name_only() -> None:
    codec, data = Values("pickle").encode({1, 2})
    assert (codec, round_trip(Values("pickle"), {1, 2})) == (PICKLE, {1, 2})
    with pytest.raises(ValueError, match="stored with pickle, and this cache reads msgpack"):
        Values().decode(codec, bytes(data))
    with pytest.raises(ValueError, match="no serializer 'picle'"):
        Values("picle")


def test_a_serializer_of_the_callers_own() -> None:
    class Json:
        def dumps(self, value: Any, /) -> bytes:
            return json.dumps(value).encode()

        def loads(self, data: bytes, /) -> Any:
            return json.loads(data)

    values = Values(Json())
    assert values.encode([1]) == (CUSTOM, b"[1]")
    assert values.decode(CUSTOM, b"[1]") == [1]
    with pytest.raises(ValueError, match="stored with msgpack"):
        values.decode(MSGPACK, b"\x91\x01")
    with pytest.raises(ValueError, match="stored with codec 9"):
        values.decode(9, b"")


def test_a_module_that_makes_text_is_a_serializer() -> None:
    values = Values(json)
    assert values.encode({"k": "ü"}) == (CUSTOM, b'{"k": "\\u00fc"}')
    assert round_trip(values, {"k": "ü"}) == {"k": "ü"}
    for other in (5, None, object()):
        with pytest.raises(TypeError, match="expected an object with dumps and loads"):
            Values(other)  # type: ignore[arg-type]


def test_a_view_with_gaps_is_stored_as_its_bytes() -> None:
    assert round_trip(Values(), memoryview(b"abcdef")[::2]) == b"ace"
