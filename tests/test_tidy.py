# SPDX-License-Identifier: GPL-2.0-only
"""The house rules a program can hold, so that no reviewer has to: floors, purity, where tasks begin."""

import ast
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover  # these read the package, and run none of it
PACKAGE = Path(__file__).parent.parent / "bcached"
FLOORS = {
    "": 0,
    "entry_points": 0,
    "errors": 0,
    "units": -2,
    "keys": 0,
    "metric": -2,
    "index_state": -1,
    "set_state": 0,
    "tracepoints": 0,
    "format": 1,
    "wire": 1,
    "device": 2,
    "client": 2,
    "adapters": 3,
    "state": 3,
    "store": 4,
    "runtime": 5,
    "service": 6,
    "cli": 7,
}
# Floors inside a folder: wings of one floor know nothing of each other. "" are the folder's own files.
WINGS = {
    "state": {"buckets": 0, "index": 0, "sectors": 1, "accounting": 2, "": 3},
    "store": {
        "": 0,
        "journal": 1,
        "btree": 1,
        "reading": 2,
        "check": 3,
        "opening": 3,
        "make": 4,
        "rescue": 4,
        "repair": 5,
        "clone": 5,
        "resize": 5,
    },
    "runtime": {"coordination": 0, "index": 1, "sectors": 1, "tasks": 2, "": 3, "warming": 4},
    "service": {
        "logs": 0,
        "users": 1,
        "requests": 2,
        "socket": 3,
        "methods": 3,
        "metrics": 3,
        "settings": 3,
    },
    "state.index": {"keys": 0, "": 1},
    "store.repair": {"new_metadata": 0, "undo": 0, "": 1},
    "format": {"": 0, "damage": 1},
    "device": {"files": 0, "claims": 1},
    "client": {"data": 0, "": 1, "cache": 2},
    "cli": {"": 0, "online": 1, "offline": 1, "volumes": 2},
}
FILES_MAX = 18  # of a folder; a larger one shows two subjects
ROOMS = [name for name, floor in FLOORS.items() if floor > 0]
PURE_ROOMS = {"format", "wire", "state"}
PURE_CLIENT = PACKAGE / "client" / "protocol"  # its decisions
WORLDLY_MODULES = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "select",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}
FILE_DESCRIPTOR_ROOMS = {"device", "client"}  # a client holds its lease and its map of the gens
# run_all.py begins none that outlives its call.
TASK_FILES = {
    "device/run_all.py",
    "runtime/lifetime.py",
    "service/daemon.py",
    "service/socket/socket_server.py",
}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


