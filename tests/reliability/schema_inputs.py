"""Values of a JSON Schema for hypothesis: of as much of it as /openapi.json uses, mostly small ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 1e308, "", "\0", "url", "b64_json", "512x512", "auto"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8,
)  # fmt: skip
FEW = 3


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema allows. Raises NotImplementedError for a word of JSON Schema that is not known here."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    kinds = schema.get("type", [])
    return st.one_of([_of_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]) if kinds else ANYTHING


def _of_kind(kind: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if kind == "null":
        return st.none()
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return _whole(schema.get("minimum", -(2**70)), schema.get("maximum", 2**70))
    if kind == "number":
        above = schema.get("exclusiveMinimum")
        least = schema.get("minimum", above)
        return st.floats(least, schema.get("maximum"), exclude_min=above is not None, allow_nan=False, allow_infinity=False)
    if kind == "string":
        if "pattern" in schema:
            return st.from_regex(schema["pattern"].replace("$", r"\Z"), fullmatch=True)
        return st.text(min_size=schema.get("minLength", 0), max_size=min(20, schema.get("maxLength", 20)))
    if kind == "array":
        least = schema.get("minItems", 0)
        return st.lists(values(schema.get("items", {})), min_size=least, max_size=min(max(least, FEW), schema.get("maxItems", FEW)))
    if kind == "object":
        return _objects(schema)
    raise NotImplementedError(kind)


def _whole(low: int, high: int) -> st.SearchStrategy[int]:
    """Also near the ends, and often small."""
    return st.integers(low, high) | st.integers(max(low, 0), max(low, min(high, 20))) | st.sampled_from([low, high])


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    known, needed = schema.get("properties", {}), set(schema.get("required", ()))
    others = schema.get("additionalProperties", True)

    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        free = sorted(set(known) - needed)
        names = needed | (draw(st.sets(st.sampled_from(free), max_size=FEW)) if free else set())
        found = {name: draw(values(known.get(name, {}))) for name in sorted(names)}
        if not known and others is not False:
            names_of = schema.get("propertyNames", {})
            keys = st.text() if "not" in names_of else values({"type": "string", **names_of})
            found |= draw(st.dictionaries(keys, values(others if isinstance(others, dict) else {}), max_size=FEW))
        return found

    return made()


def _object_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or the first of its alternatives that is of objects."""
    return next((one for one in schema.get("anyOf", ()) if "properties" in one), schema)


@st.composite
def near(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """A value of the schema, in which sometimes a field (at any depth) is anything, is missing, or is too many; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(ANYTHING)
    value = draw(values(schema))
    if isinstance(value, dict) and draw(st.booleans()):
        spoilt, known = value, schema.get("properties", {})
        while inner := sorted(name for name, one in spoilt.items() if isinstance(one, dict) and one and draw(st.booleans())):
            spoilt, known = spoilt[inner[0]], _object_of(known.get(inner[0], {})).get("properties", {})
        spoilt[draw(st.sampled_from(sorted({*known, *spoilt, "x"})) | st.text(max_size=8))] = draw(ANYTHING)
        if draw(st.integers(0, 3)) == 0:
            spoilt.pop(draw(st.sampled_from(sorted(spoilt))))
    return value
