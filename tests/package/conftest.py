# SPDX-License-Identifier: GPL-2.0-only
"""The source distribution, built from a copy of the checkout that git knows nothing of."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
    "var",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
)


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    command: list[str | Path] = [sys.executable, "-m", "build", "--sdist", "-o", folder, copy]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.tar.gz")
    return file


@pytest.fixture
def sources(sdist: Path, tmp_path: Path) -> Path:
    """The folder that it unpacks to."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / sdist.name.removesuffix(".tar.gz")
