# SPDX-License-Identifier: GPL-2.0-only
"""The memory of the index where the configuration does not say: what host, limits and device leave."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from bcached.service.settings.config import Settings
from bcached.service.settings.index_memory import LEAST_BYTES, index_bytes, memory_limit
from bcached.service.settings.set_options import set_options

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def test_the_index_takes_a_third_of_what_is_left() -> None:
    assert index_bytes(TIB, GIB, 64 * MIB) == (1024 - 80 - 64 - 48) * MIB // 3
    assert index_bytes(TIB, 2 * GIB, 64 * MIB) == (2048 - 80 - 64 - 48) * MIB // 3


def test_a_small_device_needs_no_more_than_its_keys() -> None:
    assert index_bytes(10 * GIB, 64 * GIB, 64 * MIB) == 120 * MIB
    assert index_bytes(64 * MIB, 64 * GIB, 64 * MIB) == LEAST_BYTES


def test_a_limit_that_leaves_nothing_still_leaves_a_few_leaves() -> None:
    assert index_bytes(TIB, 100 * MIB, 64 * MIB) == LEAST_BYTES


@pytest.mark.parametrize(
    ("line", "top", "name"),
    [
        ("0::/a/b", "sys/fs/cgroup", "memory.max"),
        ("4:memory:/a/b", "sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ],
)
def test_the_lowest_limit_of_all_groups_counts(tmp_path: Path, line: str, top: str, name: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"3:cpu,cpuacct:/elsewhere\n{line}\n")
    group = tmp_path / top / "a/b"
    group.mkdir(parents=True)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    assert memory_limit(tmp_path) == host, "no group says anything"
    (group / name).write_text("max\n")
    (group.parent / name).write_text("20971520\n")
    (tmp_path / top / name).write_text("30000000\n")
    assert memory_limit(tmp_path) == 20971520
    (group / name).write_text(f"{1 << 62}\n")
    (group.parent / name).write_text("max\n")
    assert memory_limit(tmp_path) == 30000000


def test_a_host_without_control_groups_has_its_memory(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) > 0


@pytest.mark.parametrize(("given", "taken"), [(5 * MIB, 5 * MIB), (0, LEAST_BYTES)])
def test_the_configuration_has_the_last_word(given: int, taken: int) -> None:
    settings = Settings.model_validate({"set": {"devices": ["/a"]}, "index": {"memory_bytes": given}})
    assert set_options(settings, device_bytes=MIB).index_bytes == taken


def test_too_little_is_refused() -> None:
    with pytest.raises(ValidationError, match="should be 0, or 1048576 or more"):
        Settings.model_validate({"set": {"devices": ["/a"]}, "index": {"memory_bytes": MIB - 1}})
