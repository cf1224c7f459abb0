# SPDX-License-Identifier: GPL-2.0-only
"""The daemon as a process: how it starts, serves, reloads, is watched, stops, and refuses."""

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from instruments.clients.daemon_process import BIN, DaemonProcess, ask, made_image
from instruments.time.patience import tries

ONE_LINE_S = 60.0
WRONG = "gc.slice: unknown key, expected one of slice_ms, moving; did you mean slice_ms?"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "bcached"), *arguments],
        capture_output=True,
        text=True,
        timeout=ONE_LINE_S,
        env=environment or None,
    )


def told_by(daemon: DaemonProcess) -> str:
    """The one line of a daemon that refused to go on."""
    assert "Traceback" not in daemon.log_text()
    (line,) = (line for line in daemon.logs if line["level"] == "critical")
    return str(line["message"])


# stderr


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes no more."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096))
    return read_end, write_end


def test_a_stderr_that_is_not_drained_holds_up_neither_requests_nor_the_end() -> None:
    read_end, write_end = full_pipe()
    with DaemonProcess(stderr=write_end) as daemon, open(read_end, "rb") as reader:
        os.close(write_end)
        daemon.wait_until_ready()
        assert "parameters" in daemon.ask("Allocator.Describe")
        for _ in range(5):
            daemon.send(signal.SIGHUP)
            daemon.wait_until_told("RELOADING", "1")
            daemon.wait_until_told("READY", "1")
        assert daemon.end(signal.SIGTERM) == 0
        assert reader.read() == bytes(4096)


def test_what_was_logged_meanwhile_comes_when_stderr_is_drained_again() -> None:
    read_end, write_end = full_pipe()
    with DaemonProcess(stderr=write_end) as daemon, open(read_end, "rb") as reader:
        os.close(write_end)
        daemon.wait_until_ready()
        assert reader.read(4096) == bytes(4096)
        assert daemon.end(signal.SIGTERM) == 0
        said = [json.loads(line)["message"] for line in reader]
        assert (said[0], said[-1]) == ("starting", "stopped")


@pytest.mark.parametrize("way", ["/dev/full", "closed pipe"])
def test_a_stderr_that_takes_nothing_costs_lines_and_nothing_else(way: str) -> None:
    if way == "closed pipe":
        read_end, descriptor = os.pipe()
        os.close(read_end)
    else:
        descriptor = os.open(way, os.O_WRONLY)
    folder = tempfile.mkdtemp(prefix="bcached-")
    metrics = f"{folder}/metrics"
    with DaemonProcess({"BCACHED__METRICS__LISTEN": f"unix:{metrics}"}, stderr=descriptor) as daemon:
        os.close(descriptor)
        daemon.wait_until_ready()
        with socket.socket(socket.AF_UNIX) as scraper:
            scraper.connect(metrics)
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with scraper.makefile() as answer:
                (line,) = (line for line in answer if line.startswith("bcached_log_dropped_total"))
        assert float(line.split()[-1]) > 0
        assert daemon.end(signal.SIGTERM) == 0
    os.rmdir(folder)


