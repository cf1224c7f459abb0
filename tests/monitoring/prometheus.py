# SPDX-License-Identifier: GPL-2.0-only
"""A daemon at work, a Prometheus that scrapes it, and what the dashboard asks that one."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcached.client import BlockingClient
from instruments.clients.daemon_process import DaemonProcess
from instruments.time.patience import tries

FILES = Path(__file__).parents[2] / "monitoring"
SCRAPE_S = 1
START_S = 60.0
ROUND_STORES = 320  # more than the set holds: data is evicted


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana loads it."""
    loaded: dict[str, Any] = json.loads((FILES / "grafana-dashboard.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """Its panels, without the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled_in(expression: str) -> str:
    """An expression with values for the dashboard's variables."""
    for variable, value in (("$job", "bcached"), ("$instance", ".+"), ("$__rate_interval", "1m")):
        expression = expression.replace(variable, value)
    return expression


class Prometheus:
    """A Prometheus in a folder of its own, that scrapes one target and evaluates the alerts."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        text = (FILES / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:9712", target).replace("interval: 15s", f"interval: {SCRAPE_S}s")
        (folder / "prometheus.yml").write_text(text)
        shutil.copy(FILES / "alerts.yml", folder)
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self.address}",
            "--log.level=error",
        ]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of a reply."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            reply = json.load(response)
        assert reply["status"] == "success"
        return reply["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an expression now."""
        return [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]

    def curves(self, expression: str, seconds: int) -> list[tuple[dict[str, str], list[float]]]:
        """The labels and values of each series of an expression in the last seconds."""
        now = time.time()
        span = {"start": str(now - seconds), "end": str(now), "step": "1"}
        found = self.get("query_range", query=expression, **span)["result"]
        return [(one["metric"], [float(value) for _, value in one["values"]]) for one in found]

    def wait_for_scrapes(self, count: int) -> None:
        """Until so many more scrapes have succeeded, and the alerts were evaluated as often."""
        before = self._scrapes()
        for _ in tries(START_S, pause_s=0.2):
            assert self.process.poll() is None, self._log.read_text()
            if self._scrapes() >= before + count:
                return
        raise AssertionError(self._log.read_text())

    def _scrapes(self) -> float:
        try:
            return sum(self.query("count_over_time(bcached_build_info[1h])"))
        except OSError:  # it does not listen yet
            return 0


def work(client: BlockingClient, inode: int, stores: range) -> None:
    """Do a little of everything that the figures count."""
    for number in stores:
        client.store(inode, number * 1024, bytes(512 * 1024))
        for _ in client.fetch(inode, number * 1024, 2048):
            pass
        client.invalidate(inode, number * 1024, 512)


@contextmanager
def watched_daemon(folder: Path, rounds: int) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a daemon during so many rounds of work."""
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        (serving,) = (line for line in daemon.logs if line["message"] == "serving")
        target = urllib.parse.urlsplit(serving["metrics"][0]).netloc
        watching = Prometheus(folder, target)
        try:
            watching.wait_for_scrapes(1)
            with BlockingClient(str(daemon.socket_path)) as client:
                inode = client.create_volume("photos")
                for number in range(rounds):
                    work(client, inode, range(number * ROUND_STORES, (number + 1) * ROUND_STORES))
                    daemon.ask("Allocator.Touch", buckets=[], hits=3, misses=1, bytes=4096)
                    daemon.ask("Admin.CollectGarbage", wait=True)
                    daemon.ask("Admin.WritePriorities")
            watching.wait_for_scrapes(3)
            yield watching
        finally:
            watching.process.send_signal(signal.SIGTERM)
            watching.process.wait(20)
        assert daemon.end() == 0
