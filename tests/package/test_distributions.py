# SPDX-License-Identifier: GPL-2.0-only
"""The source distribution and the wheel: built for real, and the wheel's programs run from it."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from bcached import __version__
from bcached.service.settings.sections import Tables
from package.conftest import ROOT

pytestmark = pytest.mark.timeout(600)  # environments are made, on a machine that does much else
TRACKED = [
    "Makefile",
    "install.mk",
    "constraints.txt",
    "config/bcached.toml",
    "systemd/sysusers.d/bcached.conf",
]
PACKAGE = ROOT / "bcached"


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as pip builds it from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_source_distribution_has_all_that_an_install_and_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*TRACKED, "README.md", "LICENSE", ".ci/run", "manual/roff.py"} <= names
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert tests - names == set()
    assert [name for name in names if name.endswith(".pyc") or name.startswith(("var", ".venv"))] == []


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert names == {str(path.relative_to(ROOT)) for path in ours}
    assert wheel.name == f"bcached-{__version__}-py3-none-any.whl"


def test_the_programs_of_the_wheel_run(wheel: Path, tmp_path: Path) -> None:
    # With the dependencies of this environment: `make package-test` installs those, too, into an empty one.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        wheel,
    ]
    subprocess.run(pip, check=True, capture_output=True)
    for command in (
        ["bcached", "--version"],
        ["bcachectl", "make", "-b", "64k", "--size", "64M", str(tmp_path / "cache.img")],
        ["bcachectl", "check", str(tmp_path / "cache.img")],
    ):
        program = tmp_path / "env/bin" / command[0]
        done = subprocess.run(
            [program, *command[1:]], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), command
    where: list[str | Path] = [python, "-c", "import bcached; print(bcached.__file__)"]
    found = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path / "env")), "or this checkout was tested"


def test_the_containerfile_names_files_and_keys_that_exist() -> None:
    text = (ROOT / "Containerfile").read_text()
    keys = re.findall(r"BCACHED__(\w+?)__(\w+)=", text)
    assert keys
    for section, key in keys:
        table = Tables.model_fields[section.lower()].annotation
        assert table is not None
        assert key.lower() in table.model_fields
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    needed = ["bcached", "manual", "monitoring", "config", "systemd", "install.mk", "LICENSES", "README.md"]
    assert set(ignored) & set(needed) == set()
