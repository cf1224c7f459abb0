# SPDX-License-Identifier: GPL-2.0-only
import json

import pytest

from bcached.errors import InterfaceNotFound, InvalidParameter, MethodNotFound, RequestError
from bcached.wire import messages
from bcached.wire.codec import decode_requests
from bcached.wire.methods import Request

POINTER = {"device": 0, "sector": 8, "gen": 0}
KEY = {
    "inode": 1,
    "offset": 8,
    "sectors": 8,
    "dirty": False,
    "pointers": [POINTER],
}
EXTENT = {"inode": 1, "offset": 8, "sectors": 8}


def refusal(message: bytes) -> RequestError:
    (error,) = decode_requests(message + b"\0")
    assert isinstance(error, RequestError), error
    return error


def call(method: str, parameters: object, **envelope: object) -> bytes:
    return json.dumps({"method": method, "parameters": parameters, **envelope}).encode()


def allocator(method: str, parameters: object, **envelope: object) -> bytes:
    return call(f"io.bcached.Allocator.{method}", parameters, **envelope)


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        (allocator("Allocate", {**EXTENT, "sectors": "8"}), "sectors"),
        (allocator("Allocate", {**EXTENT, "sectors": 8.0}), "sectors"),
        (allocator("Allocate", {**EXTENT, "sectors": True}), "sectors"),
        (allocator("Allocate", {**EXTENT, "sectors": None}), "sectors"),
        (allocator("Allocate", {**EXTENT, "sectors": 0}), "sectors"),
        (allocator("Allocate", {**EXTENT, "sectors": [8]}), "sectors"),
        (allocator("Allocate", {**EXTENT, "inode": -1}), "inode"),
        (allocator("Allocate", {**EXTENT, "inode": 1 << 20}), "inode"),
        (allocator("Allocate", {**EXTENT, "offset": 1 << 63}), "offset"),
        (allocator("Allocate", {**EXTENT, "offset": (1 << 62) - (1 << 40) + 1}), "offset"),
        (allocator("Allocate", {**EXTENT, "offset": -(1 << 63) - 1}), "offset"),
        (allocator("Allocate", {**EXTENT, "offset": 10**400}), "offset"),
        (allocator("Allocate", {**EXTENT, "write_point": 1 << 63}), "write_point"),
        (allocator("Allocate", {**EXTENT, "write_prio": -1}), "write_prio"),
        (allocator("Allocate", {**EXTENT, "replicas": 7}), "replicas"),
        (allocator("Allocate", {**EXTENT, "replicas": 0}), "replicas"),
        (allocator("Allocate", {**EXTENT, "timeout_ms": 300_001}), "timeout_ms"),
        (allocator("Allocate", {**EXTENT, "wait": 1}), "wait"),
        (allocator("Allocate", {**EXTENT, "whole": "yes"}), "whole"),
        (allocator("Allocate", {**EXTENT, "colour": 1}), "colour"),
        (allocator("Allocate", {"inode": 1, "sectors": 8}), "offset"),
        (allocator("Allocate", {}), "inode"),
        (allocator("Allocate", None), "parameters"),
        (allocator("Allocate", []), "parameters"),
        (allocator("AllocateMany", {"requests": EXTENT}), "requests"),
        (allocator("AllocateMany", {"requests": [EXTENT, {**EXTENT, "inode": "x"}]}), "requests"),
        (allocator("AllocateMany", {"requests": [EXTENT] * 1001}), "requests"),
        (allocator("Release", {"keys": [{**KEY, "pointers": []}]}), "keys"),
        (allocator("Release", {"keys": [{**KEY, "pointers": [POINTER] * 7}]}), "keys"),
        (allocator("Release", {"keys": [{**KEY, "sectors": 65536}]}), "keys"),
        (
            allocator("Release", {"keys": [{**KEY, "pointers": [{"device": 0, "sector": -1, "gen": 0}]}]}),
            "keys",
        ),
        (allocator("Release", {"keys": [{**KEY, "x": 1}]}), "keys"),
        (allocator("Commit", {"keys": [{**KEY, "sectors": 0}]}), "keys"),
        (allocator("Commit", {"keys": KEY}), "keys"),
        (allocator("Commit", {"keys": [], "durable": "yes"}), "durable"),
        (allocator("Commit", {"keys": [], "timeout_ms": -1}), "timeout_ms"),
        (allocator("Commit", {}), "keys"),
        (allocator("MarkClean", {"keys": [{**KEY, "dirty": 1}]}), "keys"),
        (allocator("Lookup", {**EXTENT, "limit": 0}), "limit"),
        (allocator("Lookup", {**EXTENT, "limit": 1001}), "limit"),
        (allocator("Lookup", {**EXTENT, "sectors": 1 << 62}), "sectors"),
        (allocator("Lookup", {**EXTENT, "offset": (1 << 62) + 1}), "offset"),
        (allocator("Lookup", {**EXTENT, "whole": True}), "whole"),
        (allocator("LookupMany", {"requests": [EXTENT] * 1001}), "requests"),
        (allocator("LookupMany", {"requests": [{**EXTENT, "limit": 1001}]}), "requests"),
        (allocator("Unpin", {"keys": [None]}), "keys"),
        (allocator("Invalidate", {**EXTENT, "sectors": 0}), "sectors"),
        (allocator("Flush", {"durable": True}), "durable"),
        (allocator("FreeBucket", {"key": {**KEY, "inode": 1 << 70}}), "key"),
        (allocator("Describe", {"x": 1}), "x"),
        (allocator("Describe", {}, colour=1), "colour"),
        (allocator("Describe", {}, more="yes"), "more"),
        (b'{"method":"io.bcached.Allocator.Allocate"}', "inode"),
        (call("io.bcached.Admin.SetReplacement", {"policy": "clock"}), "policy"),
        (call("io.bcached.Admin.SetDiscard", {}), "discard"),
        (call("io.bcached.Monitor.Watch", {"interval_ms": 99}), "interval_ms"),
        (b'{"method":5}', "method"),
        (b"{}", "method"),
        (b"[]", "method"),
        (b"7", "method"),
        (b"null", "method"),
        (b"", "message"),
        (b"nonsense", "message"),
        (b'{"method":"io.bcached.Allocator.Describe"', "message"),
        (b'{"method":"io.bcached.Allocator.Describe"}}', "message"),
        (b"\xff\xfe", "message"),
        (b'{"method":"\xff"}', "message"),
        (b'{"method":"a\nb"}', "message"),
        (b"[" * 100_000, "method"),
        (b'{"a":' * 100_000, "message"),
    ],
)
def test_a_bad_message_is_told_which_parameter_is_wrong(message: bytes, parameter: str) -> None:
    error = refusal(message)
    assert isinstance(error, InvalidParameter)
    assert error.fields["parameter"] == parameter
    assert error.fields["reason"]
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            allocator(
                "Commit", {"keys": [KEY, {**KEY, "pointers": [{"device": 0, "sector": 8, "gen": 256}]}]}
            ),
            "expected an integer <= 255 at keys[1].pointers[0].gen",
        ),
        (
            allocator("AllocateMany", {"requests": [{"inode": 1, "offset": 8}]}),
            "Object missing required field `sectors` at requests[0]",
        ),
        (allocator("Release", {"keys": [7]}), "expected an object, found an integer at keys[0]"),
        (allocator("Allocate", {**EXTENT, "offset": "8"}), "expected an integer, found a string"),
    ],
)
def test_the_reason_says_where_in_the_parameter(message: bytes, reason: str) -> None:
    assert refusal(message).fields["reason"] == reason


