# SPDX-License-Identifier: MIT
"""The parameters and results of the methods of Allocator, one struct each; names as in the .varlink files.

A struct's ranges are checked as it is decoded, and unknown fields are refused. None in an optional field is
the same as leaving it out. msgspec refuses numbers beyond 64 bits by itself.
"""

from typing import Annotated

from msgspec import Meta, Struct

from bcached.keys import KEY_SECTORS_MAX, OFFSET_MAX, POINTERS_MAX, Inode, Key, SectorOffset
from bcached.units import SECTOR_BYTES

INT64_MAX = (1 << 63) - 1
ASK_SECTORS_MAX = 1 << 40  # with whole; the set refuses what it cannot hold, with a limit of its own
MANY_MAX = 1000
KEYS_IN_REPLY_MAX = 1024  # of an allocation: carved at once, within the milliseconds it may hold the loop
REPLY_BYTES_MAX = 4 << 20  # no reply is longer
REQUEST_BYTES_MAX = 1 << 20  # nor a request, by default
TIMEOUT_MS, TIMEOUT_MS_MAX = 30_000, 300_000
FOUND_MAX = 1000  # keys in one reply
TOUCHED_MAX = 10_000  # buckets in one Touch
RANGE_SECTORS_MAX = OFFSET_MAX - 1  # so that no range reaches beyond the last key's end

AskedOffset = Annotated[int, Meta(ge=0, le=OFFSET_MAX - ASK_SECTORS_MAX)]  # its keys can be committed
AskedSectors = Annotated[int, Meta(ge=1, le=ASK_SECTORS_MAX)]
RangeSectors = Annotated[int, Meta(ge=1, le=RANGE_SECTORS_MAX)]
Limit = Annotated[int, Meta(ge=1, le=FOUND_MAX)]
WritePoint = Annotated[int, Meta(ge=0, le=INT64_MAX)]
WritePrio = Annotated[int, Meta(ge=0, le=KEY_SECTORS_MAX)]
Replicas = Annotated[int, Meta(ge=1, le=POINTERS_MAX)]
TimeoutMs = Annotated[int, Meta(ge=0, le=TIMEOUT_MS_MAX)]
Tally = Annotated[int, Meta(ge=0, le=1 << 40)]  # what one client counted since it last said so
Keys = tuple[Key, ...]


