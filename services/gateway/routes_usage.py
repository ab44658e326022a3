"""`GET /v1/usage`: what was used, by day, key, model and card; a key sees its own, an admin key all."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from services.gateway.core import Gateway
from services.gateway.door import Caller
from services.gateway.json_response import json_response
from services.keys.key import Role
from services.keys.usage import SUMS, Sums, UsageId, total
from services.keys.usage_store import Asked
from services.wire.errors import InvalidValue, KeysUnavailable
from services.wire.shapes import listing

DAY = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", re.ASCII)
KEY_ID = re.compile(r"[a-z0-9_]{0,32}", re.ASCII)
COLUMNS = ("day", "key_id", "key_name", "model", "card", *SUMS, "joules")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def usage_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/usage")
    async def usage(request: Request) -> Response:
        rows = await read_usage(gateway, asked_of(request.query_params, request.state.caller))
        if request.query_params.get("format", "json") == "csv":
            headers = {"content-disposition": 'attachment; filename="usage.csv"', "cache-control": "no-store"}
            return Response(csv_text(rows), media_type="text/csv; charset=utf-8", headers=headers)
        return json_response(listing(rows) | {"totals": total(Sums(**{n: row[n] for n in (*SUMS, "joules")}) for row in rows).to_json()})

    return router


def asked_of(query: Any, caller: Caller) -> Asked:
    """Raises InvalidValue. 1. Days, format and key in order. 2. A user key, or nobody: its own. 3. An admin key: all, or those of `key`."""
    for name in ("from", "to"):  # 1
        if query.get(name) is not None and not DAY.fullmatch(query[name]):
            raise InvalidValue(f"{name} must be a day of UTC, like 2026-11-22.", param=name)
    if query.get("format", "json") not in ("json", "csv"):
        raise InvalidValue("format must be json or csv.", param="format")
    first, last, key_id = query.get("from"), query.get("to"), query.get("key")
    if key_id is not None and not KEY_ID.fullmatch(key_id):
        raise InvalidValue("key must be the id of a key, like key_0123456789abcdef.", param="key")
    if caller.role is not Role.ADMIN:  # 2
        return Asked(first, last, caller.id or "")
    return Asked(first, last, key_id)  # 3


async def read_usage(gateway: Gateway, asked: Asked) -> list[dict[str, Any]]:
    """Rows as plain values, what is not written yet included. Raises KeysUnavailable when the database can't be read."""
    ledger = gateway.ledger
    if ledger.usage_store is None:
        found = [(ident, sums) for ident, sums in ledger.usage.rows() if _is_asked(ident, asked)]
        return [_row(ident, sums, {}) for ident, sums in found]
    store = ledger.usage_store
    if not await ledger.usage.flush():
        raise KeysUnavailable("Usage is counted, but its database can't be used now; try again later.", retry_after_s=15.0)
    rows, names = await ledger.act(lambda keys: (store.read(asked), {key.id: key.name for key in keys.load()[1]}))
    return [_row(ident, sums, names) for ident, sums in rows]


def _is_asked(ident: UsageId, asked: Asked) -> bool:
    return (asked.first_day or "") <= ident.day <= (asked.last_day or "9") and asked.key_id in (None, ident.key_id)


def _row(ident: UsageId, sums: Sums, names: dict[str, str]) -> dict[str, Any]:
    """None, not "", where there is no key or card."""
    found = {"day": ident.day, "key_id": ident.key_id or None, "key_name": names.get(ident.key_id), "model": ident.model,
             "card": ident.card or None, **sums.to_json()}  # fmt: skip
    return found | {"seconds": round(sums.seconds, 3)}


def csv_text(rows: list[dict[str, Any]]) -> str:
    """RFC 4180. Unknown is an empty cell; a text that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value
