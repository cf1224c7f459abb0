# SPDX-License-Identifier: GPL-2.0-only
"""io.bcached.Allocator's keys on a cache set: commit, mark clean, look up, invalidate.

A look-up whose nodes are in memory and a commit that need not be durable are answered in the batch they
arrived in. A durable change is made at once too; only its reply waits for the journal.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bcached.errors import InvalidParameter, RequestError
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.conditional_commits import CommitConditions, CommitResult
from bcached.runtime.index.lookups import LookupResult
from bcached.service.methods.alignment import check_blocks, refuse_unaligned
from bcached.service.methods.allocator import DONE
from bcached.service.methods.defaults import lookup_request, timeout_s
from bcached.service.methods.durability import Durability
from bcached.service.methods.many_lookups import ManyLookups
from bcached.service.requests.method import Decided, Handler, Later, Long, Operation, Outcome, Session
from bcached.service.users.access import Role
from bcached.wire import messages
from bcached.wire.methods import ALLOCATOR, METHODS

BRIEF_KEYS_MAX = 16  # of a look-up: with more, its reply is a long one


class IndexOperations:
    """The methods that change or read the index."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._set = cache_set
        self._index = cache_set.index
        self._lookups = cache_set.lookups
        self._try_lookup = cache_set.lookups.try_lookup
        self._durability = Durability(cache_set.index)
        self._block_mask = cache_set.geometry.block_sectors - 1  # a block is a power of two
        changing: dict[str, Handler] = {
            "Commit": self.commit,
            "MarkClean": self.mark_clean,
            "Invalidate": self.invalidate,
        }
        table = {
            name: Operation(Role.ALLOCATOR, run, brief=True, changes=True, in_order=True)
            for name, run in changing.items()
        }
        table["Flush"] = Operation(Role.ALLOCATOR, self.flush, in_order=True)
        table["Lookup"] = Operation(
            Role.READER, self.lookup, brief=True, in_order=True, run_several=self.lookup_several
        )
        table["LookupMany"] = Operation(Role.READER, self.lookup_many, in_order=True)
        table["Touch"] = Operation(Role.READER, self.touch)
        table["Unpin"] = Operation(Role.READER, self.unpin, brief=True)
        self.operations = {METHODS[f"{ALLOCATOR}.{name}"].request: each for name, each in table.items()}

    # Changing

    def commit(self, session: Session, request: messages.Commit) -> Outcome:
        """Insert keys into the index, atomically."""
        check_blocks("keys", request.keys, self._block_mask)
        self._check_durable(request.durable)
        if request.has_conditions:
            return self._commit_if(session, request)
        if not request.keys:
            seq: int | None = self._set.journal.accepted_seq
        else:
            seq = self._index.try_commit(session.holder, request.keys)
        if seq is not None:
            return self._once_durable(request.durable, seq, messages.Committed(seq))
        return Later(
            self._index.commit(session.holder, request.keys, timeout_s(request)),
            lambda seq: self._once_durable(request.durable, seq, messages.Committed(seq)),
            cancellable=True,
        )

    def _commit_if(self, session: Session, request: messages.Commit) -> Outcome:
        """Insert keys on conditions, or with an answer for each."""
        ranges = request.replaces or ()
        for one in ranges:
            if (one.offset | one.sectors) & self._block_mask:
                refuse_unaligned(one, self._block_mask)
        conditions = CommitConditions(
            tuple((one.inode, one.offset, one.offset + one.sectors) for one in ranges),
            bool(request.if_absent),
            request.if_versions,
        )

        def made(made: CommitResult) -> Outcome:
            results = messages.Committed(made.seq)
            if request.if_absent or request.if_versions is not None:
                results.committed = made.committed
            if request.versions:
                results.versions = made.versions
            return self._once_durable(request.durable, made.seq, results)

        commits = self._set.conditional_commits
        at_once = commits.try_commit(session.holder, request.keys, conditions)
        if at_once is not None:
            return made(at_once)
        waiting = commits.commit(session.holder, request.keys, conditions, timeout_s(request))
        return Later(waiting, made, cancellable=True)

    def mark_clean(self, session: Session, request: messages.MarkClean) -> Outcome:
        """Mark dirty keys clean where they are unchanged in the index."""
        check_blocks("keys", request.keys, self._block_mask)

        def marked(outcome: tuple[list[bool], int]) -> Outcome:
            cleaned, seq = outcome
            return self._once_durable(request.durable, seq, messages.MarkedClean(tuple(cleaned)))

        marking = self._index.mark_clean(request.keys, timeout_s(request), session.holder.rights)
        return Later(marking, marked, cancellable=True)

    def invalidate(self, session: Session, request: messages.Invalidate) -> Outcome:
        """Remove the keys of a range."""
        if (request.offset | request.sectors) & self._block_mask:
            refuse_unaligned(request, self._block_mask)

        def dropped(outcome: tuple[int, int]) -> Outcome:
            sectors, seq = outcome
            return self._once_durable(request.durable, seq, messages.Invalidated(sectors))

        invalidating = self._index.invalidate(
            request.inode, request.offset, request.sectors, timeout_s(request), session.holder.rights
        )
        return Later(invalidating, dropped, cancellable=True)

    def flush(self, _session: Session, _request: Any) -> Outcome:
        """Make all changes so far durable."""
        seq = self._set.journal.accepted_seq
        return self._once_durable(True, seq, messages.Flushed(seq))

    def _check_durable(self, durable: bool | None) -> None:
        if durable is not False and not self._set.shared.options.synchronous:
            raise InvalidParameter("durable", "expected false: the set is not synchronous")

    def _once_durable(self, durable: bool | None, seq: int, results: messages.Results) -> Outcome:
        """Returns the reply to a change that is made: at once, or when its entry is durable."""
        if durable is False or (waiting := self._durability.reached(seq)) is None:
            return results
        return Decided(waiting, results)

    # Reading

    def lookup(self, session: Session, request: messages.Lookup) -> Outcome:
        """Look up the keys of a range."""
        parsed = lookup_request(request, session.holder, self._block_mask)
        found = self._try_lookup(parsed)
        if found is None:
            return Later(self._lookups.lookup(parsed), _found, cancellable=True)
        return _found(found) if len(found.keys) <= BRIEF_KEYS_MAX else Long(_found(found))

    def lookup_several(
        self, session: Session, requests: Sequence[messages.Lookup]
    ) -> Sequence[messages.Results]:
        """Look up the first of several ranges, as far as their nodes are in memory."""
        try_lookup, holder, block_mask = self._try_lookup, session.holder, self._block_mask
        results: list[messages.Results] = []
        with suppress(RequestError):  # the failing request is run alone next, and refused
            for request in requests:
                found = try_lookup(lookup_request(request, holder, block_mask))
                if found is None:
                    break
                keys = found.keys
                results.append(messages.Found(tuple(keys), found.next))
                if len(keys) > BRIEF_KEYS_MAX:
                    break  # its reply is sent before others are added
        return results

    def lookup_many(self, session: Session, request: messages.LookupMany) -> Outcome:
        """Look up the keys of several ranges."""
        for one in request.requests:  # before any of them runs
            if (one.offset | one.sectors) & self._block_mask:
                refuse_unaligned(one, self._block_mask)
        lookups = ManyLookups(
            self._lookups, session.holder, request.requests, self._block_mask, session.pause
        )
        lookups.begin()
        if lookups.are_done:
            return lookups.results()
        return Later(lookups.go_on(), lambda _: lookups.results(), cancellable=True)

    def touch(self, _session: Session, request: messages.Touch) -> Outcome:
        """Count what a client read without a look-up."""
        self._set.touches.touch(request.buckets)
        self._set.touches.count(request.hits or 0, request.misses or 0, request.bytes or 0)
        return DONE

    def unpin(self, session: Session, request: messages.Unpin) -> Outcome:
        """Unpin keys that a look-up pinned."""
        self._lookups.unpin(session.holder, request.keys)
        return DONE


def _found(found: LookupResult) -> messages.Found:
    return messages.Found(tuple(found.keys), found.next)