class Parameters(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The parameters of a method."""


class Results(Struct, gc=False):
    """The results of a method."""


class Nothing(Parameters, frozen=True):
    """No parameters."""


class Done(Results):
    """No results: the request is done."""


# io.bcached.Allocator


class Device(Struct, gc=False):
    """A member device, as a client needs to know it."""

    device: int
    path: str
    uuid: str
    bucket_sectors: int
    block_sectors: int
    bucket_count: int
    first_bucket: int
    data_path: str

    @property
    def bucket_bytes(self) -> int:
        """The size of a bucket in bytes."""
        return self.bucket_sectors * SECTOR_BYTES

    @property
    def block_bytes(self) -> int:
        """The size of a block in bytes."""
        return self.block_sectors * SECTOR_BYTES


class Description(Results):
    """Describe's results."""

    set_uuid: str
    devices: tuple[Device, ...]
    lease_path: str
    commit_words: int
    version: str
    role: str


class Extent(Parameters, frozen=True):
    """One request of an AllocateMany."""

    inode: Inode
    offset: AskedOffset
    sectors: AskedSectors
    write_point: WritePoint | None = None
    write_prio: WritePrio | None = None
    replicas: Replicas | None = None
    whole: bool | None = None


class Allocate(Parameters, frozen=True):
    """Sectors for one extent."""

    inode: Inode
    offset: AskedOffset
    sectors: AskedSectors
    write_point: WritePoint | None = None
    write_prio: WritePrio | None = None
    replicas: Replicas | None = None
    wait: bool | None = None
    timeout_ms: TimeoutMs | None = None
    whole: bool | None = None


class Allocated(Results):
    """Allocate's results."""

    keys: Keys


class AllocateMany(Parameters, frozen=True):
    """Sectors for several extents, or for none."""

    requests: Annotated[tuple[Extent, ...], Meta(max_length=MANY_MAX)]
    wait: bool | None = None
    timeout_ms: TimeoutMs | None = None


class AllocatedMany(Results):
    """AllocateMany's results: keys[i] is for requests[i]."""

    keys: tuple[Keys, ...]


class AllocateBucket(Parameters, frozen=True):
    """A whole bucket."""

    replicas: Replicas | None = None
    wait: bool | None = None
    timeout_ms: TimeoutMs | None = None


class OneKey(Results):
    """AllocateBucket's results."""

    key: Key


class FreeBucket(Parameters, frozen=True):
    """A held bucket to be freed."""

    key: Key


class Release(Parameters, frozen=True):
    """Reservations to end."""

    keys: Keys


class Commit(Parameters, frozen=True):
    """Keys whose data is written, to be inserted into the index atomically."""

    keys: Keys
    durable: bool | None = None
    timeout_ms: TimeoutMs | None = None
    versions: bool | None = None
    if_absent: bool | None = None
    replaces: Annotated[tuple["Lookup", ...], Meta(max_length=MANY_MAX)] | None = None
    if_versions: tuple[Annotated[int, Meta(ge=0, le=(1 << 32) - 1)], ...] | None = None

    @property
    def has_conditions(self) -> bool:
        """Whether more is asked for than to insert the keys."""
        given = self.replaces is not None or self.if_versions is not None
        return given or bool(self.if_absent or self.versions)


class Committed(Results, omit_defaults=True):
    """Commit's results: versions[i] and committed[i], if asked for, are for keys[i]."""

    sequence: int
    versions: tuple[int, ...] | None = None
    committed: tuple[bool, ...] | None = None


class Flushed(Results):
    """Flush's results."""

    sequence: int


class MarkClean(Parameters, frozen=True):
    """Dirty keys whose data has been written back."""

    keys: Keys
    durable: bool | None = None
    timeout_ms: TimeoutMs | None = None


class MarkedClean(Results):
    """MarkClean's results: cleaned[i] is for keys[i]."""

    cleaned: tuple[bool, ...]


class Lookup(Parameters, frozen=True):
    """A range to look up; also one request of a LookupMany."""

    inode: Inode
    offset: SectorOffset
    sectors: RangeSectors
    limit: Limit | None = None
    pin: bool | None = None
    touch: bool | None = None


class Found(Results, omit_defaults=True):
    """Lookup's results: next is where to continue, if the limit was reached."""

    keys: Keys
    next: int | None = None


class LookupMany(Parameters, frozen=True):
    """Several ranges to look up."""

    requests: Annotated[tuple[Lookup, ...], Meta(max_length=MANY_MAX)]


class FoundMany(Results):
    """LookupMany's results: keys[i] and next[i] are for requests[i]."""

    keys: tuple[Keys, ...]
    next: tuple[int | None, ...]


class Unpin(Parameters, frozen=True):
    """Pinned keys that have been read."""

    keys: Keys


class Invalidate(Parameters, frozen=True):
    """A range whose keys are to be removed."""

    inode: Inode
    offset: SectorOffset
    sectors: RangeSectors
    durable: bool | None = None
    timeout_ms: TimeoutMs | None = None


class Invalidated(Results):
    """Invalidate's results: how many sectors were covered by keys."""

    sectors: int


class Bucket(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A bucket of a member with the gen it had."""

    device: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    bucket: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    gen: Annotated[int, Meta(ge=0, le=255)]


class Touch(Parameters, frozen=True):
    """Buckets that a client has read, and what it counted, without the daemon."""

    buckets: Annotated[tuple[Bucket, ...], Meta(max_length=TOUCHED_MAX)]
    hits: Tally | None = None
    misses: Tally | None = None
    bytes: Tally | None = None


class GenMapFile(Struct, gc=False):
    """The file from which a member's gens can be mapped."""

    device: int
    path: str
    bytes: int


class GenMaps(Results):
    """MapGens' results."""

    maps: tuple[GenMapFile, ...]


class ChangeMapFile(Results):
    """MapChanges' results: the file from which the change counters can be mapped."""

    path: str
    bytes: int
    shift: int


# org.varlink.service


class Info(Results):
    """GetInfo's results."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: tuple[str, ...]


class Interface(Parameters, frozen=True):
    """The interface to be described."""

    interface: str


class InterfaceDescription(Results):
    """The text of an interface."""

    description: str
