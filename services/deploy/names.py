"""Names of services: a placement's id as a name that every engine and DNS takes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.deploy.stack import StackError

MOST = 50  # a DNS label holds 63; container names add the project and a number
TAKEN = frozenset({"gateway", "prometheus", "grafana", "loadtest", "loadtest-worker", "hub-token"})
_OTHER = re.compile(r"[^a-z0-9]+")


def service_names(placement_ids: Iterable[str]) -> dict[str, str]:
    """Placement id -> service name: small letters, digits and dashes, no two the same, none that another service has.

    `llama-3.1-8b-instruct-1` -> `llama-3-1-8b-instruct-1`. Raises StackError for an id without any letter or digit.
    """
    found: dict[str, str] = {}
    used = set(TAKEN)
    for ident in placement_ids:
        plain = _OTHER.sub("-", ident.lower()).strip("-")
        if not plain:
            raise StackError(f"the placement id {ident!r} has no letter or digit to name a service with; name it anew in the plan")
        if plain.startswith("fetch-"):
            plain = f"placement-{plain}"
        if len(plain) > MOST:  # both ends say who it is: the model, and which copy
            plain = f"{plain[: MOST - 13].rstrip('-')}-{plain[-12:].lstrip('-')}"
        name, count = plain, 2
        while name in used:
            name, count = f"{plain}-{count}", count + 1
        used.add(name)
        found[ident] = name
    return found
