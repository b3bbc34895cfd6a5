"""The dashboard, the alerts and the configuration of Prometheus that come with the service."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from imageprocessor.queue.metrics.families import COUNTED, PREFIX, STATE, Counter
from tests.conftest import require_program
from tests.deploy.compose import ROOT

ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/imageprocessor.json"
NAME = re.compile(rf"{PREFIX}\w+")


def list_names() -> set[str]:
    """Return the names by which queries can find each metric."""
    names = {PREFIX + gauge.name for gauge in STATE}
    for metric in COUNTED:
        suffixes = ("_total",) if isinstance(metric, Counter) else ("_bucket", "_sum", "_count")
        names |= {f"{PREFIX}{metric.name}{suffix}" for suffix in suffixes}
    return names


def check(*command: str | Path) -> None:
    ran = subprocess.run(
        [require_program("promtool"), *command], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_fire_when_they_should() -> None:
    check("check", "rules", ALERTS)
    check("test", "rules", ALERTS.with_name("alerts.test.yml"))


def test_every_alert_is_tested() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    tested = re.findall(r'alertname="(\w+)"', ALERTS.with_name("alerts.test.yml").read_text())
    assert tested == alerts


def test_alerts_and_dashboard_use_metrics_and_labels_that_exist() -> None:
    labels = {"le", "job", "instance", "alertname", "severity"}
    for metric in (*COUNTED, *STATE):
        labels |= set(metric.labels)
    for path in (ALERTS, DASHBOARD):
        text = path.read_text(encoding="utf-8")
        used = set(NAME.findall(text))
        assert used - list_names() == set()
        grouped = {each for by in re.findall(r"by \(([^)]*)\)", text) for each in by.split(", ")}
        selected = set(re.findall(r'(\w+)(?:=~|!~|!=|=)\\?"', text))
        assert grouped | selected <= labels


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


def test_prometheus_accepts_the_configuration_in_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = tmp_path / "prometheus.yml"
    config.write_text(lines)
    check("check", "config", "--syntax-only", config)
