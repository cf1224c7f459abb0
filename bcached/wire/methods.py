# SPDX-License-Identifier: MIT
"""Every method of the socket by its full name, and the class of its requests.

A request's class is made from the method's parameters with "method" as its tag, so that one decode selects
the method and checks its parameters.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bcached.wire import admin_messages, messages, volume_messages
from bcached.wire.interfaces import ADMIN, ALLOCATOR, INTERFACES, MONITOR, SERVICE

__all__ = ["ADMIN", "ALLOCATOR", "INTERFACES", "METHODS", "MONITOR", "SERVICE", "Method", "Request"]


class Request(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A decoded request without its method, which is its class."""

    parameters: Any
    oneway: bool | None = False
    more: bool | None = False
    upgrade: bool | None = False


class Method(NamedTuple):
    """A method: its interface and name, and the structs of its parameters and results."""

    interface: str
    name: str
    parameters: type[messages.Parameters]
    results: type[messages.Results]
    request: type[Request]

    @property
    def full_name(self) -> str:
        """Returns the name that a request contains."""
        return f"{self.interface}.{self.name}"


def _method(
    interface: str, name: str, parameters: type[messages.Parameters], results: type[messages.Results]
) -> Method:
    all_optional = not any(field.required for field in msgspec.structs.fields(parameters))
    default = (parameters(),) if all_optional else ()
    request: Any = msgspec.defstruct(
        name,
        [("parameters", parameters, *default)],
        bases=(Request,),
        module=__name__,
        tag_field="method",
        tag=f"{interface}.{name}",
        kw_only=True,
        gc=False,
        forbid_unknown_fields=True,
    )
    return Method(interface, name, parameters, results, request)


METHODS = {
    method.full_name: method
    for method in (
        _method(SERVICE, "GetInfo", messages.Nothing, messages.Info),
        _method(SERVICE, "GetInterfaceDescription", messages.Interface, messages.InterfaceDescription),
        _method(ALLOCATOR, "Describe", messages.Nothing, messages.Description),
        _method(ALLOCATOR, "Allocate", messages.Allocate, messages.Allocated),
        _method(ALLOCATOR, "AllocateMany", messages.AllocateMany, messages.AllocatedMany),
        _method(ALLOCATOR, "AllocateBucket", messages.AllocateBucket, messages.OneKey),
        _method(ALLOCATOR, "FreeBucket", messages.FreeBucket, messages.Done),
        _method(ALLOCATOR, "Release", messages.Release, messages.Done),
        _method(ALLOCATOR, "Commit", messages.Commit, messages.Committed),
        _method(ALLOCATOR, "MarkClean", messages.MarkClean, messages.MarkedClean),
        _method(ALLOCATOR, "Lookup", messages.Lookup, messages.Found),
        _method(ALLOCATOR, "LookupMany", messages.LookupMany, messages.FoundMany),
        _method(ALLOCATOR, "Unpin", messages.Unpin, messages.Done),
        _method(ALLOCATOR, "Invalidate", messages.Invalidate, messages.Invalidated),
        _method(ALLOCATOR, "Flush", messages.Nothing, messages.Flushed),
        _method(ALLOCATOR, "Touch", messages.Touch, messages.Done),
        _method(ALLOCATOR, "OpenVolume", volume_messages.OpenVolume, volume_messages.OpenedVolume),
        _method(ALLOCATOR, "Volumes", messages.Nothing, volume_messages.ListedVolumes),
        _method(ALLOCATOR, "MapGens", messages.Nothing, messages.GenMaps),
        _method(ALLOCATOR, "MapChanges", messages.Nothing, messages.ChangeMapFile),
        _method(ADMIN, "Status", messages.Nothing, admin_messages.StatusNow),
        _method(ADMIN, "Explain", messages.Nothing, admin_messages.Lines),
        _method(ADMIN, "Verify", messages.Nothing, admin_messages.Violations),
        _method(ADMIN, "CollectGarbage", admin_messages.CollectGarbage, messages.Done),
        _method(ADMIN, "WritePriorities", messages.Nothing, messages.Done),
        _method(ADMIN, "SetReplacement", admin_messages.SetReplacement, messages.Done),
        _method(ADMIN, "SetDiscard", admin_messages.SetDiscard, messages.Done),
        _method(ADMIN, "ListVolumes", messages.Nothing, volume_messages.ListedVolumes),
        _method(ADMIN, "CreateVolume", volume_messages.CreateVolume, volume_messages.NewVolume),
        _method(ADMIN, "DeleteVolume", volume_messages.DeleteVolume, messages.Done),
        _method(ADMIN, "SetVolumeOwner", volume_messages.SetVolumeOwner, messages.Done),
        _method(MONITOR, "Watch", admin_messages.Watch, admin_messages.News),
        _method(MONITOR, "Trace", admin_messages.Trace, admin_messages.Traced),
    )
}