def test_the_configuration_in_effect_is_told_or_it_is_said_why_not() -> None:
    with open("/dev/full", "w") as full, DaemonProcess() as daemon:
        daemon.wait_until_ready()
        told = subprocess.run(
            [str(BIN / "bcached"), "--config", str(daemon.config), "--check-config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (told.returncode, told.stderr) == (1, "bcached: standard output: No space left on device\n")


# Serving


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_it_serves_until_told_to_stop_and_then_opens_the_same_set(loop: str) -> None:
    with DaemonProcess(environment={"BCACHED_LOOP": loop}) as daemon:
        daemon.wait_until_ready()
        first = daemon.ask("Allocator.Describe")["parameters"]
        assert first["set_uuid"] in daemon.scrape()
        began = time.monotonic()
        assert daemon.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 5
        daemon.wait_until_told("STOPPING", "1")
        assert not daemon.socket_path.exists()
        assert [line["level"] for line in daemon.logs if line["level"] not in ("info", "debug")] == []
        daemon.start()
        daemon.wait_until_ready()
        assert daemon.ask("Allocator.Describe")["parameters"]["set_uuid"] == first["set_uuid"]
        assert daemon.end(signal.SIGINT) == 0


def test_it_says_where_it_serves() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        (serving,) = (line for line in daemon.logs if line["message"] == "serving")
        assert serving["sockets"] == [str(daemon.socket_path)]
        assert serving["devices"] == [str(daemon.folder / "cache.img")]
        assert serving["metrics"][0].startswith("http://127.0.0.1:")


def test_a_metrics_port_in_use_is_noticed_before_the_image_is_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with DaemonProcess({"BCACHED__METRICS__LISTEN": where}) as daemon:
            assert daemon.end(None) == 1
            assert told_by(daemon) == f"metrics.listen: cannot listen on {where}: Address already in use"
            assert (daemon.folder / "cache.img").read_bytes() == made_image().read_bytes()
            assert not daemon.socket_path.exists()


@pytest.mark.parametrize("occupied", ["io.bcached", "metrics"])
def test_a_path_that_is_taken_is_noticed_before_the_image_is_touched(occupied: str) -> None:
    daemon = DaemonProcess()
    (daemon.folder / occupied).touch()
    text = daemon.config.read_text().replace("127.0.0.1:0", f"unix:{daemon.folder}/metrics")
    daemon.config.write_text(text)
    with daemon:
        assert daemon.end(None) == 1
        assert "expected a socket or no file, found another file type" in told_by(daemon)
        assert (daemon.folder / "cache.img").read_bytes() == made_image().read_bytes()
        others = {"io.bcached", "metrics"} - {occupied}
        assert not any((daemon.folder / other).exists() for other in others)
        assert (daemon.folder / occupied).exists()


@pytest.mark.parametrize("directory", ["state", "run"])
def test_a_directory_that_cannot_be_written_is_noticed_before_the_image_is_touched(directory: str) -> None:
    daemon = DaemonProcess()
    (daemon.folder / directory).touch()
    with daemon:
        assert daemon.end(None) == 1
        assert f"{daemon.folder / directory}: cannot be made" in told_by(daemon)
        assert (daemon.folder / "cache.img").read_bytes() == made_image().read_bytes()


def test_who_connects_while_the_set_is_opened_waits_and_is_served() -> None:
    with DaemonProcess() as daemon:
        assert any(daemon.socket_path.exists() for _ in tries(ONE_LINE_S, pause_s=0.001))
        with socket.socket(socket.AF_UNIX) as early:
            early.settimeout(20)
            assert any(  # bound, and about to listen
                early.connect_ex(str(daemon.socket_path)) == 0 for _ in tries(ONE_LINE_S, pause_s=0.001)
            )
            assert "set_uuid" in ask(early, "Allocator.Describe")["parameters"]
        assert daemon.wait_until_ready().end() == 0


def test_a_set_that_cannot_be_opened_leaves_no_socket_behind() -> None:
    with DaemonProcess() as first:
        first.wait_until_ready()
        second = DaemonProcess()
        os.link(first.folder / "cache.img", second.folder / "cache.img")
        with second:
            assert second.end(None) == 1
            assert "in use" in told_by(second)
            assert not second.socket_path.exists()
        assert first.end() == 0


def test_sockets_from_the_service_manager_are_served_and_kept() -> None:
    with socket.socket(socket.AF_UNIX) as varlink, socket.create_server(("127.0.0.1", 0)) as metrics:
        daemon = DaemonProcess(passed={"metrics": metrics, "varlink": varlink})
        path = daemon.folder / "passed"
        varlink.bind(str(path))
        varlink.listen()
        with daemon:
            with socket.socket(socket.AF_UNIX) as early:
                early.settimeout(20)
                early.connect(str(path))  # clients may queue before the daemon is ready
                assert "set_uuid" in ask(early, "Allocator.Describe")["parameters"]
            daemon.wait_until_ready()
            assert not daemon.socket_path.exists()
            assert "bcached_device_buckets" in daemon.scrape()
            assert daemon.end() == 0
            assert path.exists()


def test_a_passed_socket_of_another_name_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd, DaemonProcess(passed={"odd": odd}) as daemon:
        assert daemon.end(None) == 1
        assert told_by(daemon) == "LISTEN_FDNAMES: expected varlink and metrics, found odd"


# The watchdog


def test_the_watchdog_is_fed_while_all_is_well() -> None:
    with DaemonProcess(environment={"WATCHDOG_USEC": "400000"}) as daemon:
        daemon.wait_until_ready()
        began = time.monotonic()
        for _ in range(5):
            daemon.wait_until_told("WATCHDOG", "1", within_s=5)
        assert time.monotonic() - began > 0.5, "half the interval apart, not as fast as it can"
        assert daemon.end() == 0


def test_without_a_watchdog_nobody_is_fed() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with pytest.raises(AssertionError, match="never told WATCHDOG"):
            daemon.wait_until_told("WATCHDOG", within_s=0.5)


# Reloading


def test_reloading_takes_what_it_can_and_names_the_rest() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        text = daemon.config.read_text().replace("restart_grace_s = 0", "restart_grace_s = 7")
        text = text.replace("allocator = []", 'allocator = []\nreader = ["nobody"]')
        text = text.replace("[socket]", '[gc]\nslice_ms = 2\n[socket]\nmode = "0600"')
        daemon.config.write_text(text + 'level = "debug"\n')
        daemon.send(signal.SIGHUP)
        assert int(daemon.wait_until_told("RELOADING", "1")["MONOTONIC_USEC"]) > 0
        daemon.wait_until_ready()
        assert daemon.ask("Allocator.Describe")["parameters"]["role"] == "admin"
        assert daemon.end() == 0
        (taken,) = (line for line in daemon.logs if line["message"] == "configuration reloaded")
        assert taken["taken"] == ["gc.slice_ms", "limits.restart_grace_s", "access.reader", "log.level"]
        (left,) = (line for line in daemon.logs if line["message"] == "some changes need a restart")
        assert left["keys"] == ["socket.mode"]


def test_more_connections_come_with_the_files_they_take() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        assert daemon.process is not None
        pid, files = daemon.process.pid, resource.RLIMIT_NOFILE
        _, hard = resource.prlimit(pid, files)
        resource.prlimit(pid, files, (500, hard))
        grace = "restart_grace_s = 0"
        daemon.config.write_text(daemon.config.read_text().replace(grace, f"{grace}\nconnections = 600"))
        daemon.send(signal.SIGHUP)
        daemon.wait_until_told("RELOADING", "1")
        daemon.wait_until_ready()
        assert resource.prlimit(pid, files)[0] > 600
        assert daemon.end() == 0


def test_a_wrong_configuration_changes_nothing() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        daemon.config.write_text('[log]\nlevel = "debug"\n[gc]\nslice = 1\n')
        daemon.send(signal.SIGHUP)
        daemon.wait_until_told("RELOADING", "1")
        daemon.wait_until_ready()
        assert "set_uuid" in daemon.ask("Allocator.Describe")["parameters"]
        assert daemon.end() == 0
        (line,) = (line for line in daemon.logs if line["message"] == "configuration not reloaded")
        assert line["reasons"] == [f"{daemon.config}: {WRONG}"]
        assert {line["level"] for line in daemon.logs} == {"info", "warning"}


# Stopping


def test_being_told_to_stop_again_and_again_harms_nothing() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket_path))
            for offset in range(0, 80_000, 1000):
                ask(client, "Allocator.Allocate", inode=1, offset=offset, sectors=128)
        assert daemon.process is not None
        while daemon.process.poll() is None:  # up to its very last instruction
            daemon.send(signal.SIGTERM)
            time.sleep(0.0005)
        assert daemon.end(None) == 0
        daemon.start()
        daemon.wait_until_ready()
        assert daemon.ask("Admin.Verify")["parameters"] == {"violations": []}
        assert daemon.end() == 0


