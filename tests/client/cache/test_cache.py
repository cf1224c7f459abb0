# SPDX-License-Identifier: GPL-2.0-only
"""The verbs of a cache, on a real daemon."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.values.names import RECORD_AT, offset_of
from bcached.errors import ClientClosed, ConnectionLost
from instruments.clients.daemon_process import DaemonProcess

Open = Callable[..., Cache]


@pytest.fixture
def opened(daemon: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens caches on a volume of the test's own; they are closed at its end."""
    caches = []

    def open_one(**options: object) -> Cache:
        label = request.node.name[:32]
        caches.append(Cache(str(daemon.socket_path), label, **options))  # type: ignore[arg-type]
        return caches[-1]

    yield open_one
    for one in caches:
        one.close()


@pytest.mark.parametrize(
    "value",
    [b"", b"b", "text", None, 0, [1, {"k": 2.5}], b"x" * 65535, b"y" * 65536, b"z" * 1_000_001],
    ids=lambda value: f"{type(value).__name__}-{len(repr(value))}",
)
def test_what_is_set_is_got_here_and_elsewhere(opened: Open, value: object) -> None:
    here, there = opened(), opened()
    here.set("name", value)
    assert here.get("name", "missing") == value
    here.flush(durable=False)
    assert here.get("name", "missing") == value
    assert there.get("name", "missing") == value
    assert there["name"] == value
    assert "name" in there
    assert here.get("another") is None


def test_what_was_not_awaited_is_seen_soon(opened: Open) -> None:
    here, there = opened(), opened()
    for number in range(20):  # the first is sent, the others gather, and no call follows
        here.set(str(number), number)
    deadline = time.monotonic() + 20
    while there.get("19") is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert there.get_many(map(str, range(20))) == {str(number): number for number in range(20)}


def test_a_later_value_replaces_an_earlier_one(opened: Open) -> None:
    here, there = opened(), opened()
    here.set("name", b"long" * 50_000, wait=True)
    assert there["name"] == b"long" * 50_000
    there.set("name", "short", wait=True)
    assert here["name"] == "short"
    here.set("name", b"longer" * 50_000, durable=True)
    assert there["name"] == b"longer" * 50_000
    for number in range(30):
        (here if number % 3 else there).set("name", number, wait=True)
        assert here["name"] == there["name"] == number


def test_dropping(opened: Open) -> None:
    here, there = opened(), opened()
    here.set_many({"a": 1, "b": 2, "c": 3, "d": 4}, wait=True)
    assert there.delete("a")
    assert not here.delete("a")
    assert here.pop("b") == 2
    assert there.pop("b", "gone") == "gone"
    here.set("e", 5)
    del here["e"]  # on its way
    assert "e" not in here
    with pytest.raises(KeyError, match="e"):
        del there["e"]
    with pytest.raises(KeyError, match="e"):
        there["e"]
    assert there.delete_many(["c", "x", "y"]) == 1
    here["f"] = 6
    here.clear()
    assert here.get_many([*"abcdef"]) == there.get_many([*"abcdef"]) == {}


def test_a_value_is_added_once(opened: Open) -> None:
    here, there = opened(), opened()
    assert here.add("lock", 1, expire=1000)
    assert not there.add("lock", 2)
    assert not here.add("lock", 3)
    assert there["lock"] == 1
    assert there.delete("lock")
    assert there.add("lock", 4, expire=0.05)
    time.sleep(0.06)
    assert here.add("lock", b"v" * 300_000, durable=True)
    assert there["lock"] == b"v" * 300_000
    here.set("lock", 5)
    assert not here.add("lock", 6)


