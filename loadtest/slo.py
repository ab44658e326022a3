"""What a good request is: the limits of an SLO file, and whether a request kept them. Pure."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.record import Record

DEFAULT = Path(__file__).parent / "slo.toml"


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; None is no limit. `e2e_s` is for text, `image_s` for pictures."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    image_s: float | None = None

    def good(self, record: Record) -> bool:
        """Whether a request was answered whole and in time.

        1. Not answered whole: no.
        2. A picture: in `image_s`.
        3. Text: in `e2e_s`; a stream also first token in `ttft_s`, and `tpot_s` where it has two tokens or more.
        """
        if record.ending != "ok":  # 1
            return False
        if record.kind == "image":  # 2
            return _within(record.end_s, self.image_s)
        times = ((record.end_s, self.e2e_s), (record.first_s, self.ttft_s), (record.tpot_s, self.tpot_s))  # 3
        return all(value is None or _within(value, limit) for value, limit in times)

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def _within(value: float, limit: float | None) -> bool:
    return limit is None or value <= limit


def read_slo(path: Path) -> Slo:
    """Raises ValueError with a sentence."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ValueError(f"the SLO file {path} can't be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the SLO file {path} is not TOML: {error}") from None
    names = set(Slo.__dataclass_fields__)
    for name, value in given.items():
        if name not in names:
            raise ValueError(f"the SLO file {path} has {name!r}; it knows {', '.join(sorted(names))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{name} in the SLO file {path} must be a number of seconds above 0")
    return Slo(**{name: float(value) for name, value in given.items()})