def test_connected_clients_do_not_hold_up_the_stop() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as busy:
            for client in (idle, busy):
                client.connect(str(daemon.socket_path))
            busy.sendall(b'{"method":"io.bcached.Allocator.Descr')  # half a request
            began = time.monotonic()
            assert daemon.end() == 0
            assert time.monotonic() - began < 5


def test_who_waits_for_a_bucket_is_told_that_it_stops() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with socket.socket(socket.AF_UNIX) as holder, socket.socket(socket.AF_UNIX) as waiting:
            for client in (holder, waiting):
                client.connect(str(daemon.socket_path))
            while "error" not in ask(holder, "Allocator.AllocateBucket", timeout_ms=300):
                pass
            request = b'{"method":"io.bcached.Allocator.AllocateBucket","parameters":{"timeout_ms":60000}}'
            waiting.settimeout(0.3)
            with suppress(TimeoutError):  # then it waits; a late prio write may have freed a bucket before
                while True:
                    waiting.sendall(request + b"\0")
                    assert b'"key"' in waiting.recv(1 << 16)
            waiting.settimeout(30)
            began = time.monotonic()
            assert daemon.end() == 0
            assert time.monotonic() - began < 5
            assert b"io.bcached.Allocator.ShuttingDown" in waiting.recv(1 << 16)


