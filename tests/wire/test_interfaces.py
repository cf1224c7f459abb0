# SPDX-License-Identifier: GPL-2.0-only
"""The IDL files and the structs say the same: parsed by varlink's own parser, compared by msgspec's."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from varlink import scanner

import bcached.wire
from bcached import errors
from bcached.wire.methods import INTERFACES, METHODS, Method
from instruments.interface_types import FILES, with_types

FOLDER = Path(bcached.wire.__file__).parent
PARSED = {name: scanner.Interface((FOLDER / f"{name}.varlink").read_text()) for name in INTERFACES}


def idl_words(interface: scanner.Interface, kind: Any) -> Any:  # noqa: PLR0911 - a case each
    """A type of the IDL in plain words, its named types written out."""
    match kind:
        case scanner._Maybe():
            return ("maybe", idl_words(interface, kind.element_type))
        case scanner._Array():
            return ("list", idl_words(interface, kind.element_type))
        case scanner._Dict():
            return ("dict", idl_words(interface, kind.element_type))
        case scanner._CustomType():
            return idl_words(interface, interface.members[kind.name].type)
        case scanner._Struct():
            return {name: idl_words(interface, field) for name, field in kind.fields.items()}
        case scanner._Enum():
            return ("enum", set(kind.fields))
        case scanner._Object():
            return "object"
        case _:
            return type(kind).__name__


def struct_words(kind: inspect.Type) -> Any:  # noqa: PLR0911 - a case each
    """A type of msgspec in the same words."""
    match kind:
        case inspect.UnionType(types=types):
            (one,) = (each for each in types if not isinstance(each, inspect.NoneType))
            return ("maybe", struct_words(one))
        case inspect.VarTupleType(item_type=item):
            return ("list", struct_words(item))
        case inspect.DictType(key_type=inspect.StrType(), value_type=value):
            return ("dict", struct_words(value))
        case inspect.StructType(fields=fields):
            return {field.encode_name: struct_words(field.type) for field in fields}
        case inspect.LiteralType(values=values):
            return ("enum", set(values))
        case inspect.AnyType():
            return "object"
        case inspect.IntType(ge=least, le=most):
            assert (least is None) == (most is None)
            return "int"
    return {"BoolType": "bool", "StrType": "str", "FloatType": "float"}[type(kind).__name__]


every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.full_name)


@every_method
def test_a_method_takes_what_its_interface_says(method: Method) -> None:
    interface = PARSED[method.interface]
    said = idl_words(interface, interface.get_method(method.name).in_type)
    assert struct_words(inspect.type_info(method.parameters)) == said


@every_method
def test_a_method_gives_what_its_interface_says(method: Method) -> None:
    interface = PARSED[method.interface]
    said = idl_words(interface, interface.get_method(method.name).out_type)
    assert struct_words(inspect.type_info(method.results)) == said


@every_method
def test_a_field_may_be_left_out_just_when_the_interface_says_so(method: Method) -> None:
    for field in msgspec.structs.fields(method.parameters):
        optional = isinstance(inspect.type_info(field.type), inspect.UnionType)
        assert optional == (not field.required)


@pytest.mark.parametrize("name", FILES)
def test_an_interface_has_the_types_that_the_set_state_declares(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text == with_types(text), "run make interfaces"


def test_the_interfaces_name_every_method_and_no_other() -> None:
    said = {
        f"{name}.{member.name}"
        for name, interface in PARSED.items()
        for member in interface.members.values()
        if isinstance(member, scanner._Method)
    }
    assert said == set(METHODS)


def test_an_interface_names_itself_and_explains_its_members() -> None:
    for name, interface in PARSED.items():
        assert interface.name == name
        for member in interface.members.values():
            assert member.doc.strip(), f"{name}.{member.name} has no comment"


def leaves() -> list[type[errors.RequestError]]:
    return [leaf for leaf in errors.RequestError.__subclasses__() if leaf.__module__ == errors.__name__]


def test_every_error_of_ours_is_in_its_interface_with_its_fields() -> None:
    assert len(leaves()) > 10
    for leaf in leaves():
        name, _, tail = leaf.NAME.rpartition(".")
        fields = idl_words(PARSED[name], PARSED[name].members[tail].type)
        code = leaf.__init__.__code__
        assert set(code.co_varnames[1 : code.co_argcount]) == set(fields), leaf


def test_an_error_that_two_interfaces_have_is_the_same_in_both() -> None:
    seen: dict[str, Any] = {}
    for interface in PARSED.values():
        for member in interface.members.values():
            if isinstance(member, scanner._Error) and interface.name.startswith("io.bcached"):
                words = idl_words(interface, member.type)
                assert seen.setdefault(member.name, words) == words


def test_no_name_of_an_interface_is_used_twice() -> None:
    for interface in PARSED.values():
        lines = interface.description.splitlines()
        named = [line for line in lines if line.startswith(("type ", "method ", "error "))]
        assert len(named) == len(interface.members)
