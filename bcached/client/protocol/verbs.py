# SPDX-License-Identifier: MIT
"""The socket's methods, one function each: a call's parameters, its result, and how it is undone.

Both clients have them as methods; `at` is the state of the client's connection.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

from bcached.client.attachment import Attachment
from bcached.client.protocol.exchange import Call
from bcached.client.protocol.request_check import as_tuple
from bcached.keys import Key
from bcached.set_state import SetState
from bcached.wire import admin_messages, messages, volume_messages
from bcached.wire.admin_messages import Policy
from bcached.wire.client_codec import Question, encode_question
from bcached.wire.interfaces import ADMIN, ALLOCATOR, MONITOR
from bcached.wire.messages import Bucket, ChangeMapFile, Committed, Extent, Found, Lookup
from bcached.wire.volume_messages import Orphan, Volume, VolumeOwner

R = TypeVar("R", bound=messages.Results)

NOTHING = messages.Nothing()
LOOKUP = f"{ALLOCATOR}.Lookup"

# io.bcached.Allocator


def describe() -> Call[messages.Description]:
    """Returns the set, its devices, and our role: the first call of a connection."""
    return Call(f"{ALLOCATOR}.Describe", NOTHING, messages.Description, _itself)


def map_gens(at: Attachment) -> Call[tuple[messages.GenMapFile, ...]]:
    """Returns the files from which the members' gens can be mapped."""
    at.check()
    return Call(f"{ALLOCATOR}.MapGens", NOTHING, messages.GenMaps, lambda it: it.maps)


def map_changes(at: Attachment) -> Call[ChangeMapFile]:
    """Returns the file from which the change counters can be mapped."""
    at.check()
    return Call(f"{ALLOCATOR}.MapChanges", NOTHING, ChangeMapFile, _itself)


def allocate(
    at: Attachment,
    inode: int,
    offset: int,
    sectors: int,
    *,
    write_point: int | None = None,
    write_prio: int | None = None,
    replicas: int | None = None,
    wait: bool | None = None,
    timeout_ms: int | None = None,
    whole: bool | None = None,
) -> Call[tuple[Key, ...]]:
    """Reserve sectors: one key, perhaps shorter; with whole, as many keys as all sectors need."""
    request = messages.Allocate(
        inode, offset, sectors, write_point, write_prio, replicas, wait, timeout_ms, whole
    )
    at.check(request)
    return Call(
        f"{ALLOCATOR}.Allocate",
        request,
        messages.Allocated,
        lambda it: it.keys,
        lambda it: release_message(it.keys),
    )


def allocate_many(
    at: Attachment,
    requests: Iterable[Extent],
    *,
    wait: bool | None = None,
    timeout_ms: int | None = None,
) -> Call[tuple[tuple[Key, ...], ...]]:
    """Reserve for all of these extents, or for none."""
    request = messages.AllocateMany(as_tuple("requests", requests), wait, timeout_ms)
    at.check(request)
    return Call(
        f"{ALLOCATOR}.AllocateMany",
        request,
        messages.AllocatedMany,
        lambda it: it.keys,
        lambda it: release_message(tuple(chain.from_iterable(it.keys))),
    )


def allocate_bucket(
    at: Attachment, *, replicas: int | None = None, wait: bool | None = None, timeout_ms: int | None = None
) -> Call[Key]:
    """Reserve a whole bucket."""
    request = messages.AllocateBucket(replicas, wait, timeout_ms)
    at.check(request)
    return Call(
        f"{ALLOCATOR}.AllocateBucket",
        request,
        messages.OneKey,
        lambda it: it.key,
        lambda it: release_message((it.key,)),
    )


def free_bucket(at: Attachment, key: Key) -> Call[None]:
    """Free a whole bucket."""
    request = messages.FreeBucket(key)
    at.check(request)
    return Call(f"{ALLOCATOR}.FreeBucket", request, messages.Done, _nothing)


def release(at: Attachment, keys: Sequence[Key]) -> Call[None]:
    """End reservations; no write to them may be in flight."""
    request = messages.Release(as_tuple("keys", keys))
    at.check(request)
    return Call(f"{ALLOCATOR}.Release", request, messages.Done, _nothing)


def commit(
    at: Attachment, keys: Sequence[Key], *, durable: bool | None = None, timeout_ms: int | None = None
) -> Call[int]:
    """Insert keys whose data is written, atomically. Returns the number of their journal entry."""
    request = messages.Commit(as_tuple("keys", keys), durable, timeout_ms)
    at.check(request)
    return Call(f"{ALLOCATOR}.Commit", request, messages.Committed, lambda it: it.sequence)