def test_it_can_be_stopped_while_it_waits_for_writers_of_a_former_life() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        lease = daemon.ask("Allocator.Describe")["parameters"]["lease_path"]
        daemon.end(signal.SIGKILL)
        daemon.config.write_text(daemon.config.read_text().replace("grace_s = 0", "grace_s = 60"))
        holder = subprocess.Popen(["flock", "--shared", lease, "sleep", "60"])
        try:
            time.sleep(0.2)
            daemon.start()
            waiting = daemon.wait_until_told("STATUS", "waiting up to 60 s for writers of a previous run")
            assert waiting
            assert any("EXTEND_TIMEOUT_USEC" in message for message in daemon.told)
            began = time.monotonic()
            assert daemon.end() == 0
            assert time.monotonic() - began < 5
        finally:
            holder.kill()
            holder.wait()


def test_after_a_kill_the_next_life_serves_a_sound_set() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket_path))
            for offset in range(0, 80_000, 1000):
                ask(client, "Allocator.Allocate", inode=1, offset=offset, sectors=128)
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        assert daemon.socket_path.exists(), "a dead socket is left behind"
        daemon.start()
        daemon.wait_until_ready()
        assert daemon.ask("Admin.Verify")["parameters"] == {"violations": []}
        assert daemon.end() == 0


def test_a_stop_that_takes_too_long_is_cut_off() -> None:
    program = """if True:
        import threading, time
        from bcached.service import daemon
        from bcached.service.logs.log import start
        start()
        daemon.STOP_LIMIT_S = 0.2
        timer = threading.Timer(daemon.STOP_LIMIT_S, daemon.leave_at_once)
        timer.start()
        time.sleep(30)
    """
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert time.monotonic() - began < 15
    assert "leaving the rest to recovery" in result.stderr


# Failing


def test_a_device_that_fails_ends_the_daemon_with_one_line() -> None:
    # Coverage could not write its file either.
    with DaemonProcess(environment={"COVERAGE_PROCESS_CONFIG": ""}) as daemon:
        daemon.wait_until_ready()
        assert daemon.process is not None
        # Every write behind the first 4 KiB fails from now on.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            reply = daemon.ask("Admin.WritePriorities")
        except ConnectionResetError:
            reply = {"error": "gone"}
        assert "error" in reply
        assert daemon.end(None) == 1
        assert str(daemon.folder / "cache.img") in told_by(daemon)


def test_a_second_daemon_on_the_same_image_is_refused_and_the_first_serves_on() -> None:
    with DaemonProcess() as first:
        first.wait_until_ready()
        second = DaemonProcess()
        (second.folder / "cache.img").symlink_to(first.folder / "cache.img")
        second.config.write_text(
            second.config.read_text().replace(f"{second.folder}/cache.img", f"{first.folder}/cache.img")
        )
        with second:
            assert second.end(None) == 1
            assert str(first.folder / "cache.img") in told_by(second)
        assert "set_uuid" in first.ask("Allocator.Describe")["parameters"]
        assert first.end() == 0


