# SPDX-License-Identifier: GPL-2.0-only
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import InvalidParameter, RequestError
from bcached.keys import Key, Pointer
from bcached.wire import admin_messages, codec, messages, volume_messages
from bcached.wire.client_codec import Question, encode_question
from bcached.wire.codec import Continued, Refusal, Reply, decode_requests, encode_replies
from bcached.wire.methods import METHODS, Request

ALLOCATE = b'{"method":"io.bcached.Allocator.Allocate","parameters":{"inode":1,"offset":8,"sectors":16}}'
DESCRIBE = b'{"method":"io.bcached.Allocator.Describe"}'
KEY = Key(1, 8, 16, False, (Pointer(0, 1024, 3),))


def block(*parts: bytes) -> bytes:
    return b"".join(part + b"\0" for part in parts)


def kinds(*parts: bytes) -> list[str]:
    return [type(request).__name__ for request in decode_requests(block(*parts))]


def test_a_request_is_the_struct_of_its_method() -> None:
    (request,) = decode_requests(block(ALLOCATE))
    assert isinstance(request, Request)
    assert request.parameters == messages.Allocate(inode=1, offset=8, sectors=16)
    assert (request.oneway, request.more, request.upgrade) == (False, False, False)


def test_null_means_left_out() -> None:
    (request,) = decode_requests(
        block(ALLOCATE.replace(b'"sectors":16', b'"sectors":16,"wait":null,"write_point":null'))
    )
    assert isinstance(request, Request)
    assert request.parameters == messages.Allocate(inode=1, offset=8, sectors=16)


def test_a_read_of_many_gives_one_request_each_in_order() -> None:
    assert kinds(ALLOCATE, DESCRIBE, ALLOCATE) == ["Allocate", "Describe", "Allocate"]


def test_a_bad_message_among_good_ones_gets_its_own_error() -> None:
    assert kinds(ALLOCATE, b"nonsense", DESCRIBE) == ["Allocate", "InvalidParameter", "Describe"]
    assert kinds(ALLOCATE, b"", DESCRIBE) == ["Allocate", "InvalidParameter", "Describe"]


@pytest.mark.parametrize(
    "parts",
    [
        (DESCRIBE + DESCRIBE,),
        (DESCRIBE + b"\n" + DESCRIBE,),
        (DESCRIBE + b"," + DESCRIBE, DESCRIBE),
        (DESCRIBE + DESCRIBE, DESCRIBE[:10], DESCRIBE[10:]),
        (DESCRIBE + DESCRIBE, b'{"method":', b'"io.bcached.Allocator.Describe"}'),
        (
            DESCRIBE + DESCRIBE,
            ALLOCATE[:-1] + b' , "x":{}',
            b'{"y":1}}',
        ),
        (DESCRIBE + b"x", DESCRIBE),
        (DESCRIBE[:-1] + b"\n", b"}", DESCRIBE + DESCRIBE),
    ],
)
def test_a_message_is_one_json_object_no_more_and_no_less(parts: tuple[bytes, ...]) -> None:
    strict = []
    for part in parts:
        try:
            strict.append(type(codec._requests.decode(part)).__name__)
        except (msgspec.DecodeError, UnicodeDecodeError):
            strict.append("error")
    found = decode_requests(block(*parts))
    assert "error" in strict
    assert ["error" if isinstance(one, RequestError) else type(one).__name__ for one in found] == strict


@given(
    st.lists(
        st.sampled_from(
            [
                ALLOCATE,
                DESCRIBE,
                b"{",
                b"}",
                b'"',
                b",",
                b"\n",
                b" ",
                b"{}",
                b"[",
                b"]",
                b'{"method":',
                b"\xff",
            ]
        ),
        min_size=1,
        max_size=6,
    ).map(b"".join),
    st.integers(min_value=0, max_value=5),
)
def test_reading_a_block_at_once_never_differs_from_reading_each_message(text: bytes, cuts: int) -> None:
    step = max(1, len(text) // (cuts + 1))
    parts = [text[at : at + step] for at in range(0, len(text), step)] + [DESCRIBE]
    found = [repr(one) for one in decode_requests(block(*parts))]
    assert found == [repr(one) for one in codec._decode_one_by_one(block(*parts))]


def test_replies_read_as_the_words_of_varlink() -> None:
    written = encode_replies(
        [
            Reply(messages.Allocated((KEY,))),
            Reply(messages.Done()),
            Continued(admin_messages.News(changes=(admin_messages.Change("min_prio", 3),))),
            Refusal("io.bcached.Allocator.NotReserved", {"key": KEY}),
            codec.encode_reply(Reply(volume_messages.NewVolume(7))),
        ]
    )
    key = b'{"inode":1,"offset":8,"sectors":16,"dirty":false,"pointers":[{"device":0,"sector":1024,"gen":3}]}'
    assert written.split(b"\0") == [
        b'{"parameters":{"keys":[%s]}}' % key,
        b'{"parameters":{}}',
        b'{"parameters":{"changes":[{"name":"min_prio","value":3}]},"continues":true}',
        b'{"error":"io.bcached.Allocator.NotReserved","parameters":{"key":%s}}' % key,
        b'{"parameters":{"inode":7}}',
        b"",
    ]


def test_next_is_told_only_where_there_is_more() -> None:
    whole, cut = messages.Found((KEY,)), messages.Found((), next=0)
    first, second, _ = encode_replies([Reply(whole), Reply(cut)]).split(b"\0")
    assert list(msgspec.json.decode(first)["parameters"]) == ["keys"]
    assert msgspec.json.decode(second) == {"parameters": {"keys": [], "next": 0}}


def test_newlines_and_nuls_in_strings_stay_inside_their_reply() -> None:
    written = encode_replies([Reply(admin_messages.Lines(("a\nb\0c",)))] * 2)
    assert written.count(b"\0") == 2
    assert b"\n" not in written
    first = written.split(b"\0")[0]
    assert msgspec.json.decode(first) == {"parameters": {"lines": ["a\nb\0c"]}}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_client_encodes_the_daemon_decodes(name: str) -> None:
    samples = {
        "inode": 1,
        "offset": 8,
        "sectors": 16,
        "keys": (KEY,),
        "key": KEY,
        "requests": (messages.Extent(1, 8, 16),),
        "policy": "fifo",
        "discard": True,
        "buckets": (messages.Bucket(0, 1, 2),),
        "label": "x",
        "interface": "a.b",
    }
    method = METHODS[name]
    if name.endswith(".LookupMany"):
        samples["requests"] = (messages.Lookup(1, 8, 16, limit=1, pin=True, touch=False),)
    fields = [field.name for field in msgspec.structs.fields(method.parameters) if field.required]
    parameters = method.parameters(**{field: samples[field] for field in fields})
    question = encode_question(Question(name, parameters))
    assert decode_requests(question) == [method.request(parameters=parameters)]


def test_an_error_in_place_of_a_request_is_not_a_request() -> None:
    (bad,) = decode_requests(b"{}\0")
    assert isinstance(bad, InvalidParameter)
    assert bad.fields["parameter"] == "method"
