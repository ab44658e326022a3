"""`rigserve calibrate` and `rigserve status --accuracy`, from files and from a stand-in of a gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.calibration.store import Store
from services.cli.accuracy import drift
from services.cli.main import main
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.types import Host, TextWorkload
from tests.calibration.test_store import ONE

GIB = 2**30


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIGSERVE_CALIBRATION", str(tmp_path / "c.db"))
    return tmp_path / "c.db"


def run(*argv: str) -> Result:
    return CliRunner().invoke(main, argv)


@pytest.fixture
def gateway(database: Path) -> Iterator[str]:
    status = {"measured": asdict(ONE), "notes": ["a smaller workload"]}
    first = {"id": "q-1", "status": status}
    cards = {"data": [{"id": "GPU-1", "name": "RTX", "state": "throttled", "state_reason": "hot", "placements": [first]},
                      {"id": "GPU-2", "name": "RTX", "placements": [{"id": "q-2", "status": None}]}]}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(cards if self.path == "/v1/cards" else {}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_export_import_and_list(database: Path, tmp_path: Path) -> None:
    assert "holds nothing yet" in run("calibrate").output
    Store(database).add(ONE)
    assert run("calibrate", "--export", str(tmp_path / "rig1.json")).exit_code == 0
    other = str(tmp_path / "other.db")
    taken = run("calibrate", "--import", str(tmp_path / "rig1.json"), "--database", other)
    assert "rig1.json taken in; the next plan counts them" in taken.output
    lines = run("calibrate", "--list", "--database", other).output.splitlines()
    assert lines[1].startswith("RTX 3060 Ti 8GB   qwen q4")
    assert "4.88 GiB" in lines[1]
    assert "+2 %" in lines[1]
    assert lines[1].endswith("rig1.json")
    again = run("calibrate", "--export", str(tmp_path / "again.json"), "--database", other)
    assert "0 observation(s)" in again.output, "what another rig measured is not handed on"


def test_bad_input_is_a_sentence(database: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    bad = run("calibrate", "--import", str(tmp_path / "bad.json"))
    assert bad.exit_code == 2
    assert "is no calibration" in bad.output
    assert run("calibrate", "--list", "--collect").exit_code == 2
    database.write_text("garbage" * 1000)
    broken = run("calibrate")
    assert broken.exit_code == 1
    assert "can't be used as calibration" in broken.output


def test_what_runs_now(gateway: str, database: Path) -> None:
    shown = run("status", "--accuracy", "--url", gateway)
    assert shown.exit_code == 0
    assert "60.2 tok/s" in shown.output
    assert "+2 %" in shown.output
    assert "1 new observation(s) of 1" in run("calibrate", "--collect", "--url", gateway).output
    assert "0 new observation(s) of 1" in run("calibrate", "--collect", "--url", gateway).output
    assert [one.runs for one in Store(database).all()] == [1]
    plain = run("status", "--url", gateway).output
    assert "RTX (GPU-1): throttled: hot" in plain
    assert "q-1: a smaller workload" in plain


def test_a_fit_counts_what_was_measured(database: Path) -> None:
    model = load_catalogue().get("llama-3.1-8b-instruct")
    report = fit(parse_cards("RTX 3060 Ti")[0], model, Host(None, None, None, None), workload=TextWorkload(2048, 1))
    assert report.choice
    assert report.bill
    peak = report.bill.total_bytes - report.bill.reserve_bytes + GIB // 4
    Store(database).add(replace(ONE, model_id=model.id, variant_id=report.variant_id or "", choice=replace(report.choice, reasons=()),
                                workload=TextWorkload(2048, 1), peak_bytes=peak))
    asked = ("fit", model.id, "--card", "RTX 3060 Ti", "--context", "2048", "--quant", report.variant_id or "", "--host-ram", "32GiB")
    said = run(*asked).output
    assert "measured more    256 MiB" in said
    assert "so 0.25 GiB is added" in said


def test_drift() -> None:
    assert (drift(4.0, 4.2), drift(10.0, 4.0), drift(None, 4.0), drift(4.0, None)) == ("+5 %", "-60 %", "-", "-")
