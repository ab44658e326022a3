"""plan.yaml <-> Plan, and the plain JSON form of every value of types.py.

The file is read strictly: an unknown key, a wrong type, a missing value or a placement that contradicts the rest is a
PlanFileError that names the place. YAML aliases and double keys are refused: a plan must say what it looks like.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from services.sizing.types import FitReport, MemoryBill, Placement, Plan
from services.sizing.units import gib

MAX_FILE_BYTES = 8 * 1024**2
_PLAN = TypeAdapter(Plan)
# What to_json adds to the fields; a file may repeat it, but not contradict it.
_COMPUTED = ("fits", "total_bytes", "variant", "engine", "dtype")
_HEADER = "# rigserve plan: the only thing that `rigserve serve` obeys. Sizes are bytes. Made by `rigserve plan`.\n"


class PlanFileError(Exception):
    """The plan can't be used. `path` is the file, `place` where in it ("placements[0].workload"), `sentence` what is wrong."""

    def __init__(self, path: str, place: str, sentence: str) -> None:
        super().__init__(f"{path}: {place}: {sentence}" if place else f"{path}: {sentence}")
        self.path = path
        self.place = place
        self.sentence = sentence


def to_json(value: Any) -> Any:
    """The plain JSON form (dicts, lists, str, numbers, None) of any value of types.py; every field is present, unknown is null.

    A FitReport also says "fits", "variant", "engine" and "dtype" at its top level, a MemoryBill "total_bytes": readers need not know
    the rules.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, FitReport):
            plain["fits"] = value.fits
            plain["variant"] = value.variant_id
            plain["engine"] = value.choice.engine.value if value.choice else None
            plain["dtype"] = value.choice.dtype if value.choice else None
        if isinstance(value, MemoryBill):
            plain["total_bytes"] = value.total_bytes
        return plain
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def dump_plan(plan: Plan) -> str:
    """The YAML text of a plan. Values that equal their default are left out; load_plan gives the same plan back."""
    text: str = yaml.safe_dump(_without_defaults(plan), sort_keys=False, allow_unicode=True, width=140)
    return _HEADER + text


def load_plan(path: Path) -> Plan:
    """Read and check a plan file. Raises PlanFileError, whatever is wrong with the file."""
    name = str(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PlanFileError(name, "", f"is larger than {gib(MAX_FILE_BYTES)}; that is no plan.")
        text = path.read_text(encoding="utf8")
    except OSError as error:
        raise PlanFileError(name, "", f"can't be read ({error.strerror}); `rigserve plan --out {name}` writes one.") from error
    except UnicodeDecodeError as error:
        raise PlanFileError(name, "", "is not UTF-8 text.") from error
    return parse_plan(text, name)


def parse_plan(text: str, name: str = "plan.yaml") -> Plan:
    """The plan that the YAML `text` holds; `name` is used in errors. Raises PlanFileError."""
    raw = _parse_yaml(text, name)
    if not isinstance(raw, dict):
        raise PlanFileError(name, "", "holds no plan; a plan starts with `version: 1`.")
    try:
        encoded = json.dumps(raw, allow_nan=False)
        plan = _PLAN.validate_json(encoded, strict=True)
    except (TypeError, ValueError, RecursionError) as error:
        place, sentence = _first_fault(error, raw)
        raise PlanFileError(name, place, sentence) from error
    _refuse_unknown(raw, to_json(plan), name, "")
    _check(plan, name)
    return plan


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases (they can grow without bound) and without silent double keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used in a plan", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        for key, count in Counter(keys).items():
            if count > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} is there {count} times", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PlanFileError(name, line, f"is not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanFileError(name, "", f"is not valid YAML: {str(error).splitlines()[0][:200]}.") from error


def _without_defaults(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            # `kind` tells a text workload from an image one, so it is always written.
            if field.default is dataclasses.MISSING or item != field.default or field.name == "kind":
                plain[field.name] = _without_defaults(item)
        return plain
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    return to_json(value)


def _first_fault(error: Exception, raw: Any) -> tuple[str, str]:
    """Place and sentence of the first fault. Of a union's faults only those of the member that `kind` names are said."""
    if not isinstance(error, ValidationError):
        return "", f"holds a value that a plan can't have ({str(error)[:200]})."
    faults = error.errors(include_url=False, include_context=False)
    told = [fault for fault in faults if not _other_kind(fault["loc"], raw)] or faults
    return _place(told[0]["loc"]), f"{told[0]['msg']}."


