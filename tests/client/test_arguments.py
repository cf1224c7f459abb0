# SPDX-License-Identifier: GPL-2.0-only
"""What a caller passes by mistake is refused before anything is sent, with what was expected; all goes on."""

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bcached.client import BlockingClient, Client
from bcached.client.arguments import shown
from bcached.client.gens import Instant
from bcached.client.protocol.request_check import check_request
from bcached.errors import InvalidParameter
from bcached.format.label import LABEL_BYTES
from bcached.keys import Key, Pointer
from bcached.wire.messages import Bucket, Extent, Lookup
from bcached.wire.volume_messages import LABEL_BYTES_MAX, CreateVolume, VolumeOwner
from instruments.clients.served_set import served
from instruments.samples.odd_arguments import (
    CONSTRUCTORS,
    HUGE,
    NO_FLAG,
    SURROGATE,
    Case,
    of,
)

KEY = Key(0, 0, 8, False, (Pointer(0, 8000, 0),))
NO_INT: tuple[Any, ...] = (b"1", "1", math.nan, math.inf, 1.0, True, None, object())
NO_INT_OR_NONE = tuple(one for one in NO_INT if one is not None)
NO_NATURAL: tuple[Any, ...] = (-1, -math.inf, 1 << 64, HUGE)
NO_KEY: tuple[Any, ...] = (None, 5, "key", (0, 0, 8), [KEY])

OF_CLIENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"direct": one}, TypeError, "direct is True or False") for one in (*NO_FLAG, None)
]


def requests() -> Iterator[Case]:
    """Calls of a client with one wrong argument."""
    return chain(no_integers(), out_of_range(), no_flags_and_texts(), no_keys(), no_items())


def no_integers() -> Iterator[Case]:
    for one in NO_INT:
        yield of("allocate", TypeError, "inode: expected int, found", one, 0, 8)
        yield of("lookup", TypeError, "offset: expected int, found", 0, one, 8)
        yield of("invalidate", TypeError, "sectors: expected int, found", 0, 0, one)
        yield of("delete_volume", TypeError, "inode: expected int, found", one)
        yield of("set_volume_owner", TypeError, "inode: expected int, found", one, None)
        yield of("fetch", TypeError, "inode: expected int, found", one, 0, 8)
        yield of("fetch_many", TypeError, r"requests\[0\].sectors: expected int, found", [(0, 0, one)])
        yield of("store", TypeError, "inode: expected int, found", one, 0, bytes(4096))
        yield of("store_many", TypeError, "offset: expected int, found", [(0, one, bytes(4096))])
        yield of("lookup_many", TypeError, r"requests\[1\].inode", [Lookup(0, 0, 8), Lookup(one, 0, 8)])
        yield of("allocate_many", TypeError, r"requests\[0\].offset", [Extent(0, one, 8)])
        yield of("commit", TypeError, r"keys\[0\].inode", [Key(one, 0, 8, False, KEY.pointers)])
        yield of("release", TypeError, "sector: expected int", [Key(0, 0, 8, False, (Pointer(0, one, 0),))])
        yield of("touch", TypeError, r"buckets\[0\].gen", [Bucket(0, 0, one)])
    for one in NO_INT_OR_NONE:
        yield of("allocate_bucket", TypeError, "timeout_ms: expected int or None, found", timeout_ms=one)
        yield of("commit", TypeError, "timeout_ms: expected int or None, found", [KEY], timeout_ms=one)
        yield of("store", TypeError, "timeout_ms: expected int or None", 0, 0, bytes(4096), timeout_ms=one)
        yield of("store", TypeError, "write_point: expected int or None", 0, 0, bytes(4096), write_point=one)
        yield of("store", TypeError, "replicas: expected int or None", 0, 0, bytes(4096), replicas=one)
        yield of("commit_if", TypeError, r"if_versions\[0\]: expected int", [KEY], if_versions=[one])
        yield of("watch", TypeError, "interval_ms: expected int or None", one)
        yield of("trace", TypeError, "limit: expected int or None", limit=one)
        yield of("create_volume", TypeError, "owner.user: expected int or", "x", owner=VolumeOwner(user=one))


def out_of_range() -> Iterator[Case]:
    for one in NO_NATURAL:
        kind = TypeError if isinstance(one, float) else ValueError
        yield of("lookup", kind, "inode: expected int", one, 0, 8)
        yield of("fetch", kind, "offset: expected int", 0, one, 8)
        yield of("allocate_bucket", kind, "timeout_ms: expected int", timeout_ms=one)
        yield of("store", kind, "offset: expected int", 0, one, bytes(4096))
        yield of("watch", kind, "interval_ms: expected int", one)
        yield of("atomic_bytes", kind, "replicas: expected int", one)


