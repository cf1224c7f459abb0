# SPDX-License-Identifier: GPL-2.0-only
"""Alert rules and dashboard, judged by promtool, and by a Prometheus that scrapes a daemon at work."""

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcached.client import BlockingClient
from instruments.clients.daemon_process import DaemonProcess
from instruments.time.patience import tries

FILES = Path(__file__).parents[2] / "monitoring"
ALERTS_PAGE = FILES.parent / "docs" / "alerts.md"
SCRAPE_S = 1
START_S = 60.0
RULE = re.compile(r"(?m)^      - alert: (\w+)$")
SELECTOR = re.compile(r"\b((?:bcached|process)_\w+|up)(\{[^}]*\})?")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True)


# The files by themselves


def test_promtool_finds_nothing_wrong_in_rules_and_configuration() -> None:
    for kind, file in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        judged = promtool("check", kind, FILES / file)
        assert judged.returncode == 0, judged.stderr


def test_every_alert_fires_on_what_it_is_for() -> None:
    judged = promtool("test", "rules", FILES / "alerts_test.yml")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    tried = re.findall(r"alertname: (\w+)", (FILES / "alerts_test.yml").read_text())
    assert set(tried) == set(RULE.findall((FILES / "alerts.yml").read_text()))


def test_a_rule_that_no_longer_fires_would_be_noticed(tmp_path: Path) -> None:
    text = (FILES / "alerts.yml").read_text()
    assert "bcached_vanished_nodes > 0" in text
    (tmp_path / "alerts.yml").write_text(
        text.replace("bcached_vanished_nodes > 0", "bcached_vanished_nodes > 9")
    )
    shutil.copy(FILES / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", tmp_path / "alerts_test.yml").returncode != 0


def test_the_page_has_a_section_for_each_alert() -> None:
    rules = (FILES / "alerts.yml").read_text()
    names = RULE.findall(rules)
    assert re.findall(r"(?m)^## (\w+)$", ALERTS_PAGE.read_text()) == names
    assert re.findall(r'runbook: "docs/alerts.md#(\w+)"', rules) == [name.lower() for name in names]
    severities = re.findall(r"{severity: (\w+)}", rules)
    said = re.findall(r"(?m)^## \w+\n\n(Page|Ticket)\.", ALERTS_PAGE.read_text())
    assert [word.lower() for word in said] == severities


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FILES / "grafana-dashboard.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_the_dashboard_can_be_provisioned() -> None:
    board = dashboard()
    assert (board["id"], board["uid"]) == (None, "bcached"), "Grafana gives the id, links use the uid"
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        used = set(re.findall(r"\$(\w+)", json.dumps(panel["targets"]))) - {"__rate_interval"}
        assert used <= variables


def test_no_panel_covers_another() -> None:
    covered: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not covered & cells, panel["title"]
        covered |= cells


# With a daemon and a Prometheus


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
            tool("prometheus"),
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


def work(client: BlockingClient, inode: int, rounds: range) -> None:
    """A little of everything that the figures count."""
    for number in rounds:
        client.store(inode, number * 1024, bytes(512 * 1024))
        for _ in client.fetch(inode, number * 1024, 2048):
            pass
        client.invalidate(inode, number * 1024, 512)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a daemon for some seconds, in which it worked."""
    tool("prometheus")
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        (serving,) = (line for line in daemon.logs if line["message"] == "serving")
        target = urllib.parse.urlsplit(serving["metrics"][0]).netloc
        watching = Prometheus(tmp_path_factory.mktemp("prometheus"), target)
        try:
            watching.wait_for_scrapes(1)
            with BlockingClient(str(daemon.socket_path)) as client:
                inode = client.create_volume("photos")
                work(client, inode, range(320))  # more than the set holds: data is evicted
                daemon.ask("Allocator.Touch", buckets=[], hits=3, misses=1, bytes=4096)
                daemon.ask("Admin.CollectGarbage", wait=True)
                daemon.ask("Admin.WritePriorities")
            watching.wait_for_scrapes(3)
            yield watching
        finally:
            watching.process.send_signal(signal.SIGTERM)
            watching.process.wait(20)
        assert daemon.end() == 0


def filled_in(expression: str) -> str:
    for variable, value in (("$job", "bcached"), ("$instance", ".+"), ("$__rate_interval", "1m")):
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize(
    "expression",
    [pytest.param(one["expr"], id=panel["title"]) for panel in panels() for one in panel["targets"]],
)
def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus, expression: str) -> None:
    values = prometheus.query(filled_in(expression))
    assert values
    # A quantile or a ratio of nothing is no number; what no client has asked for has none.
    assert not all(math.isnan(value) for value in values) or "allocation_wait_seconds" in expression


def test_the_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    queries = [one["definition"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match
        found = prometheus.get("series", **{"match[]": filled_in(match[1])})
        assert {one[match[2]] for one in found} != set()


def test_every_series_that_an_alert_reads_exists(prometheus: Prometheus) -> None:
    rules = prometheus.get("rules")["groups"][0]["rules"]
    assert [rule["name"] for rule in rules] == RULE.findall((FILES / "alerts.yml").read_text())
    for rule in rules:
        selectors = SELECTOR.findall(rule["query"])
        assert selectors, rule["name"]
        for name, labels in selectors:
            assert prometheus.query(f"{name}{labels}"), f"{rule['name']}: {name}{labels}"


@pytest.mark.parametrize("page", ["alerts.md", "monitoring.md"])
def test_every_metric_that_a_page_names_exists(prometheus: Prometheus, page: str) -> None:
    known = set(prometheus.get("label/__name__/values"))
    known |= {name.removesuffix("_bucket") for name in known if name.endswith("_bucket")}
    named = set(re.findall(r"\bbcached_\w+", (ALERTS_PAGE.parent / page).read_text()))
    assert named
    assert named - known == set()


def test_no_alert_is_pending_for_a_daemon_that_works(prometheus: Prometheus) -> None:
    assert [rule["name"] for rule in prometheus.get("rules")["groups"][0]["rules"] if rule["alerts"]] == []
    assert {rule["health"] for rule in prometheus.get("rules")["groups"][0]["rules"]} == {"ok"}


def test_a_metric_that_does_not_exist_would_be_noticed(prometheus: Prometheus) -> None:
    assert prometheus.query('bcached_no_such_metric{job="bcached"}') == []
    assert prometheus.query('bcached_freelist_buckets{reserve="nonesuch"}') == []
