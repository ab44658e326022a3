"""The monitoring files as they are shipped, and what their queries name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "docker" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "rigserve.json").read_text(encoding="utf8"))
ALERTS = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
_NOT_METRICS = re.compile(r"\{[^}]*\}|\bby \([^)]*\)|\[[^\]]*\]|\"[^\"]*\"")
_NAME = re.compile(r"\b(?:rigserve|gen_ai|DCGM_FI)_\w+|\bup\b")


def metrics_in(expr: str) -> set[str]:
    """The metric names of a query; labels, selectors and windows are left out."""
    return set(_NAME.findall(_NOT_METRICS.sub(" ", expr)))


def filled_in(expr: str) -> str:
    """A panel's query as Grafana sends it with `All` chosen."""
    return expr.replace("$__rate_interval", "1m").replace("$model", ".*").replace("$card", ".*")


def panel_queries() -> list[tuple[str, str]]:
    """(title, query) of every target of every panel."""
    return [(panel["title"], filled_in(target["expr"])) for panel in PANELS for target in panel["targets"]]
