"""The schema. Every figure is a plain column, so that any SQL tool can read a rig's usage.

`usage.joules` is null where it is not known, and stays null once a part of the sum is not known. `usage.key_id` and `usage.card` are ""
where there is none: they are part of the primary key.
"""

from __future__ import annotations

from sqlalchemy import DDL, BigInteger, Column, Float, Index, LargeBinary, MetaData, String, Table, Text, event

SCHEMA = 1
metadata = MetaData()

state = Table(
    "rigserve_state", metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)  # fmt: skip

keys = Table(
    "rigserve_keys", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("models_json", Text),
    Column("limits_json", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("revoked_at", Float(53)),
)  # fmt: skip

usage = Table(
    "rigserve_usage", metadata,
    Column("day", String(10), primary_key=True),
    Column("key_id", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("card", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("unmetered_requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("joules", Float(53)),
)  # fmt: skip

# Batches that are in `usage`: one that is sent twice (its answer was lost, the gateway was killed) counts once.
usage_batches = Table(
    "rigserve_usage_batches", metadata,
    Column("id", String(32), primary_key=True),
    Column("written_at", Float(53), nullable=False),
)  # fmt: skip

audit = Table(
    "rigserve_audit", metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("actor", Text, nullable=False),
    Column("act", String(32), nullable=False),
    Column("key_id", String(32)),
    Column("detail_json", Text, nullable=False),
)  # fmt: skip
Index("rigserve_audit_at", audit.c.at)

# Append-only in the database itself, whoever writes to it.
for _verb in ("UPDATE", "DELETE"):
    event.listen(audit, "after_create", DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER IF NOT EXISTS rigserve_audit_no_{_verb.lower()} BEFORE {_verb} ON rigserve_audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    ).execute_if(dialect="sqlite"))  # fmt: skip
    event.listen(audit, "after_create", DDL(  # type: ignore[no-untyped-call]
        f"CREATE RULE rigserve_audit_no_{_verb.lower()} AS ON {_verb} TO rigserve_audit DO INSTEAD NOTHING"
    ).execute_if(dialect="postgresql"))  # fmt: skip
