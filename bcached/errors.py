"""Every error bcached raises on purpose. Three kinds, never mixed.

The caller's (RequestError and its leaves: what a socket client is told, with numbers), the world's
(DeviceError, FormatError, SetRefused, ConfigError: what, where, expected and found, in one line) and
ours (plain AssertionError: a bug, and the daemon stops).
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class BcachedError(Exception):
    """Root of all errors that bcached raises on purpose; str() is one line for a person."""


# The operating system's, on their way to become ours.


def calling(call: Callable[..., T], *args: Any, **how: Any) -> T:
    """Returns what a call of the operating system returns; an OSError it raises bears the call's name.

    For what takes several calls: "cannot open it" may be any of ten, and only the name tells a wrong mode
    from a sandbox that forbids the call as such.
    """
    try:
        return call(*args, **how)
    except OSError as error:
        error.add_note(call.__name__)
        raise


def reason(error: Exception) -> str:
    """Returns why something failed: the call's name where it is noted, and the kernel's words."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ": ".join((*getattr(error, "__notes__", ()), words))


# The world's: devices, bytes from disk, configuration.


class DeviceError(BcachedError):
    """A device could not be opened, read, written, flushed or discarded."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class DeviceRefused(DeviceError):
    """A device that must not be touched: in use, of the wrong kind, or somebody else's."""


class DeviceBusy(DeviceRefused):
    """A device in use by a process that may let go of it: waiting may help."""


class FlushFailed(DeviceError):
    """A flush failed. What was written since the last one may be lost; it is never tried again."""


class FormatError(BcachedError):
    """Bytes from disk that are not what they should be."""

    def __init__(self, structure: str, where: str, expected: object, found: object) -> None:
        super().__init__(f"{structure} at {where}: expected {expected}, found {found}")
        self.structure, self.where, self.expected, self.found = structure, where, expected, found


class BadMagic(FormatError):
    """The magic number is another one: not this structure, or of another set."""


class BadChecksum(FormatError):
    """The checksum does not match the bytes: damaged or torn."""


class BadField(FormatError):
    """A field holds a value that cannot be; where names the place and the field."""


class SetRefused(BcachedError):
    """A cache set that cannot be opened as it is; nothing on it was changed."""


class GeometryRefused(BcachedError):
    """A layout with which the allocator could not make progress, or that the format cannot hold."""


class ConfigError(BcachedError):
    """The configuration is unusable: file, key, expected and found."""


class ConnectionLost(BcachedError):
    """The daemon is not there, or not any more; what the connection held is void."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: no connection to the daemon: {reason}")
        self.path, self.reason = path, reason


class ClientClosed(ConnectionLost):
    """The client was closed: it asks, reads and writes nothing any more."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "the client is closed")


class ForkedClient(ConnectionLost):
    """The client belongs to the process that connected it, and this is a child of that one's."""

    def __init__(self, path: str, owner: int, caller: int) -> None:
        super().__init__(
            path, f"the client belongs to process {owner}: process {caller} has to connect one of its own"
        )
        self.owner, self.caller = owner, caller


# The caller's: a request that cannot be served. Names and fields are the socket's.


class RequestError(BcachedError):
    """A request that cannot be served; NAME is the varlink error, fields are its parameters.

    oneway: it is one that could not be read, of somebody who wants no answer.
    """

    NAME: ClassVar[str]
    oneway = False

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields


class NoFreeBuckets(RequestError):
    """No bucket came free for the reserve before the deadline (or at once, when not waiting)."""

    NAME = "io.bcached.Allocator.NoFreeBuckets"

    def __init__(self, reserve: str, waited_ms: int) -> None:
        super().__init__(
            f"no free bucket in reserve {reserve} after {waited_ms} ms",
            reserve=reserve,
            waited_ms=waited_ms,
        )


class StaleKey(RequestError):
    """The key's pointer names a gen the bucket no longer has; -1 where no such bucket is known."""

    NAME = "io.bcached.Allocator.StaleKey"

    def __init__(self, key: object, bucket_gen: int) -> None:
        why = "or of no bucket" if bucket_gen < 0 else f"the bucket's gen is {bucket_gen}"
        super().__init__(f"key is stale, {why}: {key}", key=key, bucket_gen=bucket_gen)


class NotReserved(RequestError):
    """The sectors are not (all) reserved by this connection."""

    NAME = "io.bcached.Allocator.NotReserved"

    def __init__(self, key: object) -> None:
        super().__init__(f"not reserved by this connection: {key}", key=key)


class NoSuchVolume(RequestError):
    """No volume has this inode."""

    NAME = "io.bcached.Allocator.NoSuchVolume"

    def __init__(self, inode: int) -> None:
        super().__init__(f"no volume has inode {inode}", inode=inode)


class LimitExceeded(RequestError):
    """A limit of the daemon or of the set, and the value that is beyond it."""

    NAME = "io.bcached.Allocator.LimitExceeded"

    def __init__(self, limit: str, value: int) -> None:
        super().__init__(f"{value} is beyond the limit: {limit}", limit=limit, value=value)


class PermissionDenied(RequestError):
    """The peer's role does not allow the method; need is the role that would."""

    NAME = "io.bcached.Allocator.PermissionDenied"

    def __init__(self, need: str) -> None:
        super().__init__(f"permission denied: needs role {need}", need=need)


class DeviceFailed(RequestError):
    """The set stopped changing since a device failed; the daemon is going down."""

    NAME = "io.bcached.Allocator.DeviceFailed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"device failed: {reason}", reason=reason)


class ShuttingDown(RequestError):
    """The daemon takes no new work: it is stopping."""

    NAME = "io.bcached.Allocator.ShuttingDown"

    def __init__(self) -> None:
        super().__init__("the daemon is stopping")


class VolumeInUse(RequestError):
    """The volume holds dirty keys; they go only by force."""

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
    """The method answers more than once and has to be called with more."""

    NAME = "org.varlink.service.ExpectedMore"

    def __init__(self) -> None:
        super().__init__("the method has to be called with more")
