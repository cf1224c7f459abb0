# SPDX-License-Identifier: GPL-2.0-only
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bcached.errors import ConfigError
from bcached.service.settings.config import Settings, load
from bcached.service.settings.sections import Tables

SHIPPED = Path(__file__).parents[3] / "config" / "bcached.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("BCACHED__") or name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bcached.toml"
    path.write_text("")
    path.chmod(0o640)
    return path


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    return str(caught.value)


def test_the_shipped_file_says_the_defaults(tmp_path: Path) -> None:
    copy = tmp_path / "bcached.toml"
    copy.write_text(SHIPPED.read_text())
    copy.chmod(0o644)
    assert load(str(copy)) == Settings()


def test_the_shipped_file_explains_every_key(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (\w+ = )", r"\1", SHIPPED.read_text())
    copy = tmp_path / "bcached.toml"
    copy.write_text(text)
    copy.chmod(0o644)
    assert load(str(copy)) == Settings()
    assert re.findall(r"(?m)^\[(\w+)\]", text) == [*Tables.model_fields]
    keys = [key for section in Settings().model_dump().values() for key in section]
    assert sorted(re.findall(r"(?m)^(\w+) = ", text)) == sorted(keys)


def test_the_effective_configuration_can_be_loaded_again(file: Path) -> None:
    file.write_text('[set]\ndevices = ["/dev/disk/by-id/ü"]\n[log]\nlevel = "debug"')
    first = load(str(file))
    file.write_text(first.as_toml())
    assert load(str(file)) == first


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().gc.slice_ms = 2


def test_drop_ins_win_in_the_order_of_their_names(file: Path) -> None:
    drop_ins = file.parent / "conf.d"
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text("[gc]\nslice_ms = 3\n")
    (drop_ins / "10-a.toml").write_text("[gc]\nslice_ms = 2\nmoving = false\n")
    (drop_ins / "90-ignored.conf").write_text("junk")
    file.write_text("[gc]\nslice_ms = 1\n[journal]\ndelay_ms = 7")
    loaded = load(str(file))
    assert (loaded.gc.slice_ms, loaded.gc.moving, loaded.journal.delay_ms) == (3, False, 7)


def test_the_environment_wins_over_files(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[gc]\nslice_ms = 4\nmoving = false\n[set]\ndevices = ["/a"]')
    monkeypatch.setenv("BCACHED__GC__SLICE_MS", "5")
    monkeypatch.setenv("BCACHED__SET__DEVICES", '["/b", "/c"]')
    monkeypatch.setenv("BCACHED__SOCKET__MODE", "0600")
    loaded = load(str(file))
    assert (loaded.gc.slice_ms, loaded.gc.moving, loaded.set.devices) == (5, False, ("/b", "/c"))
    assert loaded.socket.mode == "0600"


def test_systemd_names_the_directories(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/bcached/one:/var/lib/other")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/bcached-one")
    loaded = load(str(file))
    assert (loaded.set.state_directory, loaded.set.runtime_directory) == (
        "/var/lib/bcached/one",
        "/run/bcached-one",
    )


def test_paths_are_resolved_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_text('[set]\ndevices = ["var/../demo.img"]')
    assert load(str(file)).set.devices == (str(tmp_path / "demo.img"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[gc]\nslice = 1",
            "gc.slice: unknown key, expected one of slice_ms, moving; did you mean slice_ms?",
        ),
        ("[gcc]\nslice_ms = 1", "gcc: unknown key, expected one of set, gc, journal"),
        ("gc = 1", "gc: expected an object, found 1"),
        ("[gc]\nslice_ms = 0", "gc.slice_ms: expected greater than or equal to 1, found 0"),
        ("[gc]\nslice_ms = 51", "gc.slice_ms: expected less than or equal to 50, found 51"),
        ('[gc]\nslice_ms = "5"', 'gc.slice_ms: expected a valid integer, found "5"'),
        ("[gc]\nslice_ms = true", "gc.slice_ms: expected a valid integer, found true"),
        ("[gc]\nmoving = 1", "gc.moving: expected a valid boolean, found 1"),
        ("[set]\ndevices = []", "set.devices: expected 1 to 8 devices, each named once, found []"),
        ('[set]\ndevices = "/a"', 'set.devices: expected a valid array, found "/a"'),
        ('[set]\ndevices = ["/a", "/a"]', "set.devices: expected 1 to 8 devices, each named once"),
        ('[set]\ndevices = ["/a\\n<0>forged"]', "set.devices.0: expected free of control characters"),
        ('[set]\ndevices = [""]', "set.devices.0: expected a path"),
        ("[journal]\ndelay_ms = 2020-01-01", "journal.delay_ms: expected a valid integer"),
        ("[limits]\nconnections = 0", "limits.connections: expected greater than or equal to 1, found 0"),
        (
            "[limits]\nrestart_grace_s = -1",
            "limits.restart_grace_s: expected greater than or equal to 0, found -1",
        ),
        ('[socket]\npath = ""', 'socket.path: expected a path of 1 to 107 bytes, found ""'),
        (f'[socket]\npath = "{"é" * 54}"', "socket.path: expected a path of 1 to 107 bytes, found"),
        ('[socket]\nmode = "660"', 'socket.mode: expected four octal digits like "0660", found "660"'),
        ('[socket]\nmode = "1777"', "socket.mode: expected four octal digits"),
        ('[socket]\ngroup = "a b"', 'socket.group: expected a group name or "", found "a b"'),
        ('[access]\nadmin = ["@"]', 'access.admin.0: expected a user name or "@group"'),
        ('[metrics]\nlisten = "9712"', 'metrics.listen: expected "host:port"'),
        ('[metrics]\nlisten = "localhost:70000"', 'metrics.listen: expected "host:port"'),
        ('[log]\nlevel = "loud"', "log.level: expected 'debug', 'info', 'warning', 'error' or 'critical'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(file: Path, text: str, told: str) -> None:
    message = refusal(file, text)
    assert message.startswith(f"{file}: {told}")
    assert "\n" not in message


def test_each_of_several_errors_has_its_line(file: Path) -> None:
    message = refusal(file, "[gc]\nslice_ms = 0\nslices = 1\n[log]\nlevel = 1")
    assert len(message.splitlines()) == 3
    assert all(line.startswith(f"{file}: ") for line in message.splitlines())


def test_an_error_in_a_drop_in_names_the_drop_in(file: Path) -> None:
    drop_in = file.parent / "conf.d" / "a.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("[gc]\nslice_ms = 0")
    with pytest.raises(ConfigError, match=re.escape(f"{drop_in}: gc.slice_ms")):
        load(str(file))


def test_what_is_not_toml_is_refused_with_its_line(file: Path) -> None:
    assert "is not TOML" in refusal(file, "[gc\n")
    assert "line 2" in refusal(file, "[gc]\nslice_ms = \n")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(str(file))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "BCACHED__GC__SLICE",
            "1",
            "expected a key of slice_ms, moving, found slice; did you mean slice_ms?",
        ),
        ("BCACHED__GC", "1", "expected a key of slice_ms, moving, found none"),
        ("BCACHED__GCC__SLICE_MS", "1", "expected a section of set, gc"),
        (
            "BCACHED__GC__SLICE_MS",
            "one",
            'expected a valid integer, unable to parse string as an integer, found "one"',
        ),
        ("BCACHED__GC__SLICE_MS", "99", "expected less than or equal to 50"),
        ("BCACHED__SET__DEVICES", "/a", 'expected a list like ["one", "two"], found /a'),
        ("BCACHED__SET__DEVICES", '"/a"', "expected a list"),
    ],
)
def test_a_wrong_variable_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=re.escape(f"{variable}: {told}")):
        load(str(file))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read: No such file"):
        load(str(tmp_path / "none.toml"))


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a regular file"):
        load(str(tmp_path))


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(ConfigError, match="expected a regular file"):
        load(str(tmp_path / "fifo.toml"))