def commit_if(
    at: Attachment,
    keys: Sequence[Key],
    *,
    durable: bool | None = None,
    timeout_ms: int | None = None,
    versions: bool | None = None,
    if_absent: bool | None = None,
    replaces: Iterable[Lookup] | None = None,
    if_versions: Iterable[int] | None = None,
) -> Call[Committed]:
    """Insert keys as `commit` does: on conditions, in place of all else in ranges, with versions."""
    ranges = None if replaces is None else as_tuple("replaces", replaces)
    expected = None if if_versions is None else as_tuple("if_versions", if_versions)
    request = messages.Commit(
        as_tuple("keys", keys), durable, timeout_ms, versions, if_absent, ranges, expected
    )
    at.check(request)
    return Call(f"{ALLOCATOR}.Commit", request, messages.Committed, _itself)


def mark_clean(
    at: Attachment, keys: Sequence[Key], *, durable: bool | None = None, timeout_ms: int | None = None
) -> Call[tuple[bool, ...]]:
    """Mark dirty keys clean. Returns for each whether the index still held it unchanged."""
    request = messages.MarkClean(as_tuple("keys", keys), durable, timeout_ms)
    at.check(request)
    return Call(f"{ALLOCATOR}.MarkClean", request, messages.MarkedClean, lambda it: it.cleaned)


def lookup(
    at: Attachment,
    inode: int,
    offset: int,
    sectors: int,
    *,
    limit: int | None = None,
    pin: bool | None = None,
    touch: bool | None = None,
) -> Call[Found]:
    """Returns the keys of a range, and where to continue if there are more than the limit."""
    fields = {
        "inode": inode, "offset": offset, "sectors": sectors, "limit": limit, "pin": pin, "touch": touch,
    }  # fmt: skip
    request = at.request(Lookup, fields)
    undo = _unpin_found if pin else None
    return Call(LOOKUP, request, Found, _itself, undo)


def lookup_many(at: Attachment, requests: Iterable[Lookup]) -> Call[tuple[Found, ...]]:
    """Returns the keys of several ranges, 1,000 in all: one Found for each."""
    request = messages.LookupMany(as_tuple("requests", requests))
    at.check(request)
    pinned = [one.pin for one in request.requests]

    def unpin_those(many: messages.FoundMany) -> bytes:
        keys = (keys for keys, pin in zip(many.keys, pinned, strict=True) if pin)
        return _unpin_message(tuple(chain.from_iterable(keys)))

    return Call(
        f"{ALLOCATOR}.LookupMany",
        request,
        messages.FoundMany,
        lambda many: tuple(map(Found, many.keys, many.next)),
        unpin_those if any(pinned) else None,
    )


def touch(
    at: Attachment,
    buckets: Iterable[Bucket],
    *,
    hits: int | None = None,
    misses: int | None = None,
    hit_bytes: int | None = None,
) -> Call[None]:
    """Report buckets that were read without a look-up, and what was counted since the last report."""
    request = messages.Touch(as_tuple("buckets", buckets), hits, misses, hit_bytes)
    at.check(request)
    return Call(f"{ALLOCATOR}.Touch", request, messages.Done, _nothing)


def unpin(at: Attachment, keys: Sequence[Key]) -> Call[None]:
    """Unpin keys that were looked up with a pin."""
    request = messages.Unpin(as_tuple("keys", keys))
    at.check(request)
    return Call(f"{ALLOCATOR}.Unpin", request, messages.Done, _nothing)


def invalidate(
    at: Attachment,
    inode: int,
    offset: int,
    sectors: int,
    *,
    durable: bool | None = None,
    timeout_ms: int | None = None,
) -> Call[int]:
    """Remove the keys of a range, dirty ones too. Returns how many sectors they covered."""
    request = messages.Invalidate(inode, offset, sectors, durable, timeout_ms)
    at.check(request)
    return Call(f"{ALLOCATOR}.Invalidate", request, messages.Invalidated, lambda it: it.sectors)


def open_volume(
    at: Attachment, label: str, *, sectors: int | None = None, owner: VolumeOwner | None = None
) -> Call[tuple[int, bool]]:
    """Find the volume with a label, or create it. Returns its inode, and whether it was created."""
    request = volume_messages.OpenVolume(label, sectors, owner)
    at.check(request)
    results = volume_messages.OpenedVolume
    return Call(f"{ALLOCATOR}.OpenVolume", request, results, lambda it: (it.inode, it.created))


def volumes(at: Attachment) -> Call[tuple[Volume, ...]]:
    """Returns the volumes that the caller may see, to readers as well."""
    at.check()
    return Call(f"{ALLOCATOR}.Volumes", NOTHING, volume_messages.ListedVolumes, lambda it: it.volumes)


def flush(at: Attachment) -> Call[int]:
    """Make all commits of any client durable. Returns the number of the newest journal entry."""
    at.check()
    return Call(f"{ALLOCATOR}.Flush", NOTHING, messages.Flushed, lambda it: it.sequence)


# io.bcached.Admin


