# SPDX-License-Identifier: GPL-2.0-only
"""What help() shows of the clients and caches: parameters as callers pass them, and a docstring."""

import inspect
import pydoc
import typing
from collections.abc import Iterator
from types import FunctionType

import pytest

from bcached.client import AsyncCache, BlockingClient, Cache, Client
from bcached.client.protocol import verbs
from bcached.keys import Key

CLASSES = (BlockingClient, Client, Cache, AsyncCache)
INSIDE = ("Attachment", "Call[", "Plan", ".Generator[", "Step", "NoneType", "verb", "<lambda>", "locals")


def methods(kind: type) -> Iterator[tuple[str, FunctionType]]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            yield name, method


@pytest.mark.parametrize("kind", CLASSES)
def test_each_method_has_a_name_a_docstring_and_parameters_with_types(kind: type) -> None:
    assert len(list(methods(kind))) > 12
    for name, method in methods(kind):
        assert (method.__name__, method.__qualname__) == (name, f"{kind.__name__}.{name}")
        assert method.__doc__, name
        assert method.__doc__.strip()
        own, *others = inspect.signature(method).parameters.values()
        assert own.name == "self"
        assert [one.name for one in others if one.annotation is inspect.Parameter.empty] == []
        assert inspect.signature(method).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("kind", CLASSES)
def test_help_shows_nothing_of_what_methods_are_made_from(kind: type) -> None:
    told = pydoc.plain(pydoc.render_doc(kind))
    shown = [line for line in told.splitlines() if "(self" in line]
    assert [line for line in shown if any(word in line for word in INSIDE)] == []
    assert "Initialize self" not in told


def test_both_clients_have_the_parameters_and_the_defaults_of_the_protocol() -> None:
    for kind in (BlockingClient, Client):
        signature = inspect.signature(kind.allocate)
        _, *others = inspect.signature(verbs.allocate).parameters
        assert list(signature.parameters) == ["self", *others]
        assert signature.parameters["whole"].default is None
        assert signature.return_annotation == tuple[Key, ...]
        assert typing.get_type_hints(kind.read)["return"] is bytes
        assert str(inspect.signature(kind.release)).endswith("-> None")
    assert inspect.iscoroutinefunction(Client.allocate)
    assert inspect.iscoroutinefunction(Client.store)
    assert not inspect.iscoroutinefunction(BlockingClient.allocate)


def test_the_parameters_are_those_that_a_call_takes() -> None:
    client = BlockingClient("/nowhere")
    inspect.signature(client.lookup).bind(0, 0, 8, pin=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pinned'"):
        client.lookup(0, 0, 8, pinned=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="pinned"):
        inspect.signature(client.lookup).bind(0, 0, 8, pinned=True)
