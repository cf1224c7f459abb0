# SPDX-License-Identifier: GPL-2.0-only
"""Alert rules and dashboard, judged by promtool, and by a Prometheus that scrapes a daemon at work."""

import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from .prometheus import FILES, Prometheus, dashboard, filled_in, panels, watched_daemon
from .rendering import amount, rendered

ALERTS_PAGE = FILES.parent / "docs" / "alerts.md"
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


def test_what_the_page_copies_is_where_prometheus_and_grafana_look(tmp_path: Path) -> None:
    """The page's commands, typed below another root; to restart what is not here is left out."""
    page = (FILES.parent / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"(?ms)^```\n(sudo cp .*?)^```$", page)
    for folder in ("etc/prometheus", "etc/grafana/provisioning/dashboards", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    for line in block.splitlines():
        if line.startswith("sudo systemctl"):
            assert line.split()[2:] in (["reload", "prometheus"], ["restart", "grafana-server"])
        else:
            typed = re.sub(r" /(etc|var)/", rf" {tmp_path}/\1/", line.removeprefix("sudo "))
            subprocess.run(["sh", "-ec", typed], cwd=FILES.parent, check=True)
    provider = (tmp_path / "etc/grafana/provisioning/dashboards/bcached.yml").read_text()
    (folder,) = re.findall(r"(?m)^ +path: /(.*)$", provider)
    assert json.loads((tmp_path / folder / "grafana-dashboard.json").read_text()) == dashboard()
    shutil.copy(FILES / "prometheus.yml", tmp_path / "etc/prometheus")
    judged = promtool("check", "config", tmp_path / "etc/prometheus/prometheus.yml")
    assert judged.returncode == 0, judged.stderr
    assert "alerts.yml" in judged.stdout, "the rules that were copied are those of the configuration"


def test_no_panel_covers_another() -> None:
    covered: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not covered & cells, panel["title"]
        covered |= cells


# With a daemon and a Prometheus


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a daemon for some seconds, in which it worked."""
    tool("prometheus")
    with watched_daemon(tmp_path_factory.mktemp("prometheus"), rounds=1) as watching:
        yield watching


@pytest.mark.parametrize(
    "expression",
    [pytest.param(one["expr"], id=panel["title"]) for panel in panels() for one in panel["targets"]],
)
def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus, expression: str) -> None:
    values = prometheus.query(filled_in(expression))
    assert values
    # A quantile or a ratio of nothing is no number; what no client has asked for has none.
    assert not all(math.isnan(value) for value in values) or "allocation_wait_seconds" in expression


def test_the_dashboard_can_be_drawn(prometheus: Prometheus) -> None:
    picture = ET.fromstring(rendered(prometheus, 30))
    texts = ["".join(element.itertext()) for element in picture.iter() if element.tag.endswith("text")]
    assert [panel["title"] for panel in dashboard()["panels"] if panel["title"] not in texts] == []
    assert "no data" not in [text for text in texts if ":" not in text], "the large numbers"
    assert sum(element.tag.endswith("polyline") for element in picture.iter()) > len(panels())


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1536.0, "bytes", "1.5k"),
        (2048.0, "Bps", "2k/s"),
        (0.25, "percentunit", "25.0 %"),
        (0.0021, "s", "2.1 ms"),
    ],
)
def test_amounts_have_the_units_of_the_dashboard(value: float, unit: str, expected: str) -> None:
    assert amount(value, unit) == expected


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
