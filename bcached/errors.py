# SPDX-License-Identifier: MIT
"""Every error that bcached raises on purpose, in three kinds.

1. Request errors (RequestError and its subclasses: what a socket client receives, with numbers).
2. Environment errors (DeviceError, FormatError, SetRefused, ConfigError: what, where, expected and found, in
one line).
3. Bugs (plain AssertionError: the daemon stops).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from bcached.units import SECTOR_BYTES, format_size

T = TypeVar("T")


class BcachedError(Exception):
    """Base class of all errors that bcached raises on purpose; str() is a one-line message."""


# Errors of the operating system, to be turned into ours.


def calling(call: Callable[..., T], *args: Any, **how: Any) -> T:
    """Returns the result of a system call; adds the call's name to an OSError it raises.

    For operations of several calls: "cannot open it" may be any of ten, and only the name distinguishes a
    wrong mode from a sandbox that forbids the call itself.
    """
    try:
        return call(*args, **how)
    except OSError as error:
        error.add_note(call.__name__)
        raise


def reason(error: Exception) -> str:
    """Returns why something failed: the call's name if it was added, and the kernel's message."""
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ": ".join((*getattr(error, "__notes__", ()), message))


def is_of_a_handler(error: OSError) -> bool:
    """Whether code outside of this package has raised it: a signal handler, perhaps a TimeoutError."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not str(trace.tb_frame.f_globals.get("__name__")).startswith("bcached.")


# Environment errors: devices, bytes from disk, configuration.


class DeviceError(BcachedError):
    """A device could not be opened, read, written, flushed or discarded."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class DeviceRefused(DeviceError):
    """A device that must not be touched: in use, of the wrong kind, or another owner's."""


class DeviceBusy(DeviceRefused):
    """A device in use by a process that may release it: waiting may help."""


class FlushFailed(DeviceError):
    """A flush failed. What was written since the last one may be lost, so it is never retried."""


class FormatError(BcachedError):
    """Bytes from disk that are not as expected."""

    def __init__(self, structure: str, where: str, expected: object, found: object) -> None:
        super().__init__(f"{structure} at {where}: expected {expected}, found {found}")
        self.structure, self.where, self.expected, self.found = structure, where, expected, found


class BadMagic(FormatError):
    """A wrong magic number: not this structure, or of another set."""


class BadChecksum(FormatError):
    """The checksum does not match the bytes: damaged or torn."""


class BadField(FormatError):
    """A field has an impossible value; `where` names the location and the field."""


class SetRefused(BcachedError):
    """A cache set that cannot be opened in its present state; nothing on it was changed."""


class GeometryRefused(BcachedError):
    """A layout with which the allocator could not make progress, or that the format cannot represent."""


class ConfigError(BcachedError):
    """The configuration is invalid: file, key, expected and found."""


class ConnectionLost(BcachedError):
    """No daemon, or it has stopped; everything the connection held has ended."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: no connection to the daemon: {reason}")
        self.path, self.reason = path, reason


class ClientClosed(ConnectionLost):
    """The client was closed: it sends no requests and does no I/O any more."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "the client is closed")


class ForkedClient(ConnectionLost):
    """The client belongs to the process that connected it, and this process is a child of that one."""

    def __init__(self, path: str, owner: int, caller: int) -> None:
        super().__init__(
            path, f"the client belongs to process {owner}: process {caller} has to connect its own"
        )
        self.owner, self.caller = owner, caller


# Request errors. Names and fields are those of the socket.


class RequestError(BcachedError):
    """A request that cannot be served; NAME is the varlink error, fields are its parameters.

    oneway: the request could not be decoded, and its sender wants no reply.
    """

    NAME: ClassVar[str]
    oneway = False

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields


class NoFreeBuckets(RequestError):
    """No bucket became free for the reserve before the deadline (or at once, if not waiting)."""

    NAME = "io.bcached.Allocator.NoFreeBuckets"

    def __init__(self, reserve: str, waited_ms: int) -> None:
        super().__init__(
            f"no free bucket in reserve {reserve} after {waited_ms} ms",
            reserve=reserve,
            waited_ms=waited_ms,
        )


class StaleKey(RequestError):
    """The key's pointer has an older gen than its bucket; bucket_gen is -1 if there is no such bucket."""

    NAME = "io.bcached.Allocator.StaleKey"

    def __init__(self, key: object, bucket_gen: int) -> None:
        why = "or has no such bucket" if bucket_gen < 0 else f"the bucket's gen is {bucket_gen}"
        super().__init__(f"key is stale, {why}: {key}", key=key, bucket_gen=bucket_gen)


