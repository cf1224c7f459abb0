# SPDX-License-Identifier: GPL-2.0-only
"""What a newcomer finds at the top: guides, commands that exist, pins for what is installed, the licence."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "target",
    [
        "run",
        "quick",
        "test",
        "unit",
        "crash",
        "lint",
        "demo",
        "bench",
        "torture",
        "fuzz",
        "kill-test",
        "kernel-test",
        "systemd-test",
        "man",
        "dist",
        "deb",
        "package-test",
        "install",
        "uninstall",
        "clean",
    ],
)
def test_make_knows_what_users_are_promised(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert (planned.returncode, planned.stdout == "") == (0, False), planned.stderr


def test_an_unknown_target_is_an_error() -> None:
    assert subprocess.run(["make", "-n", "no-such-target"], cwd=ROOT, capture_output=True).returncode != 0


def test_make_test_is_all_of_its_parts() -> None:
    def plan(*targets: str) -> list[str]:
        planned = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
        return [line for line in planned.stdout.splitlines() if ".venv/bin/" in line]

    assert plan("test") == plan("lint") + plan("unit") + plan("crash")
    ignored = re.findall(r"--ignore=(\S+)", plan("unit")[-1])
    assert ignored == re.findall(r"tests/\S+", plan("crash")[-1])
    assert [path for path in ignored if not (ROOT / path).exists()] == []


def test_a_commit_passes_what_lint_runs() -> None:
    hooks = re.findall(r"(?m)^ +entry: (\S+(?: [a-z]+)?)", (ROOT / ".pre-commit-config.yaml").read_text())
    lint = re.findall(r"(?m)^\t\$\(BIN\)/(ruff \w+|mypy)", (ROOT / "Makefile").read_text())
    assert [entry.removeprefix(".venv/bin/") for entry in hooks] == lint


@pytest.mark.parametrize("script", [".ci/run", "demo/run", "deb/make"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_every_dependency_is_bounded_and_pinned_inside_its_bounds() -> None:
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text()))
    pinned = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for wanted in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        match = re.match(r"[\w.-]+", wanted)
        assert match
        assert re.search(r">=.*,<", wanted), f"{wanted} is not bounded"
        assert match[0].lower() in pinned, f"{wanted} is not pinned"


# What a client links, or copies, holds nothing of the kernel's; bcached/__init__.py is imported with it.
MIT = re.compile(
    r"bcached/(client|wire|adapters)/.*|bcached/(__init__|errors|index_state|keys|metric|set_state|units)\.py|bcached/py\.typed|examples/.*"
)
TAG = "SPDX-License-" + "Identifier"  # in parts, so that it is not one of this file
LICENCE_LINE = re.compile(rf"(?m)^(?:#|//|--|/\*) {TAG}: (\S+)(?: \*/)?$")
FOLDERS_OF_FILES = (
    ".ci",
    "bcached",
    "bench",
    "config",
    "deb",
    "demo",
    "docs",
    "examples",
    "manual",
    "monitoring",
    "systemd",
    "tests",
)
NOT_OURS = {".git", ".coverage", "PKG-INFO", "setup.cfg"}  # the last two are made with a source distribution
FILES = sorted(
    path.relative_to(ROOT)
    for start, pattern in ((ROOT, "*"), *((ROOT / folder, "**/*") for folder in FOLDERS_OF_FILES))
    for path in start.glob(pattern)
    if path.is_file() and path.suffix != ".pyc" and path.name not in NOT_OURS
)
REUSE = tomllib.loads((ROOT / "REUSE.toml").read_text())["annotations"]


def licence_due(path: Path) -> str:
    return "MIT" if MIT.fullmatch(str(path)) else "GPL-2.0-only"


def licence_of(path: Path) -> str | None:
    """The licence named in the first lines of a file, or else for it in REUSE.toml."""
    try:
        beginning = (ROOT / path).read_text()[:200]
    except UnicodeDecodeError:
        beginning = ""
    if named := LICENCE_LINE.search(beginning):
        return named[1]
    for annotation in REUSE:
        patterns = annotation["path"]
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            whole = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
            if TAG in annotation and re.fullmatch(whole, str(path)):
                return str(annotation[TAG])
    return None


def test_every_file_names_its_licence() -> None:
    wrong = {str(path): licence_due(path) for path in FILES if licence_of(path) != licence_due(path)}
    assert wrong == {}, f"expected on top of each: # {TAG}: ..."


def test_what_a_client_links_imports_nothing_under_another_licence() -> None:
    linked = [path for path in FILES if path.suffix == ".py" and licence_due(path) == "MIT"]
    for path in linked:
        modules = re.findall(r"(?m)^ *(?:from|import) (bcached[\w.]*)", (ROOT / path).read_text())
        for module in modules:
            there = module.replace(".", "/")
            candidates = {f"{there}.py", f"{there}/__init__.py"}
            found = [name for name in candidates if (ROOT / name).exists()]
            assert [licence_due(Path(name)) for name in found] == ["MIT"], f"{path} imports {module}"


def test_a_licence_is_seen_or_missed(tmp_path: Path) -> None:
    for text, seen in [
        (f"# {TAG}: MIT\n", "MIT"),
        (f"#!/bin/sh\n# {TAG}: GPL-2.0-only\n", "GPL-2.0-only"),
        (f"/* {TAG}: MIT */\n", "MIT"),
        (f'"""No comment: {TAG}: MIT"""\n', None),
        ("", None),
    ]:
        (tmp_path / "source.py").write_text(text)
        assert licence_of(tmp_path / "source.py") == seen


def test_the_licences_are_those_that_are_named() -> None:
    assert set(PROJECT["license"].split(" AND ")) == {licence_due(path) for path in FILES}
    assert {path.stem for path in (ROOT / "LICENSES").iterdir()} == set(PROJECT["license"].split(" AND "))
    text = (ROOT / "LICENSES" / "GPL-2.0-only.txt").read_text()
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991" in text
    assert "Permission is hereby granted, free of charge" in (ROOT / "LICENSES" / "MIT.txt").read_text()


def test_the_changelog_tells_of_this_version_or_the_next() -> None:
    headings = re.findall(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"


GUIDES = [
    "README.md",
    "DESIGN.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "docs/alerts.md",
    "docs/client.md",
    "docs/container.md",
    "docs/installing.md",
    "docs/monitoring.md",
]
TRACKED = [
    path.relative_to(ROOT)
    for folder in (
        "bcached",
        "bench",
        "config",
        "deb",
        "demo",
        "docs",
        "examples",
        "manual",
        "monitoring",
        "systemd",
        "tests",
    )
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
]
FOLDERS = {path.parts[0] for path in TRACKED}
ROOMS = {path.parts[1] for path in TRACKED if path.parts[0] == "bcached" and (ROOT / path).is_dir()}
NAMED_PATH = re.compile(rf"(?<![\w/.~-])((?:{'|'.join(sorted(FOLDERS | ROOMS))})/[\w./-]*\w)")
NAMED_MODULE = re.compile(r"(?<![\w/.*-])(\w+\.py)\b")


def is_there(named: str) -> bool:
    """Whether a path exists, from the top or below bcached/; of a/b.c, also the module a/b."""
    places = [ROOT / named, ROOT / "bcached" / named]
    return any(place.exists() or place.with_suffix(".py").exists() for place in places)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_paths_that_a_guide_names_exist(guide: str) -> None:
    text = (ROOT / guide).read_text()
    named = NAMED_PATH.findall(text)
    assert len(named) > 0
    assert [path for path in named if not is_there(path)] == []
    names = {path.name for path in TRACKED}
    assert [module for module in NAMED_MODULE.findall(text) if module not in names] == []


def test_a_path_that_is_gone_is_seen() -> None:
    text = "`bcached/state/gone.py`, state/gone, /etc/bcached/bcached.toml, `state/buckets/reserves.py`"
    assert [(path, is_there(path)) for path in NAMED_PATH.findall(text)] == [
        ("bcached/state/gone.py", False),
        ("state/gone", False),
        ("state/buckets/reserves.py", True),
    ]
