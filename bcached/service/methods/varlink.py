# SPDX-License-Identifier: GPL-2.0-only
"""org.varlink.service: the daemon's vendor and version, and the text of its interfaces."""

from importlib import resources
from typing import Any

from bcached import __version__
from bcached.errors import InterfaceNotFound
from bcached.service.requests.method import Operation, Outcome, Session
from bcached.service.users.access import Role
from bcached.wire import messages
from bcached.wire.methods import INTERFACES, METHODS, SERVICE


class Interfaces:
    """The interfaces' .varlink files, read once."""

    def __init__(self) -> None:
        folder = resources.files("bcached.wire")
        self._texts = {name: folder.joinpath(f"{name}.varlink").read_text("utf-8") for name in INTERFACES}
        self.operations = {
            METHODS[f"{SERVICE}.GetInfo"].request: Operation(Role.NONE, self.get_info),
            METHODS[f"{SERVICE}.GetInterfaceDescription"].request: Operation(Role.NONE, self.get_description),
        }

    def get_info(self, _session: Session, _request: Any) -> Outcome:
        """Returns vendor, product, version and interfaces."""
        return messages.Info(
            "bcached", "bcached", __version__, "https://docs.kernel.org/admin-guide/bcache.html", INTERFACES
        )

    def get_description(self, _session: Session, request: messages.Interface) -> Outcome:
        """Returns the text of an interface."""
        text = self._texts.get(request.interface)
        if text is None:
            raise InterfaceNotFound(request.interface)
        return messages.InterfaceDescription(text)
