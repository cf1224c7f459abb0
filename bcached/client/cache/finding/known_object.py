# SPDX-License-Identifier: MIT
"""An object that this process has stored or read, without its value: all that a hit needs.

Whatever does not change is computed once, so that a hit is one read, a few comparisons with the daemon's
mapped files, one checksum, and one comparison of header and name.
"""

from collections.abc import Sequence

from bcached.client.cache.finding.positions import Position
from bcached.client.cache.values.object_format import CHECKED_AT, ON_A_PAGE_BYTES, Seal
from bcached.client.data.data_paths import DataPath, DataPaths
from bcached.client.gens import Gens, Instant
from bcached.keys import Key
from bcached.units import SECTOR_BYTES
from bcached.wire.gen_map import GC_EPOCH_WORD, LIFE_WORD, GenMap, native
from bcached.wire.messages import Device


class KnownMember:
    """A member device, as reads of its extents need it."""

    __slots__ = ("bucket_sectors", "device", "gens", "number", "path", "words")

    def __init__(
        self, device: int, path: DataPath, gen_map: GenMap, bucket_sectors: int, number: int
    ) -> None:
        self.device = device
        self.path = path
        self.gens = gen_map.gens
        self.words = gen_map.words
        self.bucket_sectors = bucket_sectors
        self.number = number  # in an instant


class Members(dict[int, KnownMember]):
    """The members by device, each opened when first needed."""

    def __init__(self, paths: DataPaths, gens: Gens, devices: Sequence[Device]) -> None:
        super().__init__()
        self._paths = paths
        self._gens = gens
        self._bucket_sectors = {one.device: one.bucket_sectors for one in devices}

    def __missing__(self, device: int) -> KnownMember:
        gen_map, number = self._gens.map_of(device)
        member = KnownMember(
            device, self._paths.reader(device), gen_map, self._bucket_sectors[device], number
        )
        return self.setdefault(device, member)


class KnownObject(Position):
    """Where an object is, and what its bytes must be: those from CHECKED_AT to its end have the checksum.

    It has the attributes of its first extent, too, and more than fifteen: each is read once for a hit, and
    another Python object would cost as much as a comparison.
    """

    __slots__ = (
        "at", "bucket", "bytes", "codec", "counter", "crc", "expires_at_us", "gc_epoch", "gen", "head",
        "length", "life", "offset", "others", "reported_in", "value_at",
    )  # fmt: skip

    def __init__(
        self,
        version: int,
        keys: Sequence[Key],
        since: Instant,
        seal: Seal,
        members: Members,
        counter: int,
    ) -> None:
        """Keys are the object's, the slot's first one first; all were valid at `since` or later."""
        self.version, self.keys, self.since = version, keys, since
        self.codec, self.expires_at_us, self.crc = seal.codec, seal.expires_at_us, seal.crc
        self.head = head = seal.head
        self.bytes = length = seal.length  # of the object
        self.value_at = len(head)  # in the bytes from CHECKED_AT on
        key = keys[0]
        self.offset = key.offset  # of the slot
        self.counter = counter  # of the slot: the index of its change counter
        pointer = key.pointers[0]
        self.member = member = members[pointer.device]
        self.at = pointer.sector * SECTOR_BYTES + CHECKED_AT  # byte of the device
        self.bucket, self.gen = pointer.sector // member.bucket_sectors, pointer.gen
        self.length = min(length, key.sectors * SECTOR_BYTES) - CHECKED_AT  # of the first extent
        # As this machine reads them in the header of the map of gens.
        self.life, self.gc_epoch = native(since.life), native(since.gc_epochs[member.number])
        self.reported_in: object = None  # the interval of Hits in which its bucket was reported
        # The extents behind the first; None of a short object in one extent, which takes the shortest path.
        self.others: Sequence[KnownExtent] | None = None
        left = length - CHECKED_AT - self.length
        if left or length >= ON_A_PAGE_BYTES:
            self.others = _others(keys[1:], left, since, members)


class KnownExtent:
    """Bytes of an object behind its first extent, and what tells that they are still its own."""

    __slots__ = ("at", "bucket", "gc_epoch", "gen", "length", "life", "member")

    def __init__(self, key: Key, length: int, since: Instant, members: Members) -> None:
        pointer = key.pointers[0]
        self.member = member = members[pointer.device]
        self.at = pointer.sector * SECTOR_BYTES
        self.length = length
        self.bucket, self.gen = pointer.sector // member.bucket_sectors, pointer.gen
        self.life, self.gc_epoch = native(since.life), native(since.gc_epochs[member.number])

    @property
    def is_valid(self) -> bool:
        """Whether its bucket was not reused since the instant: the gen is compared first, then the header."""
        member = self.member
        return (
            member.gens[self.bucket] == self.gen
            and member.words[LIFE_WORD] == self.life
            and member.words[GC_EPOCH_WORD] == self.gc_epoch
        )


def _others(keys: Sequence[Key], length: int, since: Instant, members: Members) -> Sequence[KnownExtent]:
    others = []
    for key in keys:
        if not length:
            break
        own = min(length, key.sectors * SECTOR_BYTES)
        others.append(KnownExtent(key, own, since, members))
        length -= own
    return others