def test_a_file_everybody_may_write_is_refused(file: Path) -> None:
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="expected to be writable by its owner only, found mode 0666"):
        load(str(file))


def test_a_file_its_group_may_write_is_refused_for_root_only(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.chmod(0o664)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(str(file)) == Settings()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="found mode 0664"):
        load(str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_a_huge_file_is_refused(file: Path) -> None:
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="expected at most 1048576 bytes"):
        load(str(file))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_junk_is_refused_in_words(file: Path, junk: bytes) -> None:
    file.write_bytes(junk)
    try:
        load(str(file))
    except ConfigError as error:
        assert str(error).startswith(str(file))  # noqa: PT017


@pytest.mark.parametrize(
    ("limits", "needed"),
    [("message_bytes = 1048576", 8388608), ("connections = 65536", 67108864)],
)
def test_buffers_that_cannot_be_enough_are_refused(file: Path, limits: str, needed: int) -> None:
    assert refusal(file, f"[limits]\n{limits}\nbuffer_bytes = {needed - 1}\n") == (
        f"{file}: limits.buffer_bytes: expected at least {needed} "
        f"(8 times message_bytes, and 1024 for each of connections), found {needed - 1}"
    )
    file.write_text(f"[limits]\n{limits}\nbuffer_bytes = {needed}\n")
    assert load(str(file)).limits.buffer_bytes == needed


def test_buffers_of_which_nothing_is_said_are_enough(file: Path) -> None:
    assert load(str(file)).limits.buffer_bytes == 64 << 20
    file.write_text("[limits]\nmessage_bytes = 16777216\n")
    assert load(str(file)).limits.buffer_bytes == 128 << 20


def test_limits_may_stand_in_several_files(file: Path) -> None:
    file.write_text("[limits]\nbuffer_bytes = 1048576\n")
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d" / "small.toml").write_text("[limits]\nmessage_bytes = 65536\n")
    assert load(str(file)).limits.buffer_bytes == 1 << 20
