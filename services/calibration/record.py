"""One observation: what one placement was predicted to take and do, and what it took and did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from services.sizing.calibration import way
from services.sizing.types import EngineChoice, Workload

FORMAT = "rigserve-calibration"
VERSION = 1
MAX_OBSERVATIONS = 20_000
HERE = "here"  # `origin` of what this machine measured

Name = Annotated[str, Field(max_length=256)]
Size = Annotated[int, Field(gt=0, le=2**50)]
Figure = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class ObservationError(ValueError):
    """A file that holds no observations. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Sizes are bytes, times seconds; None where nobody predicted or measured it.

    `card_kind`: the catalogue's key, else the driver's name. `choice` has no reasons. `predicted_bytes`: the bill without its reserve.
    `peak_source`: `process` (the driver's books on the engine's processes), `card` (what the card had in use more than
    before: others on it would be counted in), `pss` (host memory, on a simulated CPU card).
    `alone`: no other placement shared the card. `tok_s`: one request at a time; `images_per_min`: scaled to the usual number of steps.
    """

    card_kind: Name
    card_id: Name
    simulated: bool
    model_id: Name
    variant_id: Name
    choice: EngineChoice
    workload: Workload
    measured_at: Name
    driver_version: Name | None = None
    engine_version: Name | None = None
    peak_source: Literal["process", "card", "pss"] | None = None
    alone: bool = True
    predicted_bytes: Size | None = None
    peak_bytes: Size | None = None
    predicted_host_bytes: Size | None = None
    host_peak_bytes: Size | None = None
    predicted_load_s: Figure | None = None
    load_s: Figure | None = None
    predicted_tok_s: Figure | None = None
    tok_s: Figure | None = None
    predicted_images_per_min: Figure | None = None
    images_per_min: Figure | None = None
    runs: Annotated[int, Field(ge=1, le=2**31)] = 1
    origin: Name = HERE

    @property
    def key(self) -> str:
        """What makes two observations about the same thing: card, driver, engine with its version and settings, variant, workload."""
        named = ("card_kind", "card_id", "driver_version", "engine_version", "model_id", "variant_id")
        return json.dumps([*(getattr(self, name) for name in named), asdict(way(self.choice)), asdict(self.workload)], sort_keys=True)

    @property
    def believed(self) -> bool:
        """Whether its peak says something about this engine alone."""
        return self.peak_bytes is not None and (self.alone or self.peak_source != "card")


_OBSERVATIONS = TypeAdapter(list[Observation])
_FIELDS = {field.name for field in fields(Observation)}


def dumped(observations: list[Observation]) -> str:
    """The JSON text for other rigs."""
    return json.dumps({"format": FORMAT, "version": VERSION, "observations": [asdict(one) for one in observations]}, indent=1) + "\n"


def parsed(text: str) -> list[Observation]:
    """Read strictly, as from a stranger. Raises ObservationError."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ObservationError(f"is not JSON ({str(error)[:100]}).") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT or whole.get("version") != VERSION:
        raise ObservationError(f'is no calibration: it must say "format": "{FORMAT}" and "version": {VERSION}.')
    return observations_of(whole.get("observations"))


def observations_of(rows: Any) -> list[Observation]:
    """Rows of plain data, each with known keys and believable values only. Raises ObservationError."""
    if not isinstance(rows, list) or len(rows) > MAX_OBSERVATIONS:
        raise ObservationError(f"must have a list of at most {MAX_OBSERVATIONS} observations.")
    for index, row in enumerate(rows):
        unknown = sorted(set(row) - _FIELDS) if isinstance(row, dict) else []
        if unknown:
            raise ObservationError(f"observations[{index}] has the unknown key {str(unknown[0])[:60]}.")
    try:
        return _OBSERVATIONS.validate_json(json.dumps(rows), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ObservationError(f"observations[{where[:100]}]: {fault['msg']}.") from error