@pytest.mark.parametrize("before", ["nothing", "expired"])
def test_of_many_that_add_one_does(opened: Open, before: str) -> None:
    caches, added = [opened() for _ in range(4)], list[tuple[int, int]]()
    if before == "expired":
        caches[0].set_many({str(number): -1 for number in range(25)}, expire=0, wait=True)

    def work(own: int) -> None:
        added.extend((number, own) for number in range(25) if caches[own].add(str(number), own))

    in_threads([lambda own=own: work(own) for own in range(4)])  # type: ignore[misc]
    assert sorted(number for number, _ in added) == list(range(25))
    assert caches[0].get_many(map(str, range(25))) == {str(number): own for number, own in added}


def in_threads(works: list[Callable[[], None]]) -> None:
    threads = [Thread(target=work) for work in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def test_a_sum_loses_no_part(opened: Open) -> None:
    caches, sums = [opened() for _ in range(4)], list[int]()
    caches[0].set("count", 0, expire=1000, wait=True)

    def work(cache: Cache) -> None:
        sums.extend(cache.incr("count") for _ in range(25))

    in_threads([lambda cache=cache: work(cache) for cache in caches])  # type: ignore[misc]
    assert sorted(sums) == list(range(1, 101))
    value, left_s = caches[1].get_with_expiry("count")
    assert value == 100
    assert left_s is not None
    assert 900 < left_s <= 1000
    assert caches[2].incr("count", -40) == 60
    assert caches[3]["count"] == 60
    with pytest.raises(KeyError, match="nothing"):
        caches[0].incr("nothing")
    caches[0].set("text", "1")
    with pytest.raises(TypeError):
        caches[0].incr("text")


def test_what_is_known_takes_no_request(opened: Open, daemon: DaemonProcess) -> None:
    def lookups() -> int:
        count: int = daemon.ask("Admin.Status")["parameters"]["state"]["lookups"]
        return count

    here, there = opened(), opened()
    here.set("a", 1, wait=True)
    here.set("b", b"v" * 300_000, wait=True)
    assert (there["a"], len(there["b"]), there.get("c")) == (1, 300_000, None)
    before = lookups()
    for _ in range(200):
        for cache in (here, there):
            assert (cache["a"], len(cache["b"])) == (1, 300_000)
        assert there.get("c") is None
    assert lookups() == before
    there.set("a", 2, wait=True)
    assert here["a"] == 2
    here.delete("b")
    assert there.get("b") is None
    here.set("c", 3, wait=True)
    assert there["c"] == 3
    state = daemon.ask("Admin.Status")["parameters"]["state"]
    assert state["client_hits"] > 0
    assert state["client_misses"] > 0


def test_nothing_is_left_of_a_longer_value(opened: Open, daemon: DaemonProcess) -> None:
    cache = opened()
    with BlockingClient(str(daemon.socket_path)) as client:
        inode = client.open_volume("test_nothing_is_left_of_a_longer_value"[:32])[0]
        cache.set("a", b"v" * 300_000, wait=True)
        cache.touch("a", 1000)
        assert sum(key.sectors for key in client.lookup(inode, 0, 1 << 61).keys) == 75 * 8 + 8
        cache.set("a", b"v", wait=True)
        assert sum(key.sectors for key in client.lookup(inode, 0, 1 << 61).keys) == 8


def test_a_commit_that_would_remove_too_much_is_repeated_in_parts(
    opened: Open, daemon: DaemonProcess, request: pytest.FixtureRequest
) -> None:
    cache, pieces = opened(), 2200  # two such slots have more keys than one commit removes
    with BlockingClient(str(daemon.socket_path)) as client:
        inode = client.open_volume(request.node.name[:32])[0]
        for name in (b"a", b"b"):
            items = [(inode, offset_of(name) + 16 * number, bytes(4096)) for number in range(pieces)]
            client.store_many(items, durable=False)
    cache.set("first", 0)
    cache.set_many({"a": 1, "b": 2, "c": 3}, wait=True)
    assert cache.get_many([*"abc"]) == {"a": 1, "b": 2, "c": 3}
    assert opened().get_many([*"abc"]) == {"a": 1, "b": 2, "c": 3}


def test_a_value_expires(opened: Open) -> None:
    here, there = opened(), opened()
    here.set("soon", 1, expire=0.05)
    here.set("later", 2, expire=1000)
    here.set("at once", 3, expire=0)
    here.flush(durable=False)
    time.sleep(0.06)
    assert there.get_many(["soon", "later", "at once"]) == {"later": 2}
    assert not there.touch("soon", 10)
    with pytest.raises(ValueError, match="number of seconds"):
        here.set("x", 1, expire=float("nan"))


def test_a_touch_changes_when_a_value_expires(opened: Open) -> None:
    here, there = opened(), opened()
    here.set("a", b"v" * 200_000, expire=1000)
    here.touch("a", 500)
    here.set("a", b"v" * 200_000, expire=1000, wait=True)
    assert there.touch("a", 0)
    assert here.get("a") is None
    here.set("a", 2, expire=500, wait=True)
    assert there.touch("a")
    assert here.get_with_expiry("a") == (2, None)
    here.set("a", 3, expire=1000, wait=True)  # what the touch said was about the value before
    assert there["a"] == 3
    assert there.touch("a", 2000)
    assert not here.touch("b", 10)


def test_a_value_says_when_it_expires(opened: Open) -> None:
    def left(cache: Cache) -> float:
        value, left_s = cache.get_with_expiry("later")
        assert value == "v"
        assert left_s is not None
        return left_s

    here, there = opened(), opened()
    here.set("never", 1, wait=True)
    here.set("later", "v", expire=1000, wait=True)
    assert there.get_with_expiry("never") == (1, None)
    assert 900 < left(there) <= 1000
    here.touch("later", 50)
    assert 0 < left(there) <= 50
    assert 0 < left(here) <= 50
    here.touch("later")
    assert there.get_with_expiry("later") == ("v", None)
    assert there.get_with_expiry("missing", 7) == (7, None)


def test_two_names_in_one_slot_replace_each_other(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.client.cache.values.names.SLOT_BITS", 0)
    here, there = opened(), opened()
    here.set("one", b"1" * 10_000, wait=True)
    there.set("two", b"2", wait=True)
    assert there.get_many(["one", "two"]) == {"two": b"2"}
    assert here.get("one") is None
    here.set("one", b"1", wait=True)
    assert here.get("two") is None


def test_a_gap_and_foreign_bytes_are_misses(opened: Open, daemon: DaemonProcess) -> None:
    cache, offset = opened(), offset_of(b"a")
    with BlockingClient(str(daemon.socket_path)) as client:
        cache.set("a", b"v" * 300_000, wait=True)
        inode = client.open_volume("test_a_gap_and_foreign_bytes_are_misses"[:32])[0]
        client.invalidate(inode, offset + 256, 8)
        assert cache.get("a") is None
        cache.set("a", b"v" * 300_000, wait=True)
        client.invalidate(inode, offset, 8)
        assert cache.get("a") is None
        client.store(inode, offset, b"\xff" * 4096)
        client.store(inode, offset + RECORD_AT, b"\xff" * 4096)
        assert cache.get("a") is None
        cache.set("a", 1, wait=True)
        assert cache.get("a") == 1
    assert cache.stats()[:3] == (1, 3, 3)


def test_what_is_too_long_is_refused(opened: Open) -> None:
    cache = opened()
    with pytest.raises(ValueError, match="at most 67043328 bytes, this one 104861696: store it in parts"):
        cache.set("huge", bytes(100 << 20))
    assert "huge" not in cache
    cache.set("large", bytes(20 << 20), wait=True)
    assert len(cache["large"]) == 20 << 20


def test_a_function_is_called_once_for_each_arguments(opened: Open) -> None:
    here, there = opened(), opened()
    calls = []

    def work(one: object, *, two: object = 2) -> list[object]:
        calls.append((one, two))
        return [one, two]

    mine, theirs = here.memoize()(work), there.memoize(expire=100)(work)
    assert mine(1) == mine(1) == mine(1) == [1, 2]
    here.flush(durable=False)
    assert theirs(1) == [1, 2]
    assert mine(1, two=3) == mine(1, two=3)
    assert mine("1") == ["1", 2]
    assert calls == [(1, 2), (1, 3), ("1", 2)]
    typed = here.memoize(typed=True, name="typed")(work)
    assert (typed((1,)), typed([1])) == ([[1], 2], [[1], 2]) or calls
    assert calls[3:] == [((1,), 2), ([1], 2)]
    with pytest.raises(TypeError):
        mine(object())


def test_a_volume_is_a_label_or_an_inode() -> None:
    for wrong in (b"bytes", None, True, 1.5):
        with pytest.raises(TypeError, match="a volume is its label"):
            Cache("nowhere", wrong)  # type: ignore[arg-type]


def test_no_value_is_another_names_or_half_under_eviction(opened: Open) -> None:
    # 64 MiB hold a fraction of what is stored.
    writer, reader, rng = opened(), opened(), random.Random(3)
    seen = 0
    for number in range(1200):
        name = str(rng.randrange(400))
        writer.set(name, f"{name} {number} ".encode() * rng.choice([10, 1000, 30_000]))
        for other in (str(rng.randrange(400)), name):
            found = reader.get(other)
            assert found is None or found.startswith(other.encode() + b" ")
            assert found is None or found == found[: found.index(b" ", len(other) + 1) + 1] * (
                len(found) // (found.index(b" ", len(other) + 1) + 1)
            )
            seen += found is not None
    writer.flush()
    assert seen > 300
    assert writer.stats().lost == 0


def test_threads_share_a_cache(opened: Open) -> None:
    cache = opened()
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        newest: dict[str, int] = {}
        for number in range(150):
            name = f"{seed} {rng.randrange(5)}"
            if rng.random() < 0.5:
                cache.set(name, number, wait=rng.random() < 0.2)
                newest[name] = number
            elif rng.random() < 0.1:
                cache.delete(name)
                newest.pop(name, None)
            elif (found := cache.get(name)) not in (None, newest.get(name)):
                wrong.append((name, newest.get(name), found))

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_a_closed_cache_says_so(opened: Open) -> None:
    cache, other = opened(ignore_unavailable=True), opened()
    for number in range(50):
        cache.set(str(number), number)
    cache.close()
    cache.close()
    assert len(other.get_many(map(str, range(50)))) == 50
    with pytest.raises(ClientClosed):
        cache.get("1")
    with pytest.raises(ClientClosed):
        cache.set("1", 1)


def test_without_a_daemon(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing")
    with Cache(nowhere) as cache, pytest.raises(ConnectionLost, match="No such file"):
        cache.get("a")
    with Cache(nowhere, ignore_unavailable=True) as cache:
        cache.set("a", 1)
        assert cache.get("a", 7) == 7
        assert cache.get_many(["a"]) == {}
        assert not cache.delete("a")
        assert not cache.touch("a")
        cache.clear()
        cache.flush()
        assert cache.stats()[:2] == (0, 2)


def test_a_path_may_be_an_object(daemon: DaemonProcess) -> None:
    with Cache(daemon.socket_path, "path") as cache, BlockingClient(daemon.socket_path) as client:
        cache.set("a", 1, wait=True)
        assert client.path == cache.path == str(daemon.socket_path)
        assert repr(cache) == f"<Cache 'path' at {daemon.socket_path}>"


def test_names_cannot_be_listed(opened: Open) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(opened())  # type: ignore[call-overload]


def test_a_coroutine_function_is_for_an_async_cache(opened: Open) -> None:
    async def work() -> None: ...

    with pytest.raises(TypeError, match="memoize it with AsyncCache"):
        opened().memoize()(work)