def no_flags_and_texts() -> Iterator[Case]:
    for one in NO_FLAG:
        yield of("allocate", TypeError, "whole: expected bool or None, found", 0, 0, 8, whole=one)
        yield of("store", TypeError, "dirty: expected bool or None, found", 0, 0, bytes(4096), dirty=one)
        yield of("store", TypeError, "durable: expected bool or None, found", 0, 0, bytes(4096), durable=one)
        yield of("fetch", TypeError, "touch: expected bool or None, found", 0, 0, 8, touch=one)
        yield of("set_discard", TypeError, "discard: expected bool, found", one)
        yield of("collect_garbage", TypeError, "wait: expected bool or None, found", wait=one)
    for one in (b"x", bytearray(b"x"), memoryview(b"x"), 5, math.nan, None, ["x"], object()):
        yield of("create_volume", TypeError, "label: expected", one)
        yield of("open_volume", TypeError, "label: expected", one)
        yield of("set_replacement", TypeError, "policy: expected", one)
        yield of("trace", TypeError, r"events\[0\]: expected|events: expected", one)
    yield of("create_volume", ValueError, "label: expected text that UTF-8 has", SURROGATE)
    yield of("open_volume", ValueError, "label: expected text that UTF-8 has", SURROGATE)
    yield of("create_volume", TypeError, "uuid: expected str or None, found b'x'", "x", uuid=b"x")
    yield of("create_volume", TypeError, "owner: expected VolumeOwner or None, found 'x'", "x", owner="x")
    yield of("set_replacement", ValueError, r"policy: expected one of 'lru', .* found 'mru'", "mru")


def no_keys() -> Iterator[Case]:
    for one in NO_KEY:
        yield of("free_bucket", TypeError, "key: expected Key, found", one)
        yield of("read", TypeError, "key: expected Key, found", one)
        yield of("write", TypeError, "key: expected Key, found", one, bytes(4096))
        yield of("is_current", TypeError, "key: expected Key, found", one, Instant(0, (0,)))
    for one in (None, 5, "keys", b"keys", KEY):
        yield of("commit", TypeError, "keys: expected several, found", one)
        yield of("release", TypeError, "keys: expected several, found", one)
        yield of("mark_clean", TypeError, "keys: expected several, found", one)
        yield of("unpin", TypeError, "keys: expected several, found", one)
        yield of("fetch_many", TypeError, "ranges: expected several, found", one)
        yield of("store_many", TypeError, "items: expected several, found", one)
        yield of("lookup_many", TypeError, "requests: expected several, found", one)


def no_items() -> Iterator[Case]:
    one: Any
    for one in (5, "range", (0, 0), [0, 0, 8]):
        yield of("lookup_many", TypeError, r"requests\[0\]: expected Lookup, found", [one])
        yield of("fetch_many", TypeError, r"expected \(inode, offset, sectors\), found", [one])
        yield of("store_many", TypeError, r"expected \(inode, offset, data\), found", [one])
    for one in ("text", 5, None, [1], memoryview(bytes(8192))[::2]):
        yield of("store", TypeError, "data: expected bytes without gaps, found", 0, 0, one)
        yield of("write", TypeError, "data: expected bytes without gaps, found", KEY, one)
    for one in (5, (0, (0,)), "now"):
        yield of("is_current", TypeError, "since: expected an instant", KEY, one)
        yield of("read", TypeError, "since: expected an instant", KEY, one)


@pytest.mark.parametrize("kind", [BlockingClient, Client])
@pytest.mark.parametrize(("named", "error", "said"), CONSTRUCTORS + OF_CLIENTS)
def test_no_client_is_made_with_what_it_cannot_use(
    kind: Any, named: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        kind(**named)


def _refused(call: Callable[[], Any], kind: type[Exception], said: str) -> None:
    """The call raises what the case says, in one line."""
    with pytest.raises(kind, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)


def _made(client: BlockingClient, case: Case) -> Any:
    """What a blocking call returns, or the first that it yields."""
    method, arguments, named, *_ = case
    result = getattr(client, method)(*arguments, **named)
    return next(result) if isinstance(result, Iterator) else result


async def _awaited(client: Client, case: Case) -> Any:
    method, arguments, named, *_ = case
    result = getattr(client, method)(*arguments, **named)
    return await (anext(result) if hasattr(result, "__anext__") else result)


async def test_no_request_is_sent_with_what_is_none(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:

        def story() -> None:
            with BlockingClient(it.path) as client:
                client.store(0, 0, b"kept" * 1024)
                before = it.server.statistics().requests
                for case in requests():
                    _refused(partial(_made, client, case), *case[-2:])
                assert it.server.statistics().requests == before
                assert client.fetch(0, 0, 8)[0].data == b"kept" * 1024

        await asyncio.to_thread(story)


async def test_an_asyncio_client_refuses_the_same(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, b"kept" * 1024)
        for case in requests():
            *_, kind, said = case
            with pytest.raises(kind, match=said):
                await _awaited(client, case)
        assert (await client.fetch(0, 0, 8))[0].data == b"kept" * 1024
        assert await client.create_volume("x", uuid=str(UUID(int=5))) == 1


def test_a_refusal_is_of_the_kinds_that_callers_catch() -> None:
    for kind in (TypeError, InvalidParameter):
        with pytest.raises(kind, match=r"^invalid parameter label: expected str, found b'x'$"):
            check_request(CreateVolume(b"x"))  # type: ignore[arg-type]


def test_a_value_is_shown_in_a_line_whatever_it_is() -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) < 100
    assert shown(Unshown()) == "a Unshown"
    assert shown(HUGE) == "a int"
    assert LABEL_BYTES_MAX == LABEL_BYTES
