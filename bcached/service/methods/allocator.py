# SPDX-License-Identifier: GPL-2.0-only
"""io.bcached.Allocator on a cache set: allocation, release, and the description of the set.

The fast path of Allocate is `allocate` down to the carve: it builds only the reply. Requests that arrive
together, and the extents of an AllocateMany, are carved in runs of one write point: these share a bucket.
"""

from asyncio import Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from bcached import __version__
from bcached.errors import LimitExceeded, RequestError
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.service.methods.alignment import check_blocks, refuse_unaligned
from bcached.service.methods.defaults import extent_request, wait_s
from bcached.service.requests.method import Handler, Later, Operation, Outcome, Session
from bcached.service.users.access import Role
from bcached.state.sectors.reservations import ExtentRequest
from bcached.wire import messages
from bcached.wire.methods import ALLOCATOR, METHODS

ExtentParameters = messages.Allocate | messages.Extent


class Allocation:
    """The allocation methods of io.bcached.Allocator."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._set = cache_set
        self._carve = cache_set.allocations.carve
        self._carve_run = cache_set.allocations.carve_run
        self._block_mask = cache_set.geometry.block_sectors - 1  # a block is a power of two
        self._member_count = len(cache_set.members)
        changing: dict[str, Handler] = {
            "Allocate": self.allocate,
            "AllocateBucket": self.allocate_bucket,
            "FreeBucket": self.free_bucket,
            "Release": self.release,
        }
        reading: dict[str, Handler] = {
            "Describe": self.describe,
            "MapGens": self.map_gens,
            "MapChanges": self.map_changes,
        }
        table = {
            name: Operation(Role.ALLOCATOR, run, brief=True, changes=True) for name, run in changing.items()
        }
        table["Allocate"] = table["Allocate"]._replace(run_several=self.allocate_several)
        table["AllocateMany"] = Operation(Role.ALLOCATOR, self.allocate_many, changes=True)
        table |= {name: Operation(Role.READER, run) for name, run in reading.items()}
        self.operations = {METHODS[f"{ALLOCATOR}.{name}"].request: each for name, each in table.items()}

    # Allocating

    def allocate(self, session: Session, request: messages.Allocate) -> Outcome:
        """Allocate sectors for one extent."""
        if (request.offset | request.sectors) & self._block_mask:
            refuse_unaligned(request, self._block_mask)
        if request.whole or request.write_prio or request.replicas is not None:
            return self._submit(session, [extent_request(request, session)], request, _first)
        write_point = request.write_point
        key = self._carve(
            session.holder,
            request.inode,
            request.offset,
            request.sectors,
            session.write_point if write_point is None else write_point,
        )
        if key is None:
            return self._submit(session, [extent_request(request, session)], request, _first)
        return messages.Allocated((key,))

    def allocate_several(
        self, session: Session, requests: Sequence[messages.Allocate]
    ) -> Sequence[messages.Results]:
        """Allocate for the first of several extents, as far as buckets are ready."""
        keys: list[Key] = []
        with suppress(RequestError):  # the failing request is run alone next, and refused
            self._carve_rows(session, self._plain_rows(requests), keys)
        return [messages.Allocated((key,)) for key in keys]

    def allocate_many(self, session: Session, request: messages.AllocateMany) -> Outcome:
        """Allocate for several extents, all or none: at once if all are ready, else as one that waits.

        What is ready is kept meanwhile: sectors that are given back serve no request before their bucket is
        reused, so a set with few buckets could not complete what it could with one request after the other.
        """
        extents = request.requests
        rows = self._plain_rows(extents)
        keys: list[Key] = []
        if sum(len(row) for _, row in rows) == len(extents) > 0:
            try:
                self._carve_rows(session, rows, keys)
            except RequestError:
                self._give_back(session, keys)
                raise
            if len(keys) == len(extents):
                return messages.AllocatedMany(tuple([(key,) for key in keys]))
        for extent in extents:
            if (extent.offset | extent.sectors) & self._block_mask:
                refuse_unaligned(extent, self._block_mask)
        return self._submit(session, [extent_request(one, session) for one in extents], request, _all, keys)

    def _plain_rows(
        self, extents: Sequence[ExtentParameters]
    ) -> list[tuple[int | None, list[ExtentParameters]]]:
        """Returns the extents before the first with special options, in runs of one write point each."""
        rows: list[tuple[int | None, list[ExtentParameters]]] = []
        block_mask = self._block_mask
        write_point: int | None = -1  # no write point
        row: list[ExtentParameters] = []
        append = row.append
        for extent in extents:
            if (extent.offset | extent.sectors) & block_mask:
                break
            if extent.whole or extent.write_prio or extent.replicas is not None:
                break
            if extent.write_point != write_point:
                write_point, row = extent.write_point, []
                append = row.append
                rows.append((write_point, row))
            append(extent)
        return rows

    def _carve_rows(
        self, session: Session, rows: list[tuple[int | None, list[ExtentParameters]]], keys: list[Key]
    ) -> None:
        """Add the keys of these extents up to the first that has to wait."""
        for write_point, row in rows:
            count = 0
            while count < len(row):
                run = self._carve_run(
                    session.holder, row, count, session.write_point if write_point is None else write_point
                )
                if not run:
                    return
                count += len(run)
                keys += run

    def _give_back(self, session: Session, keys: Sequence[Key]) -> None:
        if keys:
            self._set.allocations.release(session.holder, keys)

    def allocate_bucket(self, session: Session, request: messages.AllocateBucket) -> Outcome:
        """Allocate a whole bucket."""
        future = self._set.allocations.allocate_bucket(session.holder, request.replicas or 1, wait_s(request))
        return _settled(future, messages.OneKey)

    def _submit(
        self,
        session: Session,
        requests: Sequence[ExtentRequest],
        request: messages.Allocate | messages.AllocateMany,
        results: Callable[[list[list[Key]]], messages.Results],
        begun: Sequence[Key] = (),
    ) -> Outcome:
        bucket_sectors = self._set.geometry.bucket_sectors
        keys_max = sum(1 if not one.whole else one.sectors // bucket_sectors + 2 for one in requests)
        if keys_max > messages.KEYS_IN_REPLY_MAX:
            self._set.allocations.check_possible(requests)  # what no set of this size could hold at all
            raise LimitExceeded("keys_in_a_reply", keys_max)
        future = self._set.allocations.allocate(session.holder, requests, wait_s(request), begun)
        return _settled(future, results)

    # Releasing

    def release(self, session: Session, request: messages.Release) -> Outcome:
        """End reservations."""
        check_blocks("keys", request.keys, self._block_mask)
        self._set.allocations.release(session.holder, request.keys)
        return DONE

    def free_bucket(self, session: Session, request: messages.FreeBucket) -> Outcome:
        """Free a whole bucket."""
        check_blocks("key", (request.key,), self._block_mask)
        self._set.allocations.free_bucket(session.holder, request.key)
        return DONE

    # Describing

    def describe(self, session: Session, _request: Any) -> Outcome:
        """Returns what a client needs to know of the set."""
        cache_set = self._set
        devices = []
        for member in cache_set.members:
            geometry = member.buckets.geometry
            devices.append(
                messages.Device(
                    device=member.device,
                    path=member.path,
                    uuid=member.uuid,
                    bucket_sectors=geometry.bucket_sectors,
                    block_sectors=geometry.block_sectors,
                    bucket_count=geometry.bucket_count,
                    first_bucket=geometry.first_bucket,
                    data_path=member.block_device.data_path,
                )
            )
        return messages.Description(
            set_uuid=str(cache_set.set_uuid),
            devices=tuple(devices),
            lease_path=cache_set.lease_path,
            commit_words=cache_set.commit_words,
            version=__version__,
            role=session.role.label,
        )

    def map_gens(self, _session: Session, _request: Any) -> Outcome:
        """Returns the files from which the gens can be mapped."""
        maps = self._set.gen_maps
        return messages.GenMaps(tuple(messages.GenMapFile(one.device, one.path, one.bytes) for one in maps))

    def map_changes(self, _session: Session, _request: Any) -> Outcome:
        """Returns the file from which the change counters can be mapped."""
        file = self._set.change_map
        return messages.ChangeMapFile(file.path, file.bytes, file.shift)


DONE = messages.Done()


def _first(keys: list[list[Key]]) -> messages.Results:
    return messages.Allocated(tuple(keys[0]))


def _all(keys: list[list[Key]]) -> messages.Results:
    return messages.AllocatedMany(tuple(map(tuple, keys)))


def _settled(future: "Future[Any]", results: Callable[[Any], messages.Results]) -> Outcome:
    """Returns the results if the future is done, else Later."""
    return results(future.result()) if future.done() else Later(future, results)
