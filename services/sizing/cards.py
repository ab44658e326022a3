"""What is known of cards: the catalogue (cards.csv), who a card is, and rigs described in words.

cards.csv holds one row per product with the sources of its figures; a "?" behind a value there means "not seen in a source, inferred".
Such values are used, and named as uncertain in the row's quirks. A card that is not in the table works from what its driver says.
"""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache
from importlib.resources import files

from services.sizing.types import Card, CardSpec, PcieLink, Vendor
from services.sizing.units import GIB, MIB, SizeError, gib, parse_bytes

MAX_CARDS = 256
DESCRIBED = "Described, not detected."
MAX_TEXT = 20_000
# Names that drivers give to chips they don't know: they say nothing about who the card is.
_NAMELESS = {"", "graphicsdevice", "device"}
_MAKERS = re.compile(r"\b(nvidia|geforce|amd|ati|radeon|tesla|instinct|corporation|graphics|series|gpu)\b|\((tm|r)\)|[®™]", re.IGNORECASE)
_SIZE_IN_NAME = re.compile(r"\b(\d+(?:\.\d+)?)\s*(gib|gb|g|mib)\b", re.IGNORECASE)
_ITEM = re.compile(
    r"(?P<name>[^@#:]+?)\s*(?::(?P<early>\d+))?\s*(?:@\s*(?:gen(?P<gen>\d))?\s*x\s*(?P<width>\d{1,2})\s*)?(?::(?P<count>\d+))?\s*"
    r"(?:#\s*(?P<uuid>[A-Za-z0-9][A-Za-z0-9:._-]{2,63}))?",
    re.IGNORECASE | re.ASCII,
)
_COUNT_FIRST = re.compile(r"(?P<count>\d+)\s*[x×*]\s+(?=\S)", re.IGNORECASE | re.ASCII)


