# SPDX-License-Identifier: GPL-2.0-only
"""The report and the exit status. The cases here need no machine."""

import subprocess
from pathlib import Path

import pytest

from . import debug_build, packages
from .__main__ import choose, main, report
from .errors import CannotRun, HarnessFailed
from .lab import Case, Lab, Outcome, Skipped
from .machine import Machine
from .process import need


def holds(lab: Lab) -> Outcome:
    return Outcome(facts={"journal": "0 keys"})


def fails(lab: Lab) -> Outcome:
    return Outcome(("bad csum",), log="<4> bcache: bad csum")


def breaks(lab: Lab) -> Outcome:
    raise ValueError("oh no")


def skips(lab: Lab) -> Outcome:
    raise Skipped("needs a moon")


def harness_fails(lab: Lab) -> Outcome:
    raise HarnessFailed("no qemu today")


def status(tmp_path: Path, *cases: Case) -> int:
    lab = Lab(Machine("6.1", tmp_path / "kernel", tmp_path / "initramfs"), tmp_path)
    return report(lab, cases, started=0)


HOLDS, FAILS, BREAKS, SKIPS = (
    Case(function.__name__, "a claim", function) for function in (holds, fails, breaks, skips)
)


def test_all_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(tmp_path, HOLDS, HOLDS) == 0
    assert "2 held, 0 failed, 0 skipped" in capsys.readouterr().out


def test_one_failure_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(tmp_path, HOLDS, FAILS) == 1
    told = capsys.readouterr().out
    assert "NO   fails" in told
    assert "- bad csum" in told
    assert "not so: a claim" in told


def test_a_case_that_breaks_fails_and_the_next_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(tmp_path, BREAKS, HOLDS) == 1
    told = capsys.readouterr().out
    assert "ValueError: oh no" in told
    assert "ok   holds" in told


def test_a_skip_is_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(tmp_path, HOLDS, SKIPS) == 0
    told = capsys.readouterr().out
    assert "needs a moon" in told
    assert "1 skipped" in told


def test_nothing_judged_is_no_success(tmp_path: Path) -> None:
    assert status(tmp_path, SKIPS) == 2


def test_a_failure_of_the_harness_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(HarnessFailed):
        status(tmp_path, Case("harness", "a claim", harness_fails), HOLDS)


def test_cases_are_chosen_by_name_or_family() -> None:
    assert {case.name.split()[0] for case in choose(["breach"])} == {"breach"}
    assert [case.name for case in choose(["control kernel"])] == ["control kernel"]
    assert len(choose([])) > len(choose(["breach"]))
    assert choose(["no such case"]) == []
    assert [case.is_long for case in choose(["images"])] == [True, True]
    assert not any(case.is_long for case in choose([]))


def test_what_is_missing_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="apt-get install qemu-system-x86 apt dpkg"):
        need(packages.TOOLS)


def test_a_debug_build_that_cannot_be_had_is_a_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="CONFIG_BCACHE_DEBUG: apt-get install gcc-12 make binutils xz-utils"):
        debug_build.ensure_tools("gcc-12")
    debug = next(case for case in choose(["debug"]))
    assert status(tmp_path, HOLDS, debug) == 0
    assert "SKIP debug" in capsys.readouterr().out


def test_an_unknown_series_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tests.kernel", "--kernel", "6.13"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "invalid choice: '6.13'" in told
    assert all(series in told for series in packages.SERIES)


def test_the_compiler_is_the_one_that_the_kernel_was_built_with() -> None:
    for compiler in ("gcc-12 (Debian 12.2.0-14) 12.2.0", "x86_64-linux-gnu-gcc-12 (Debian) 12.2.0"):
        assert debug_build.compiler_of(f'CONFIG_X=y\nCONFIG_CC_VERSION_TEXT="{compiler}"\n') == "gcc-12"
    with pytest.raises(CannotRun, match="names no gcc"):
        debug_build.compiler_of('CONFIG_CC_VERSION_TEXT="clang version 19"\n')


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    monkeypatch.delenv(packages.FOLDER_VARIABLE, raising=False)
    assert packages.cache_folder("6.1") == Path("/some/where/bcached-kernel/6.1")
    monkeypatch.setenv(packages.FOLDER_VARIABLE, "/else/where")
    assert packages.cache_folder("6.12") == Path("/else/where/6.12")


def test_the_guests_script_is_valid_shell() -> None:
    script = Path(__file__).parent / "guest" / "init"
    assert subprocess.run(["sh", "-n", str(script)], capture_output=True).returncode == 0
