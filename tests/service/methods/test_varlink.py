# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

import bcached.wire
from bcached.errors import InterfaceNotFound
from bcached.service.methods.varlink import Interfaces
from bcached.service.requests.method import Session
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.wire import messages
from bcached.wire.methods import INTERFACES

SESSION = Session(Peer(1, 0, frozenset()), Role.NONE, None)


@pytest.mark.parametrize("name", INTERFACES)
def test_each_interface_is_described_by_its_file(name: str) -> None:
    described = Interfaces().get_description(SESSION, messages.Interface(name))
    (folder,) = bcached.wire.__path__
    assert described == messages.InterfaceDescription(Path(folder, f"{name}.varlink").read_text())


def test_an_unknown_interface_is_refused_by_name() -> None:
    with pytest.raises(InterfaceNotFound, match="no such interface"):
        Interfaces().get_description(SESSION, messages.Interface("io.bcached.Nothing"))


def test_a_peer_without_a_role_may_read_the_interfaces() -> None:
    assert {operation.role for operation in Interfaces().operations.values()} == {Role.NONE}