@pytest.mark.parametrize(
    "message",
    [
        b'{"method":"io.bcached.Allocator.Release","parameters":{"keys":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
        b'{"method":"io.bcached.Allocator.Release","parameters":{"x":'
        + b'{"a":' * 100_000
        + b"1"
        + b"}" * 100_002,
    ],
)
def test_deep_nesting_is_refused_like_any_other_nonsense(message: bytes) -> None:
    assert isinstance(refusal(message), InvalidParameter)


@pytest.mark.parametrize(
    ("method", "interface"),
    [("io.bcached.Nothing.Allocate", "io.bcached.Nothing"), ("Allocate", ""), ("", ""), ("a.b", "a")],
)
def test_an_unknown_interface_is_named(method: str, interface: str) -> None:
    error = refusal(call(method, {}))
    assert isinstance(error, InterfaceNotFound)
    assert error.fields == {"interface": interface}


@pytest.mark.parametrize(
    "method", ["io.bcached.Allocator.Comit", "org.varlink.service.Get", "io.bcached.Admin."]
)
def test_an_unknown_method_of_a_known_interface_is_named(method: str) -> None:
    error = refusal(call(method, {"anything": [1, 2]}))
    assert isinstance(error, MethodNotFound)
    assert error.fields == {"method": method}


def test_a_field_given_twice_means_the_last() -> None:
    (request,) = decode_requests(
        b'{"method":"io.bcached.Allocator.Allocate","parameters":{"inode":1,"offset":8,"sectors":8,"inode":2}}\0'
    )
    assert isinstance(request, Request)
    assert isinstance(request.parameters, messages.Allocate)
    assert request.parameters.inode == 2


def test_a_method_given_twice_is_refused() -> None:
    error = refusal(b'{"method":"io.bcached.Allocator.Describe","method":"io.bcached.Allocator.MapGens"}')
    assert error.fields["parameter"] == "method"


def test_an_error_echoes_no_more_than_a_line_of_what_was_sent() -> None:
    long = "x" * 500_000
    for message in (call(long, {}), call(f"io.bcached.Admin.{long}", {}), allocator("Describe", {long: 1})):
        assert all(len(str(value)) <= 200 for value in refusal(message).fields.values())