class NotReserved(RequestError):
    """The sectors are not, or not all, reserved by this connection."""

    NAME = "io.bcached.Allocator.NotReserved"

    def __init__(self, key: object) -> None:
        super().__init__(f"not reserved by this connection: {key}", key=key)


class NoSuchVolume(RequestError):
    """No volume has this inode."""

    NAME = "io.bcached.Allocator.NoSuchVolume"

    def __init__(self, inode: int) -> None:
        super().__init__(f"no volume has inode {inode}", inode=inode)


class AmbiguousLabel(RequestError):
    """Several volumes have the label: only an inode names one of them."""

    NAME = "io.bcached.Allocator.AmbiguousLabel"

    def __init__(self, label: str, inodes: Sequence[int]) -> None:
        found = ", ".join(map(str, inodes))
        super().__init__(
            f"label {label!r}: expected one volume, found {len(inodes)} (inodes {found}): "
            "use an inode, or give all but one another label",
            label=label,
            inodes=list(inodes),
        )


# What the limits mean of which users hear; the others are keys of the configuration.
LIMITS_IN_WORDS = {
    "sectors": "{size} is larger than the set",
    "keys_in_a_reply": "the answer may have {value} keys, more than one reply holds: request less at once",
    "replicas": "{value} replicas need as many devices, and the set has fewer",
    "commit_words": "{value} words of keys do not fit one journal entry: commit fewer keys at once",
    "volumes": "no slot is left for volume number {value}",
    "volumes_of_a_user": "{value} volumes are more than one user may make: an admin can make or delete some",
    "dirty_percent": "the set is {value} % dirty data: mark some of it clean, or invalidate it, first",
    "trace_listeners": "{value} traces at once are too many: end another one first",
}


class LimitExceeded(RequestError):
    """A limit of the daemon or of the set, and the value that exceeds it."""

    NAME = "io.bcached.Allocator.LimitExceeded"

    def __init__(self, limit: str, value: int) -> None:
        words, size = LIMITS_IN_WORDS.get(limit), format_size(value * SECTOR_BYTES)
        message = (
            f"{value} exceeds the limit: {limit}" if words is None else words.format(value=value, size=size)
        )
        super().__init__(message, limit=limit, value=value)


class PermissionDenied(RequestError):
    """The peer's role does not permit the method; need is the lowest role that does."""

    NAME = "io.bcached.Allocator.PermissionDenied"

    def __init__(self, need: str) -> None:
        super().__init__(f"permission denied: needs role {need}", need=need)


class DeviceFailed(RequestError):
    """A device failed: the set accepts no more changes, and the daemon is stopping."""

    NAME = "io.bcached.Allocator.DeviceFailed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"device failed: {reason}", reason=reason)


class ShuttingDown(RequestError):
    """The daemon is stopping and accepts no new work."""

    NAME = "io.bcached.Allocator.ShuttingDown"

    def __init__(self) -> None:
        super().__init__("the daemon is stopping")


class VolumeInUse(RequestError):
    """The volume holds dirty keys: to drop them needs force."""

    NAME = "io.bcached.Admin.VolumeInUse"

    def __init__(self, inode: int, dirty_sectors: int) -> None:
        super().__init__(
            f"volume {inode} holds {dirty_sectors} dirty sectors", inode=inode, dirty_sectors=dirty_sectors
        )


class InvalidParameter(RequestError):
    """A parameter is missing, unknown, of the wrong type or out of range."""

    NAME = "org.varlink.service.InvalidParameter"

    def __init__(self, parameter: str, reason: str = "") -> None:
        super().__init__(
            f"invalid parameter {parameter}" + (f": {reason}" if reason else ""), parameter=parameter
        )
        if reason:
            self.fields["reason"] = reason


class InvalidType(InvalidParameter, TypeError):
    """A parameter of a type that the method does not have there; found before the request was sent."""


class InvalidValue(InvalidParameter, ValueError):
    """A parameter that is out of range; found before the request was sent."""


class InterfaceNotFound(RequestError):
    """The service has no such interface."""

    NAME = "org.varlink.service.InterfaceNotFound"

    def __init__(self, interface: str) -> None:
        super().__init__(f"no such interface: {interface}", interface=interface)


class MethodNotFound(RequestError):
    """The interface has no such method."""

    NAME = "org.varlink.service.MethodNotFound"

    def __init__(self, method: str) -> None:
        super().__init__(f"no such method: {method}", method=method)


class ExpectedMore(RequestError):
    """The method sends several replies and must be called with more."""

    NAME = "org.varlink.service.ExpectedMore"

    def __init__(self) -> None:
        super().__init__("the method must be called with more")
