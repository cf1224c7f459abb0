# SPDX-License-Identifier: MIT
"""Names of a package whose modules are imported when they are first used (PEP 562)."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def on_demand(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a `__getattr__` for the package; modules maps each name to its module."""

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return attribute


def listing(loaded: Mapping[str, object], names: Iterable[str]) -> Callable[[], list[str]]:
    """Returns a `__dir__` for the package: what is loaded, and all of these names."""
    return lambda: sorted({*loaded, *names})
