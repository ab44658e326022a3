"""Dashboard, alerts and provisioning without Prometheus: structure, and that every metric they name is one of the gateway's."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from services.gateway.directory import Directory
from services.gateway.metrics import Metrics
from services.gateway.settings import Limits
from tests.monitoring.shipped import DASHBOARD, MONITORING, PANELS, RULES, metrics_in, panel_queries

SCHEMA = json.loads(Path(__file__).with_name("dashboard.schema.json").read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """The sample names of every metric that a gateway has, whether or not anything was counted yet."""
    names = {"up"}
    for metric in Metrics(Directory([], None, Limits()), ()).registry.collect():
        names |= {"counter": {metric.name + "_total"}, "gauge": {metric.name},
                  "histogram": {metric.name + end for end in ("_bucket", "_sum", "_count")}}[metric.type]
    return names


def test_the_dashboard_is_one() -> None:
    """Against a schema of our own: no package has Grafana's. (Grafana's published schemas for 11.6 were passed once, by hand.)"""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(DASHBOARD)
    idents = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(idents)) == len(idents)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


@pytest.mark.parametrize("change", [{"panels": []}, {"uid": "a b"}, {"panels": [{"type": "graph"}]}, {"nonsense": 1}])
def test_the_schema_refuses(change: dict[str, object]) -> None:
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid({**DASHBOARD, **change})


@pytest.mark.parametrize(("title", "expr"), panel_queries(), ids=[f"{title[:24]}-{n}" for n, (title, _) in enumerate(panel_queries())])
def test_panels_name_real_metrics(exposed: set[str], title: str, expr: str) -> None:
    named = metrics_in(expr)
    assert named, title
    assert named <= exposed, named - exposed


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_alerts_name_real_metrics_and_say_what_to_do(exposed: set[str], rule: dict[str, object]) -> None:
    named = metrics_in(str(rule["expr"]))
    assert named
    assert named <= exposed, named - exposed
    assert set(rule["annotations"]) == {"summary", "action"}  # type: ignore[call-overload]
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})


def test_variables_ask_for_real_labels(exposed: set[str]) -> None:
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    assert queries == ["label_values(rigserve_backend_ready, model)", "label_values(rigserve_backend_ready, card)"]
    assert all(metrics_in(query) <= exposed for query in queries)


def test_every_metric_is_shown_or_said_why_not(exposed: set[str]) -> None:
    shown = {name for _, expr in panel_queries() for name in metrics_in(expr)}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in exposed}
    left_out = {family for family in families if not any(name.startswith(family) for name in shown)}
    assert not left_out, sorted(left_out)


def test_the_files_fit_together() -> None:
    """Data source, provider and scrape target name each other, and the paths that compose mounts."""
    grafana = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"]
    chosen = DASHBOARD["templating"]["list"][0]["current"]
    assert (source["name"], source["uid"]) == (chosen["text"], chosen["value"])
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((grafana / "dashboards" / "rigserve.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["gateway:8000"]}]
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
