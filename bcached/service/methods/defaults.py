# SPDX-License-Identifier: GPL-2.0-only
"""Requests with defaults in place of what they leave out: parsed here, once, and frozen from then on."""

from bcached.errors import NoSuchVolume, PermissionDenied
from bcached.runtime.index.lookups import LookupRequest
from bcached.service.methods.alignment import refuse_unaligned
from bcached.service.requests.method import Session
from bcached.service.users.access import Role
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.wire import messages

WaitingRequest = (
    messages.Allocate
    | messages.AllocateMany
    | messages.AllocateBucket
    | messages.Commit
    | messages.MarkClean
    | messages.Invalidate
)


def lookup_request(
    request: messages.Lookup, holder: Holder, block_mask: int, limit: int = messages.FOUND_MAX
) -> LookupRequest:
    """Returns the look-up of at most `limit` keys.

    Raises InvalidParameter if it is not block-aligned, NoSuchVolume if the holder may not see the volume.
    """
    inode, offset, sectors = request.inode, request.offset, request.sectors
    if (offset | sectors) & block_mask:
        refuse_unaligned(request, block_mask)
    if inode in holder.rights.hidden:
        raise NoSuchVolume(inode)
    return LookupRequest(
        inode,
        offset,
        sectors,
        limit if request.limit is None else min(request.limit, limit),
        holder if request.pin else None,
        request.touch is not False,
    )


def extent_request(request: messages.Allocate | messages.Extent, session: Session) -> ExtentRequest:
    """Returns the request for an extent. Raises PermissionDenied if only an admin may make it."""
    if request.write_prio and session.role < Role.ADMIN:
        raise PermissionDenied(Role.ADMIN.label)
    return ExtentRequest(
        request.inode,
        request.offset,
        request.sectors,
        session.write_point if request.write_point is None else request.write_point,
        request.replicas or 1,
        bool(request.write_prio),
        bool(request.whole),
    )


def timeout_s(request: WaitingRequest) -> float:
    """Returns how long a request may wait, in seconds."""
    return (messages.TIMEOUT_MS if request.timeout_ms is None else request.timeout_ms) / 1000


def wait_s(request: messages.Allocate | messages.AllocateMany | messages.AllocateBucket) -> float:
    """Returns how long an allocation may wait, in seconds; 0 is not at all."""
    return 0.0 if request.wait is False else timeout_s(request)