def test_a_second_daemon_on_the_same_socket_is_refused() -> None:
    with DaemonProcess() as first, DaemonProcess() as second:
        first.wait_until_ready()
        second.end(signal.SIGKILL)
        second.config.write_text(
            second.config.read_text().replace(str(second.socket_path), str(first.socket_path))
        )
        second.start()
        assert second.end(None) == 1
        assert told_by(second) == f"{first.socket_path}: cannot listen: another process is listening there"
        assert "set_uuid" in first.ask("Allocator.Describe")["parameters"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda image: image.unlink(), id="missing"),
        pytest.param(lambda image: image.write_bytes(b"\0" * (1 << 20)), id="empty"),
        pytest.param(lambda image: image.write_bytes(image.read_bytes()[: 32 << 20]), id="truncated"),
        pytest.param(lambda image: (image.unlink(), image.mkdir()), id="directory"),
    ],
)
def test_a_device_that_cannot_be_is_refused_in_one_line(spoil: object) -> None:
    daemon = DaemonProcess()
    with daemon:
        daemon.end(signal.SIGKILL)
        spoil(daemon.folder / "cache.img")  # type: ignore[operator]
        daemon.start()
        assert daemon.end(None) == 1
        assert str(daemon.folder / "cache.img") in told_by(daemon)
        status = daemon.wait_until_told("STATUS", told_by(daemon))
        assert status


def test_a_wrong_configuration_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    config = tmp_path / "bcached.toml"
    config.write_text("[gc]\nslice = 1\n[nonsense]\nx = 1\n")
    config.chmod(0o600)
    result = run("--config", str(config))
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert first == f"bcached: {config}: {WRONG}"
    assert second.startswith(f"bcached: {config}: nonsense: unknown key, expected one of set, gc, journal")


def test_a_wrong_configuration_ends_with_two_so_that_no_manager_tries_again() -> None:
    with DaemonProcess() as daemon:
        daemon.end(signal.SIGKILL)
        daemon.config.write_text("[gc]\nslice = 1\n")
        daemon.start()
        assert daemon.end(None) == 2
        daemon.wait_until_told(
            "STATUS",
            f"{daemon.config}: {WRONG}",
        )


def test_a_wrong_configuration_stands_in_the_journal_as_an_error(tmp_path: Path) -> None:
    config = tmp_path / "bcached.toml"
    config.write_text("[gc]\nslice = 1\n")
    with (tmp_path / "journal").open("w") as journal:
        found = os.fstat(journal.fileno())
        command = [str(BIN / "bcached"), "--config", str(config), "--check-config", "--quiet"]
        environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        checked = subprocess.run(command, stderr=journal, stdout=subprocess.PIPE, env=environment)
    assert (checked.returncode, checked.stdout) == (2, b"")
    assert (tmp_path / "journal").read_text().startswith(f"<3>bcached: {config}: gc.slice: unknown key")


# The command line


def test_the_configuration_can_be_checked_and_shown(tmp_path: Path) -> None:
    config = tmp_path / "bcached.toml"
    config.write_text("[gc]\nslice_ms = 7\n")
    config.chmod(0o600)
    result = run("--config", str(config), "--check-config")
    assert (result.returncode, result.stderr) == (0, "")
    assert "slice_ms = 7\n" in result.stdout
    assert "[journal]\ndelay_ms = 100\n" in result.stdout
    quiet = run("--config", str(config), "--check-config", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_wrong_usage_ends_with_two() -> None:
    assert run("--no-such-option").returncode == 2
    assert run("surplus").returncode == 2


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, "bcached 0.1.0\n")


def test_it_refuses_to_run_without_assertions() -> None:
    result = subprocess.run(
        [sys.executable, "-O", "-m", "bcached.service.daemon"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "leave out python -O" in result.stderr