class CardParseError(ValueError):
    """A card list that can't be read. `nearest` are the catalogue names that look most like what was written."""

    def __init__(self, sentence: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.nearest = nearest


@cache
def load_cards() -> tuple[CardSpec, ...]:
    """Every row of cards.csv, in the file's order."""
    text = (files("services.sizing") / "cards.csv").read_text(encoding="utf8")
    return tuple(_spec(row) for row in csv.DictReader(text.splitlines()))


@cache
def _by_key() -> dict[str, CardSpec]:
    return {spec.key: spec for spec in load_cards()}


def spec_of(card: Card) -> CardSpec | None:
    """The catalogue row of a card, None when it is not in the table."""
    return _by_key().get(card.spec) if card.spec else None


def identify(name: str, total_bytes: int | None, pci_device_id: str | None) -> CardSpec | None:
    """The catalogue row of the card that a driver describes, or None.

    1. Rows whose name is the driver's name, both without the maker's words ("NVIDIA ", "GeForce ") and without a size.
    2. A name that says nothing ("NVIDIA Graphics Device"), or no name at all: rows with that PCI device id.
    3. Of several rows the best by: VRAM within a tenth of the driver's figure, PCI id agrees, nearest VRAM, slowest. The slowest last,
       so that no speed is promised that a sibling of the same id and size hasn't. A PCI id alone never overrules the name: boards are
       reflashed and ids are shared.
    """
    pci = _pci(pci_device_id)
    plain = _plain(name)
    # 1
    rows = [] if plain in _NAMELESS else [spec for spec in load_cards() if plain in _names(spec)]
    # 2
    if not rows:
        rows = [spec for spec in load_cards() if pci is not None and pci in _ids(spec)]
    # 3
    return min(rows, key=lambda spec: _unlikeness(spec, total_bytes, pci), default=None)


def visible_bytes(nominal_bytes: int) -> int:
    """What a driver leaves usable of the memory on the box: 0.99 x nominal - 0.15 GiB, for cards that nobody has asked yet.

    Source: capacities printed in public logs (GTX 1650 4 GB: 3.81-4.0, RTX 2080 Ti 11: 10.75, RTX 3090 24: 23.58-23.69, A100 40: 39.5,
    A100 80: 79.15, V100 32: 31.74 GiB); the line lies at or just under all of them. Worked number: 24 GiB -> 23.61 GiB.
    """
    return int(nominal_bytes * 0.99 - 0.15 * GIB)


def parse_cards(text: str) -> tuple[Card, ...]:
    """Cards of a rig described in words: "P104-100 8GB:6, RTX 3060 Ti:2", "P104-100 8GB@gen1x1#GPU-0f3a...".

    NAME [SIZE] [@genGxW] [:COUNT] [#UUID]. A size other than the table's (modded boards) is taken as given. A name that was sold with
    several sizes stands for the smallest, and the card's note says so (`taken_sizes`).
    Raises CardParseError (with the nearest names) for anything that is not such a list.
    """
    if len(text) > MAX_TEXT:
        raise CardParseError(f"The card list is {len(text)} characters long; at most {MAX_TEXT} are read.")
    cards: list[Card] = []
    for item in text.split(","):
        if not item.strip():
            raise CardParseError('A card is missing: write the cards like "P104-100 8GB:6,RTX 3060 Ti:2".')
        cards += _described(item.strip(), len(cards))
    ids = [card.id for card in cards]
    double = next((card_id for card_id in ids if ids.count(card_id) > 1), None)
    if double:
        raise CardParseError(f"Two cards have the id {double}.")
    return tuple(cards)


def simulated_cpu_card(budget_bytes: int, index: int = 0) -> Card:
    """The card that stands in on a machine without GPUs: host memory up to a budget, always labelled as simulated."""
    if budget_bytes <= 0:
        raise CardParseError("A simulated card needs a memory budget above zero.")
    return Card(
        id=f"sim-{index}", name="Simulated CPU card", vendor="cpu", total_bytes=budget_bytes, free_bytes=budget_bytes, index=index,
        simulated=True, note="No GPU: engines run on this host's CPU inside this memory budget.",
    )


def _described(item: str, first: int) -> list[Card]:
    if (many := _COUNT_FIRST.match(item)) is not None:
        raise CardParseError(f'"{item[:60]}": the count goes behind the name; write "{item[many.end() :][:60]}:{many["count"][:4]}".')
    match = _ITEM.fullmatch(item)
    if match is None:
        raise CardParseError(f'"{item[:60]}" can\'t be read; write NAME [SIZE] [@genGxW] [:COUNT] [#UUID], like "P104-100 8GB@gen1x1:6".')
    count = int(match["early"] or match["count"] or 1)
    if match["early"] and match["count"]:
        raise CardParseError(f'"{item[:60]}" has two counts.')
    if match["uuid"] and count != 1:
        raise CardParseError(f'"{item[:60]}" gives one UUID to {count} cards; write one entry for each.')
    if not 1 <= count <= MAX_CARDS - first:
        raise CardParseError(f"A rig has between 1 and {MAX_CARDS} cards; this list asks for {first + count}.")
    spec, nominal_bytes, taken = _spec_of_words(match["name"].strip())
    link = PcieLink(int(match["gen"]) if match["gen"] else None, int(match["width"])) if match["width"] else None
    if link and not (link.generation in (None, 1, 2, 3, 4, 5, 6) and link.width in (1, 2, 4, 8, 16)):
        raise CardParseError(f'"{item[:60]}": PCIe generations are 1 to 6 and widths x1, x2, x4, x8, x16.')
    known = spec.vram_bytes == nominal_bytes
    note = DESCRIBED if known else f"Described, not detected; {gib(nominal_bytes)} is not the table's size for this card."
    return [
        Card(
            id=match["uuid"] or f"card-{first + i}", name=_full_name(spec), vendor=spec.vendor, total_bytes=visible_bytes(nominal_bytes),
            spec=spec.key, index=first + i, compute_capability=_capability(spec), gfx=_gfx(spec), link=link,
            pci_device_id=spec.pci_device_id, note=f"{note} {taken}".strip(),
        )
        for i in range(count)
    ]


def taken_sizes(cards: tuple[Card, ...]) -> tuple[str, ...]:
    """What was assumed of described cards whose name does not say how much memory they have, each sentence once."""
    notes = [card.note.removeprefix(DESCRIBED).strip() for card in cards if card.note and card.note.startswith(DESCRIBED)]
    return tuple(dict.fromkeys(note for note in notes if note))


def _spec_of_words(words: str) -> tuple[CardSpec, int, str]:
    """The row that words name, its VRAM, and what to say about it.

    1. No row of that name: CardParseError. 2. A size in the words: it, and the nearest row. 3. Rows of one size: the first.
    4. Of several sizes: the smallest, for what fits that fits every card of the name; said aloud. 5. No size known: CardParseError.
    """
    size = _SIZE_IN_NAME.search(words)
    plain = _plain(words)
    rows = [spec for spec in load_cards() if plain in _names(spec)]
    # 1
    if not rows:
        raise _unknown(words)
    # 2
    if size:
        try:
            nominal_bytes = parse_bytes(size[0])
        except SizeError as error:
            raise CardParseError(str(error)) from error
        if not 512 * MIB <= nominal_bytes <= 256 * GIB:
            raise CardParseError(f'"{words[:60]}": a card has between 512 MiB and 256 GiB.')
        best = min(rows, key=lambda spec: (_distance(spec, nominal_bytes), spec.bandwidth_bytes_per_s or 0.0))
        return best, nominal_bytes, ""
    # 3
    sizes = sorted({spec.vram_bytes for spec in rows if spec.vram_bytes})
    smallest = [spec for spec in rows if sizes and spec.vram_bytes == sizes[0]]
    if len(sizes) == 1:
        return smallest[0], sizes[0], ""
    # 4
    if sizes:
        *some, most = (f"{size / GIB:g}" for size in sizes)
        named = words[:60]
        taken = f"{named} was sold with {', '.join(some)} and {most} GB; taken as {some[0]} GB, write {named} {most}GB if it has that."
        return min(smallest, key=lambda spec: spec.bandwidth_bytes_per_s or 0.0), sizes[0], taken
    # 5
    raise CardParseError(f'How much memory has "{words[:60]}"? The table doesn\'t know; write it like "{words[:60]} 12GB".')


def _unknown(words: str) -> CardParseError:
    keys = {_plain_with_size(spec.key): spec.key for spec in load_cards()}
    short = {_plain(spec.key): spec.key for spec in reversed(load_cards())}
    near = difflib.get_close_matches(_plain_with_size(words)[:60], keys, n=4, cutoff=0.5)
    alike = difflib.get_close_matches(_plain(words)[:60], short, n=4, cutoff=0.4)
    nearest = tuple(dict.fromkeys([*(keys[name] for name in near), *(short[name] for name in alike)]))[:4]
    advice = f" Nearest: {', '.join(nearest)}." if nearest else ' Cards are named like "RTX 3060 Ti" or "P104-100 8GB".'
    return CardParseError(f'No card is called "{words[:60]}".{advice}', nearest)


def _full_name(spec: CardSpec) -> str:
    return next((name for name in spec.nvml_names if name.startswith("NVIDIA ")), spec.key)


def _capability(spec: CardSpec) -> str | None:
    return spec.compute_capability if spec.vendor == "nvidia" else None


def _gfx(spec: CardSpec) -> str | None:
    return spec.compute_capability if spec.vendor == "amd" else None


def _plain_with_size(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _MAKERS.sub(" ", name).lower())


def _plain(name: str) -> str:
    return _plain_with_size(_SIZE_IN_NAME.sub(" ", re.sub(r"[\[(].*$", "", name) if not name.startswith("(") else name))


@cache
def _names(spec: CardSpec) -> frozenset[str]:
    return frozenset(_plain(name) for name in (spec.key, *spec.nvml_names)) - _NAMELESS


def _pci(text: str | None) -> str | None:
    """Four lower-case hex digits from "2486", "0x2486", "10de:2486" or NVML's combined 0x248610DE; None when it is none of them."""
    digits = (text or "").lower().removeprefix("0x").strip()
    if re.fullmatch(r"[0-9a-f]{4}(10de|1002)", digits):
        digits = digits[:4]
    digits = digits.rsplit(":", 1)[-1]
    return digits if re.fullmatch(r"[0-9a-f]{4}", digits) else None


def _ids(spec: CardSpec) -> tuple[str, ...]:
    return tuple((spec.pci_device_id or "").split("|")) if spec.pci_device_id else ()


def _distance(spec: CardSpec, total_bytes: int | None) -> int:
    if total_bytes is None:
        return 0
    return abs(spec.vram_bytes - total_bytes) if spec.vram_bytes is not None else 2**62


def _unlikeness(spec: CardSpec, total_bytes: int | None, pci: str | None) -> tuple[bool, bool, int, float]:
    distance = _distance(spec, total_bytes)
    return distance > (total_bytes or 0) / 10, pci not in _ids(spec), distance, spec.bandwidth_bytes_per_s or 0.0


# --- reading cards.csv -------------------------------------------------------------------------------------------------


def _spec(row: dict[str, str]) -> CardSpec:
    uncertain = [name for name, value in row.items() if value.rstrip().endswith("?") and name not in ("quirks", "sources", "nvml_name")]
    quirks = row["quirks"] + (f"; not certain: {', '.join(uncertain)}" if uncertain else "")
    vendor: Vendor = "nvidia" if row["vendor"] == "NVIDIA" else "amd"
    vram_mib = _number(row["vram_mib_nominal"])
    return CardSpec(
        key=row["name"],
        vendor=vendor,
        nvml_names=tuple(name.rstrip("?") for name in row["nvml_name"].split("|") if name),
        pci_device_id="|".join(i.rstrip("?") for i in row["pci_device_id"].split("|")) or None,
        chip=_word(row["chip"]),
        architecture=_word(row["architecture"]),
        compute_capability=_word(row["compute_capability"]),
        vram_bytes=int(vram_mib * MIB) if vram_mib is not None else None,
        bandwidth_bytes_per_s=_scaled(row["bandwidth_gb_s"], 1e9),
        fp32_flops=_scaled(row["fp32_tflops"], 1e12),
        fp16_flops=_scaled(row["fp16_tflops"], 1e12),
        has_tensor_cores=_yes(row["has_tensor_cores"]),
        has_bf16=_yes(row["bf16"]),
        has_dp4a=_yes(row["int8_dp4a"]),
        pcie=_word(row["pcie_gen_x_lanes"]),
        tdp_watts=_number(row["tdp_w"]),
        hashrate=f"{row['typical_eth_hashrate_mh_s']} MH/s (Ethash)" if row["typical_eth_hashrate_mh_s"] else None,
        quirks=quirks,
        sources=row["sources"],
    )


def _word(text: str) -> str | None:
    return text.rstrip("?") or None


def _number(text: str) -> float | None:
    return float(text.rstrip("?")) if text else None


def _scaled(text: str, factor: float) -> float | None:
    number = _number(text)
    return number * factor if number is not None else None


def _yes(text: str) -> bool | None:
    """"yes..." and "no..." as they are; "throttled ..." is no (it is there, but no faster than doing without); blank is unknown."""
    if text.startswith("yes"):
        return True
    return False if text.startswith(("no", "throttled")) else None