def status(at: Attachment) -> Call[SetState]:
    """Returns the state of the set."""
    at.check()
    return Call(f"{ADMIN}.Status", NOTHING, admin_messages.StatusNow, lambda it: it.state)


def explain(at: Attachment) -> Call[tuple[str, ...]]:
    """Returns why allocations wait or fail."""
    at.check()
    return Call(f"{ADMIN}.Explain", NOTHING, admin_messages.Lines, lambda it: it.lines)


def verify(at: Attachment) -> Call[tuple[str, ...]]:
    """Returns the set's violated invariants."""
    at.check()
    return Call(f"{ADMIN}.Verify", NOTHING, admin_messages.Violations, lambda it: it.violations)


def collect_garbage(at: Attachment, *, wait: bool | None = None) -> Call[None]:
    """Collect garbage."""
    request = admin_messages.CollectGarbage(wait)
    at.check(request)
    return Call(f"{ADMIN}.CollectGarbage", request, messages.Done, _nothing)


def write_priorities(at: Attachment) -> Call[None]:
    """Make prios and gens durable."""
    at.check()
    return Call(f"{ADMIN}.WritePriorities", NOTHING, messages.Done, _nothing)


def set_replacement(at: Attachment, policy: Policy) -> Call[None]:
    """Set the replacement policy."""
    request = admin_messages.SetReplacement(policy)
    at.check(request)
    return Call(f"{ADMIN}.SetReplacement", request, messages.Done, _nothing)


def set_discard(at: Attachment, discard: bool) -> Call[None]:
    """Turn discards on or off."""
    request = admin_messages.SetDiscard(discard)
    at.check(request)
    return Call(f"{ADMIN}.SetDiscard", request, messages.Done, _nothing)


def list_volumes(at: Attachment) -> Call[tuple[Volume, ...]]:
    """Returns all volumes."""
    at.check()
    return Call(f"{ADMIN}.ListVolumes", NOTHING, volume_messages.ListedVolumes, lambda it: it.volumes)


def list_orphans(at: Attachment) -> Call[tuple[Orphan, ...]]:
    """Returns the inodes without a volume that have keys, those with the most dirty sectors first."""
    at.check()
    return Call(f"{ADMIN}.ListVolumes", NOTHING, volume_messages.ListedVolumes, lambda it: it.orphans)


def create_volume(
    at: Attachment,
    label: str,
    *,
    sectors: int | None = None,
    uuid: str | None = None,
    owner: VolumeOwner | None = None,
) -> Call[int]:
    """Create a volume. Returns its inode."""
    request = volume_messages.CreateVolume(label, sectors, uuid, owner)
    at.check(request)
    return Call(f"{ADMIN}.CreateVolume", request, volume_messages.NewVolume, lambda it: it.inode)


def set_volume_owner(at: Attachment, inode: int, owner: VolumeOwner | None) -> Call[None]:
    """Give a volume another owner, or none."""
    request = volume_messages.SetVolumeOwner(inode, owner)
    at.check(request)
    return Call(f"{ADMIN}.SetVolumeOwner", request, messages.Done, _nothing)


def delete_volume(at: Attachment, inode: int, *, force: bool | None = None) -> Call[None]:
    """Delete a volume, or the keys under an inode without one."""
    request = volume_messages.DeleteVolume(inode, force)
    at.check(request)
    return Call(f"{ADMIN}.DeleteVolume", request, messages.Done, _nothing)


# io.bcached.Monitor


def watch(at: Attachment, interval_ms: int | None) -> Call[None]:
    """Watch the state and its changes, as news: a call that ends with its connection."""
    request = admin_messages.Watch(interval_ms)
    at.check(request)
    return Call(f"{MONITOR}.Watch", request, admin_messages.News, _nothing, more=True)


def trace(at: Attachment, events: Sequence[str], limit: int | None) -> Call[admin_messages.Traced]:
    """Listen to events, as news; after limit of them the call ends with the last."""
    request = admin_messages.Trace(tuple(events) or None, limit)
    at.check(request)
    return Call(f"{MONITOR}.Trace", request, admin_messages.Traced, _itself, more=True)


# Oneway messages


def release_message(keys: tuple[Key, ...]) -> bytes:
    """Returns a oneway Release."""
    return _oneway("Release", messages.Release(keys)) if keys else b""


def touch_message(touch: messages.Touch) -> bytes:
    """Returns a oneway Touch."""
    return _oneway("Touch", touch)


def _unpin_message(keys: tuple[Key, ...]) -> bytes:
    return _oneway("Unpin", messages.Unpin(keys)) if keys else b""


def _unpin_found(found: Found) -> bytes:
    return _unpin_message(found.keys)


def _oneway(name: str, parameters: messages.Parameters) -> bytes:
    return encode_question(Question(f"{ALLOCATOR}.{name}", parameters, oneway=True))


def _itself(results: R) -> R:
    return results


def _nothing(_: object) -> None:
    return None