def _other_kind(loc: tuple[int | str, ...], raw: Any) -> bool:
    for part in loc:
        if part in ("TextWorkload", "ImageWorkload"):
            kind = raw.get("kind") if isinstance(raw, dict) else None
            return kind in ("text", "image") and part != f"{str(kind).title()}Workload"
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return False
    return False


def _place(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("TextWorkload", "ImageWorkload"):
            text += f".{part}" if text else part
    return text


def _refuse_unknown(raw: Any, known: Any, name: str, place: str) -> None:
    """Every key of the file must be one of ours, and a figure that we compute (fits, total_bytes) must be what we compute."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, item in raw.items():
            here = f"{place}.{key}" if place else str(key)
            if key not in known:
                raise PlanFileError(name, here, "unknown key.")
            if key in _COMPUTED and item != known[key]:
                raise PlanFileError(name, here, f"says {item}, but the lines around it make it {known[key]}; leave it out.")
            _refuse_unknown(item, known[key], name, here)
    elif isinstance(raw, list) and isinstance(known, list):
        for index, (item, counterpart) in enumerate(zip(raw, known, strict=True)):
            _refuse_unknown(item, counterpart, name, f"{place}[{index}]")


def _check(plan: Plan, name: str) -> None:
    """What types can't say: ids are unique, every placement has a card, and the bills of one card add up to no more than it has: those
    that always stay, and the largest of those on demand."""
    cards = {card.id: card for card in plan.cards}
    if len(cards) != len(plan.cards):
        raise PlanFileError(name, "cards", "two cards have the same id.")
    used: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    seen: set[str] = set()
    for index, placement in enumerate(plan.placements):
        place = f"placements[{index}]"
        if not placement.id or not all(c.isascii() and (c.isalnum() or c in "-._") for c in placement.id) or placement.id.startswith("."):
            raise PlanFileError(name, f"{place}.id", "must be letters, digits, '-', '_' and '.' only.")
        if placement.id in seen:
            raise PlanFileError(name, f"{place}.id", f"{placement.id} is there twice.")
        seen.add(placement.id)
        if placement.card_id not in cards:
            raise PlanFileError(name, f"{place}.card_id", f"{placement.card_id} is none of the cards of this plan.")
        _check_positive(placement.workload, name, f"{place}.workload")
        _check_report(placement, name, place)
        bill = placement.report.bill
        if bill is not None:
            if any(size < 0 for size in dataclasses.asdict(bill).values()):
                raise PlanFileError(name, f"{place}.report.bill", "has a negative line.")
            if placement.on_demand:
                largest[placement.card_id] = max(largest[placement.card_id], bill.total_bytes)
            else:
                used[placement.card_id] += bill.total_bytes
    for card_id, total in (used + largest).items():
        if total > cards[card_id].total_bytes:
            have = gib(cards[card_id].total_bytes)
            raise PlanFileError(name, "placements", f"the bills on card {card_id} add up to {gib(total)}, but it has {have}.")


def _check_report(placement: Placement, name: str, place: str) -> None:
    """The report must be about what the placement says: an edited workload under an old bill would start what does not fit."""
    report = placement.report
    again = "is not what its report was computed for; make the plan again with `rigserve plan`."
    for field in ("workload", "choice", "variant_id"):
        said, computed = getattr(placement, field), getattr(report, field)
        if computed is not None and said != computed:
            raise PlanFileError(name, f"{place}.{field}", again)
    if not report.fits:
        raise PlanFileError(name, f"{place}.report", "says that it does not fit.")


def _check_positive(workload: Any, name: str, place: str) -> None:
    """A count is 1 or more, or what the type itself starts from (no LoRA slots)."""
    for field in dataclasses.fields(workload):
        value = getattr(workload, field.name)
        if isinstance(value, int) and value < 1 and value != field.default:
            raise PlanFileError(name, f"{place}.{field.name}", f"is {value}; it must be at least 1.")
