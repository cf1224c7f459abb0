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
        "install",
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


@pytest.mark.parametrize("script", [".ci/run", "demo/run"])
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


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "GPL-2.0-only"
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991" in text


def test_the_changelog_tells_of_this_version_or_the_next() -> None:
    headings = re.findall(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"


GUIDES = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "tests/README.md"]
TRACKED = [
    path.relative_to(ROOT)
    for folder in ("bcached", "bench", "config", "demo", "systemd", "tests")
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
