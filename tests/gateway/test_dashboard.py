"""What the dashboard asks of the gateway beside the routes that everybody uses, and the headers of its files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.gateway.outcome import Outcome
from services.gateway.refusals import KEPT, KEPT_CARDS, KEPT_HINTS, RefusalBook
from services.gateway.ring import Ring
from services.gateway.throughput_history import BUCKET_S, BUCKETS
from services.wire.errors import ApiError, ModelDoesNotFit, ModelNotFound, QueueFull
from tests.gateway.keyed import Keyed, bearer, start_keyed
from tests.gateway.rig import CHAT, Rig, chat, until


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    keyed = start_keyed(tmp_path_factory.mktemp("keyed"))
    yield keyed
    keyed.stop()


def outcome(model: str | None = None) -> Outcome:
    return Outcome("r", "e", CHAT, 0.0, model)


def report(card: str, headroom_bytes: int | None) -> dict[str, object]:
    hints = [{"text": f"hint {i}"} for i in range(9)]
    return {"model_id": "big", "card_id": card, "headroom_bytes": headroom_bytes, "hints": hints, "host": 1}


def test_the_same_refusal_fills_one_line() -> None:
    book = RefusalBook()
    book.add(outcome("m"), QueueFull("first"), "t1")
    book.add(outcome(), ModelNotFound("other"), "t2")
    book.add(outcome("m"), QueueFull("last"), "t3")
    rows = book.rows(None, False)
    assert [(row["code"], row["count"], row["message"], row["first_at"], row["at"]) for row in rows] == [
        ("queue_full", 2, "last", "t1", "t3"), ("model_not_found", 1, "other", "t2", "t2"),
    ]


def test_the_arithmetic_is_kept_of_the_nearest_cards_and_bounded() -> None:
    book = RefusalBook()
    reports = [report(f"card-{i}", -i if i else None) for i in range(40)]
    book.add(outcome(), ModelDoesNotFit("no", extra={"fit": reports}), "t")
    row = book.rows(None, True)[0]
    assert (row["model"], row["cards_asked"], len(row["fit"])) == ("big", 40, KEPT_CARDS)
    assert [one["card_id"] for one in row["fit"][:2]] == ["card-1", "card-2"], "what is not known comes last"
    assert row["fit"][0]["hints"] == [f"hint {i}" for i in range(KEPT_HINTS)]
    assert "host" not in row["fit"][0]


def test_no_flood_of_refusals_fills_the_memory() -> None:
    book = RefusalBook()
    for number in range(3 * KEPT):
        book.add(outcome(f"m{number}"), ApiError("x"), "t")
    assert [row["model"] for row in book.rows(None, True)] == [f"m{number}" for number in reversed(range(2 * KEPT, 3 * KEPT))]


def test_buckets_end_where_the_current_one_begins() -> None:
    ring = Ring()
    for now in (5.0, 9.9, 10.0, 14.0, 15.0):
        ring.slots[ring.row(now)] += 1
    assert ring.buckets(5, 2, 17.3) == [2, 2]
    assert ring.buckets(5, 5, 17.3) == [0, 0, 0, 2, 2], "before the clock began there is nothing"
    assert ring.buckets(5, 2, 17.3 + 3600) == [0, 0], "an hour later these seconds are others"


@pytest.mark.slow
def test_refusals_are_told_to_who_got_them(keyed: Keyed) -> None:
    admin = keyed.secrets[0]
    one, other = keyed.make("one")[1], keyed.make("other")[1]
    assert keyed.ask(one, "nonsense").status_code == 404
    assert keyed.ask(one, max_tokens=10**6).status_code == 400, "this one goes by the hot path"
    codes = {row["code"] for row in keyed.get("/v1/refusals", one).json()["data"]}
    assert {"model_not_found"} < codes
    assert keyed.get("/v1/refusals", other).json()["data"] == []
    seen = keyed.get("/v1/refusals", admin).json()["data"]
    assert codes <= {row["code"] for row in seen}
    assert "nonsense" in next(row["message"] for row in seen if row["code"] == "model_not_found")


@pytest.mark.slow
def test_who_asks(keyed: Keyed) -> None:
    ident, secret = keyed.make("alice", models=["solo"])
    me = {"object": "caller", "keyed": True, "key_id": ident, "name": "alice", "role": "user", "models": ["solo"]}
    assert keyed.get("/v1/me", secret).json() == me
    assert keyed.get("/v1/me", keyed.secrets[0]).json()["role"] == "admin"
    assert keyed.get("/v1/me", None).status_code == 401
    assert keyed.gateway.http.get("/dashboard", headers=bearer("rs-wrong")).status_code == 200, "the page itself tells nothing"


def test_nobody_is_somebody_where_there_are_no_keys(rig: Rig) -> None:
    me = rig.gateway.http.get("/v1/me").json()
    assert me == {"object": "caller", "keyed": False, "key_id": None, "name": None, "role": "user", "models": None}


def test_a_refusal_with_its_bill(rig: Rig) -> None:
    said = rig.gateway.post(CHAT, chat("qwen2.5-32b-instruct"))
    assert said.status_code == 422
    row = rig.gateway.http.get("/v1/refusals").json()["data"][0]
    assert (row["model"], row["status"], row["code"]) == ("qwen2.5-32b-instruct", 422, "model_does_not_fit")
    asked = {one["card_id"]: one for one in said.json()["fit"]}
    for kept in row["fit"]:
        for name in ("bill", "need_bytes", "have_bytes", "verdict", "reason", "variant_id"):
            assert kept[name] == asked[kept["card_id"]][name]


@pytest.mark.slow
def test_the_last_minutes_of_each_card(rig: Rig) -> None:
    assert rig.gateway.post(CHAT, chat("smollm2-135m-instruct", max_tokens=100)).status_code == 200

    def counted() -> float:
        history = rig.gateway.http.get("/v1/throughput/history").json()
        line = history["cards"][0]["output_tokens_per_s"]
        assert len(line) == BUCKETS
        assert history["bucket_s"] == BUCKET_S
        assert history["cards"][1]["output_tokens_per_s"] == [None] * BUCKETS, "a card without an engine has no figure"
        return sum(value for value in line if value is not None) * BUCKET_S

    until(lambda: counted() > 99.9, "the tokens in whole buckets: of two, where they came around the end of one", 2 * BUCKET_S + 3)


def test_the_catalogue_names_what_a_fit_may_ask(rig: Rig) -> None:
    catalogue = rig.gateway.http.get("/v1/catalogue").json()
    model = next(one for one in catalogue["models"] if one["id"] == "qwen2.5-1.5b-instruct")
    card = next(one for one in catalogue["cards"] if "3060" in one["key"])
    question = {"model": model["id"], "variant": model["variants"][0]["id"], "cards": card["key"]}
    question |= {"context_tokens": model["max_context_tokens"]}
    assert rig.gateway.post("/v1/fit", question).status_code == 200


def test_the_files_and_their_policy(rig: Rig) -> None:
    for path, kind in (("", "text/html"), ("/app.js", "text/javascript"), ("/app.css", "text/css"), ("/icon.svg", "image/svg+xml")):
        answer = rig.gateway.http.get("/dashboard" + path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        directives = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
        assert directives["default-src"] == "'none'"
        assert (directives["script-src"], directives["style-src"], directives["connect-src"]) == ("'self'",) * 3
        assert (directives["frame-ancestors"], directives["base-uri"], directives["form-action"]) == ("'none'",) * 3
        assert directives["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "set-cookie" not in answer.headers
        again = rig.gateway.http.get("/dashboard" + path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["build.json", "..%2frefusals.py", "index.html%00", "nothing", "%2e%2e%2f%2e%2e%2fREADME.md"])
def test_no_other_file_is_reached(rig: Rig, name: str) -> None:
    answer = rig.gateway.http.get(f"/dashboard/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")