def of_each(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """A test that a rule holds for each of these files, and that names each file that breaks it.

    One test for all: five thousand tests that only look take longer than all that they look at.
    """

    def tested(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{path}: {error}")
            assert not broken, "\n".join(broken)

        test.__name__ = rule.__name__
        return test

    return tested


every_source = of_each(SOURCES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_of(path: Path) -> str:
    parts = ("bcached", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


PACKAGES = {module for module, path in MODULES.items() if path.name == "__init__.py"}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module a file imports, wherever in the file; of `from a import b` both a and a.b."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name in MODULES}


@cache
def calls(path: Path) -> list[tuple[str, str, int]]:
    """Every call as (what stands before the last dot, the name called, line)."""
    return list(_calls(path))


def _calls(path: Path) -> Iterator[tuple[str, str, int]]:
    for node in nodes_of(path):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value), node.func.attr, node.lineno
        elif isinstance(node.func, ast.Name):
            yield "", node.func.id, node.lineno


def test_every_room_of_the_house_exists() -> None:
    assert [room for room in ROOMS if not (PACKAGE / room / "__init__.py").is_file()] == []


def test_no_two_classes_have_one_name() -> None:
    """A name that means two things sends a reader to the wrong file."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


@every_source
def test_imports_run_downward_only(path: Path) -> None:
    here = room_of(module_of(path))
    for name in our_imports(path):
        there = room_of(name)
        assert there == here or FLOORS[there] < FLOORS[here], f"{here or 'ground'} imports {name}"


@every_source
def test_the_client_sees_only_the_wire(path: Path) -> None:
    if room_of(module_of(path)) == "client":
        assert {room_of(name) for name in our_imports(path)} <= {
            "",
            "client",
            "wire",
            "errors",
            "keys",
            "set_state",
            "index_state",
            "units",
        }


def wing_of(module: str, folder: str) -> str | None:
    """The wing of a folder that a module is in, "" for the folder's own files; None for another's."""
    prefix = f"bcached.{folder}."
    if not module.startswith(prefix):
        return None
    wing, dot, _ = module.removeprefix(prefix).partition(".")
    return wing if dot or module in PACKAGES else ""


@every_source
def test_imports_run_downward_inside_a_folder(path: Path) -> None:
    module = module_of(path)
    for folder, floors in WINGS.items():
        here = wing_of(module, folder)  # None for the folder's door, too: it names what others may import
        for name in our_imports(path) - PACKAGES:
            there = wing_of(name, folder)
            if here != there and here in floors and there in floors:
                assert floors[there] < floors[here], f"{module} imports {name}"


def test_every_wing_exists() -> None:
    wings = [(folder.replace(".", "/"), wing) for folder, floors in WINGS.items() for wing in floors]
    assert [
        (folder, wing) for folder, wing in wings if not (PACKAGE / folder / wing / "__init__.py").is_file()
    ] == []


def test_no_folder_is_too_large_to_be_seen_at_once() -> None:
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > FILES_MAX} == {}


def test_no_room_has_a_circle_of_imports() -> None:
    edges = {module: our_imports(path) - {module} for module, path in MODULES.items()}
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    settled: set[str] = set()
    while ready := {m for m in edges.keys() - settled if edges[m] - packages <= settled}:
        settled |= ready
    assert edges.keys() - settled == set()


@every_source
def test_the_doors_of_rooms_hold_no_logic(path: Path) -> None:
    if path.name == "__init__.py":
        allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
        assert all(isinstance(node, allowed) or is_for_types(node) for node in tree_of(path).body)


def is_for_types(node: ast.stmt) -> bool:
    """Whether only the type checker reads it: the types of what is imported when it is first used."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse


@every_source
def test_the_pure_rooms_know_no_world(path: Path) -> None:
    decides = path.is_relative_to(PURE_CLIENT)
    if room_of(module_of(path)) not in PURE_ROOMS and not decides:
        return
    suspending = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert [node.lineno for node in nodes_of(path) if isinstance(node, suspending)] == []
    assert WORLDLY_MODULES & {name.split(".")[0] for name in imports(path)} == set()
    random = {name for name in imports(path) if name.split(".")[0] == "random"}
    assert random in (set(), {"random", "random.Random"}), "randomness comes in as an argument"
    assert [line for before, name, line in calls(path) if (before, name) == ("", "open")] == []


@every_source
def test_struct_is_known_to_formats_only(path: Path) -> None:
    if (
        room_of(module_of(path)) != "format"
        and path.name != "object_format.py"
        and "SO_PEERCRED" not in path.read_text()
    ):
        assert "struct" not in imports(path)


@every_source
def test_file_descriptors_live_with_the_devices(path: Path) -> None:
    if room_of(module_of(path)) in FILE_DESCRIPTOR_ROOMS:
        return
    assert {"fcntl", "mmap"} & imports(path) == set()
    opening = {"open", "pread", "preadv", "pwrite", "pwritev", "fsync", "fdatasync", "fallocate"}
    assert [line for before, name, line in calls(path) if before == "os" and name in opening] == []


@every_source
def test_tasks_begin_where_lifetimes_are_kept(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) not in TASK_FILES and room_of(module_of(path)) != "client":
        starting = {"create_task", "ensure_future", "TaskGroup", "gather"}
        assert [line for _, name, line in calls(path) if name in starting] == []


@every_source
def test_no_wake_up_can_be_lost(path: Path) -> None:
    # CPython before 3.13 loses a notify(1) given to a waiter that is cancelled in the same tick, and
    # asyncio.wait_for may swallow a cancellation.
    found = [line for before, name, line in calls(path) if (before, name) == ("asyncio", "wait_for")]
    if room_of(module_of(path)) in {"runtime", "store"}:
        found += [line for _, name, line in calls(path) if name == "notify"]
    assert found == []


@every_source
def test_no_event_loop_policy_is_set(path: Path) -> None:
    banned = {"set_event_loop_policy", "EventLoopPolicy"}
    assert [
        line
        for before, name, line in calls(path)
        if name in banned or (before, name) == ("uvloop", "install")
    ] == []


# A component acts, and has a name; and these have plainer words. Names in code are another matter.
UNWELCOME = re.compile(
    r"\b(whoever|whomever|nobody|somebody|anybody|everybody|he|him|his|she|her|anew|carriage|bygone)\b",
    re.IGNORECASE,
)
GUIDES = [
    "README.md",
    "DESIGN.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "tests/README.md",
    "docs/client.md",
    "docs/alerts.md",
    "docs/container.md",
    "docs/cache.md",
    "docs/installing.md",
    "docs/monitoring.md",
    "docs/replacing.md",
    "docs/operating.md",
    "docs/troubleshooting.md",
    "SECURITY.md",
]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """The comments and strings of a source, docstrings among them, with their lines; or all of a text."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type in {tokenize.COMMENT, tokenize.STRING}:
                yield token.start[0], token.string


@of_each([*SOURCES, *sorted(PACKAGE.rglob("*.varlink")), *(PACKAGE.parent / guide for guide in GUIDES)])
def test_prose_says_which_component_acts(path: Path) -> None:
    assert [(line, found[0]) for line, text in prose_of(path) if (found := UNWELCOME.search(text))] == []


def test_an_unwelcome_word_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text('"""Whoever asks."""\nnobody = 1  # is told\nhis = 2  # for him\n')
    assert [UNWELCOME.findall(text) for _, text in prose_of(source)] == [["Whoever"], [], ["him"]]


def test_each_file_that_breaks_a_rule_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("kept", "broken", "broken too")]

    @of_each(paths)
    def test_of_names(path: Path) -> None:
        assert "broken" not in path.name, "a bad name"

    with pytest.raises(AssertionError) as failed:
        test_of_names()
    assert [str(path) in str(failed.value) for path in paths] == [False, True, True]
    assert "a bad name" in str(failed.value)
