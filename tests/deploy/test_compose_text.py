"""The text of compose.yaml: the golden example, what every container is denied, and YAML that means what was meant."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.deploy.compose import compose_text
from services.deploy.files import Here, env_text
from services.deploy.yamltext import WIDTH, Noted, document, scalar
from tests.deploy.nine_cards import FOLDER, example

SERVICES: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf8"))["services"]


def test_the_golden_example_is_what_its_plan_gives() -> None:
    """Wrong here? Look at the difference, then write it anew: python -m tests.deploy.nine_cards"""
    for name, text in example()[1].items():
        assert (FOLDER / name).read_text(encoding="utf8") == text, name


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*m", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 1024
    assert re.search(r":\d|:v\d", service["image"]), "pinned"
    for forbidden in ("privileged", "pid", "ipc", "network_mode", "cap_add", "userns_mode"):
        assert forbidden not in service
    assert "docker.sock" not in str(service)
    assert not any("/" in port.split(":")[-1] and "host" in port for port in service.get("ports", []))


def test_only_loopback_is_published_and_only_by_the_gateway_outside_profiles() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"gateway", "prometheus", "grafana", "loadtest"}
    assert ports["gateway"] == ["${RIGSERVE_BIND:-127.0.0.1}:${RIGSERVE_PORT:-8000}:8000"]
    assert all(port.startswith("${RIGSERVE_MONITORING_BIND:-127.0.0.1}:") for name in ports if name != "gateway" for port in ports[name])


def test_profiles() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles["gateway"] is None
    assert profiles["prometheus"] == profiles["grafana"] == ["monitoring"]
    assert profiles["loadtest"] == profiles["loadtest-worker"] == ["loadtest"]
    assert {str(profiles[name]) for name in profiles if "rigserve.card" in SERVICES[name].get("labels", {})} == {"['gpu']"}


def test_no_secret_in_any_environment() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            secret = re.search(r"token|password|key", key, re.IGNORECASE)
            assert not secret or str(value).startswith("/run/secrets/")


def test_each_flag_stands_in_the_file_with_a_reason() -> None:
    stack, files = example()
    lines = files["compose.yaml"].splitlines()
    for worker in stack.of("worker"):
        assert worker.flags
        for flag in worker.flags:
            assert flag.why, flag.words
            head = f"  #    {' '.join(flag.words)}"
            places = [i for i, line in enumerate(lines) if line == head or line.startswith(head + " ")]
            assert places
            assert any(flag.why in lines[i] or flag.why in lines[i + 1] for i in places)


def test_the_internal_network_gives_the_host_no_way_in() -> None:
    networks = yaml.safe_load(example()[1]["compose.yaml"])["networks"]
    assert networks["workers"] == {"internal": True, "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"}}
    assert networks["edge"] == networks["egress"] == {}


def test_env_holds_what_was_asked_for() -> None:
    stack = example()[0]
    text = env_text(stack, Here(bind="0.0.0.0", port=9000, weights="/a b/c", profiles=("monitoring",), others=("X=1",)))
    lines = text.splitlines()
    for line in ("COMPOSE_PROFILES=gpu,monitoring", "RIGSERVE_BIND=0.0.0.0", "RIGSERVE_PORT=9000", "RIGSERVE_WEIGHTS='/a b/c'", "X=1"):
        assert line in lines
    assert "RENDER_GID" not in text


@given(st.text())
def test_a_scalar_is_read_back_as_the_same_text(text: str) -> None:
    if text.isprintable():
        assert yaml.safe_load(f"a: {scalar(text)}") == {"a": text}


MISREAD = ["yes", "No", "null", "~", "1e5", "0x1f", "12:30", "1.0", "a: b", "a #b", "*x", "&x", "- a", "", "on:", "10m", "--x"]


@pytest.mark.parametrize("text", MISREAD)
def test_words_that_yaml_would_misread(text: str) -> None:
    assert yaml.safe_load(f"a: {scalar(text)}") == {"a": text}
    assert yaml.safe_load(document({"a": [text, "b,c", "{d}", "[e]"]})) == {"a": [text, "b,c", "{d}", "[e]"]}


def test_no_word_of_a_plan_leaves_its_place() -> None:
    """A card's name with a line break stays in its comment; a dollar sign is not filled in by compose."""
    evil = "x\n  privileged: true\u2028  a: b\x85c: d"
    text = document({"a": Noted({"b": 1}, (evil, f"   --alias {evil}"))})
    assert yaml.safe_load(text) == {"a": {"b": 1}}
    stack = example()[0]
    worker = replace(stack.of("worker")[0], labels=(("rigserve.card", "${HOME}"),))
    told = yaml.safe_load(compose_text(replace(stack, services=(worker,))))
    assert told["services"][worker.name]["labels"] == {"rigserve.card": "$${HOME}"}


def test_comments_are_wrapped_and_stay_comments() -> None:
    text = document({"a": Noted({"b": 1}, ("word " * 60, "second: line"))})
    assert yaml.safe_load(text) == {"a": {"b": 1}}
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert text.count("#") == 4
