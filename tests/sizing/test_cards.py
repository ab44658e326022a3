"""The catalogue says who a card is from what drivers say, and rigs can be described in words."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from services.sizing.cards import CardParseError, identify, load_cards, parse_cards, simulated_cpu_card, spec_of, taken_sizes, visible_bytes
from services.sizing.types import Card, PcieLink

GIB, MIB = 2**30, 2**20


def test_every_row_is_there_with_its_source() -> None:
    rows = list(csv.DictReader((files("services.sizing") / "cards.csv").read_text(encoding="utf8").splitlines()))
    cards = load_cards()
    assert len(cards) == len(rows) >= 79
    assert len({card.key for card in cards}) == len(cards)
    assert all(card.sources for card in cards)
    assert all(card.vram_bytes is None or card.vram_bytes >= 3 * GIB for card in cards)


def test_unknown_is_none_and_uncertain_is_said() -> None:
    cards = {card.key: card for card in load_cards()}
    assert cards["CMP 100-100"].vram_bytes is None
    assert cards["CMP 100-100"].bandwidth_bytes_per_s is None
    assert cards["RX 480 4GB"].bandwidth_bytes_per_s == 224e9
    assert "not certain: bandwidth_gb_s" in cards["RX 480 4GB"].quirks
    assert cards["CMP 50HX"].has_dp4a is False, "throttled at stock"
    assert cards["RTX 3060 Ti 8GB"].has_bf16 is True


@pytest.mark.parametrize(
    ("name", "total_mib", "pci", "key"),
    [
        ("P106-100", 6075, None, "P106-100 6GB"),
        ("NVIDIA P106-100", 6075, "1c07", "P106-100 6GB"),
        ("NVIDIA P104-100", 8109, "0x1B8710DE", "P104-100 8GB"),
        ("P104-100", 4038, "1b87", "P104-100 4GB"),
        ("NVIDIA P102-100", 10156, "1b07", "P102-100 10GB"),
        ("NVIDIA GeForce RTX 3080", 10240, "2206", "RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 3080", 12288, "220a", "RTX 3080 12GB"),
        ("NVIDIA GeForce RTX 3080", 20480, "10de:2206", "RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 3060", 12288, "2504", "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", 8192, "2504", "RTX 3060 8GB"),
        ("NVIDIA GeForce RTX 2060", 12288, "1f03", "RTX 2060 12GB"),
        ("NVIDIA GeForce GTX 1060", 6072, None, "GTX 1060 6GB"),
        ("GeForce GTX 1060 3GB", 3018, "1c02", "GTX 1060 3GB"),
        ("NVIDIA GeForce RTX 2080 Ti", 22528, "1e07", "RTX 2080 Ti 11GB"),
        ("NVIDIA CMP 30HX", 6144, "2189", "CMP 30HX"),
        ("NVIDIA Graphics Device", 8192, "20c2", "CMP 170HX 8GB"),
        ("NVIDIA Graphics Device", 65536, "20c2", "CMP 170HX 10GB"),
        ("Tesla V100-SXM2-16GB", 16160, "1db1", "Tesla V100 16GB"),
        ("AMD Radeon RX 580", 8192, "67df", "RX 580 8GB"),
        ("AMD Radeon RX 6600 XT (navi23, LLVM 19.1.7)", 8192, "73ff", "RX 6600 XT 8GB"),
        ("Radeon VII", 16384, "66af", "Radeon VII 16GB"),
        ("", 8192, "67df", "RX 470 8GB"),
        ("NVIDIA GeForce RTX 2060", None, "1f03", "RTX 2060 12GB"),
    ],
)
def test_identify(name: str, total_mib: int | None, pci: str | None, key: str) -> None:
    spec = identify(name, total_mib * MIB if total_mib else None, pci)
    assert spec is not None
    assert spec.key == key


@pytest.mark.parametrize(
    ("name", "pci"), [("NVIDIA GeForce RTX 5090", "2b85"), ("", None), ("NVIDIA Graphics Device", None), ("x" * 500, "zz")]
)
def test_a_card_not_in_the_table_is_none(name: str, pci: str | None) -> None:
    assert identify(name, 8 * GIB, pci) is None


def test_the_slowest_sibling_when_only_the_shared_id_is_known() -> None:
    spec = identify("", 4 * GIB, "67df")
    assert spec is not None
    siblings = [s for s in load_cards() if s.pci_device_id == "67df" and s.vram_bytes == 4 * GIB]
    assert spec.bandwidth_bytes_per_s == min(s.bandwidth_bytes_per_s or 0 for s in siblings)


def test_visible_bytes_worked_number() -> None:
    assert visible_bytes(24 * GIB) == pytest.approx(23.61 * GIB)
    for nominal, seen in ((11, 10.75), (24, 23.58), (40, 39.5), (80, 79.15), (32, 31.74)):
        assert seen - 0.22 <= visible_bytes(nominal * GIB) / GIB <= seen + 0.03


def test_parse_cards() -> None:
    cards = parse_cards("P104-100 8GB:2, RTX 3060 Ti ,P106-100@gen1x1:1,rtx3090 @ gen3x16 #GPU-0f3a-11")
    assert [card.id for card in cards] == ["card-0", "card-1", "card-2", "card-3", "GPU-0f3a-11"]
    assert [card.spec for card in cards] == ["P104-100 8GB", "P104-100 8GB", "RTX 3060 Ti 8GB", "P106-100 6GB", "RTX 3090 24GB"]
    assert cards[3].link == PcieLink(1, 1)
    assert cards[4].link == PcieLink(3, 16)
    assert cards[0].total_bytes == visible_bytes(8 * GIB) < 8 * GIB
    assert cards[0].compute_capability == "6.1"
    assert cards[2].name == "NVIDIA GeForce RTX 3060 Ti"
    assert not any(card.simulated for card in cards)
    spec = spec_of(cards[2])
    assert spec is not None
    assert spec.key == "RTX 3060 Ti 8GB"


def test_parse_cards_more_shapes() -> None:
    amd = parse_cards("RX 580 8GB:4")
    assert len(amd) == 4
    assert amd[0].gfx == "gfx803"
    assert parse_cards("P104-100 8GB@gen1x1#GPU-aa-bb")[0].id == "GPU-aa-bb"
    assert parse_cards("RX 580 8GB#0000:03:00.0")[0].id == "0000:03:00.0"
    riser = parse_cards("P104-100 8GB@x1")[0].link
    assert riser is not None
    assert (riser.generation, riser.width) == (None, 1)
    modded = parse_cards("RTX 2080 Ti 22GB")[0]
    assert modded.total_bytes == visible_bytes(22 * GIB)
    assert "not the table's size" in (modded.note or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing"), ("RTX 3060 Ti,,P106-100", "missing"), ("RTX 9999", "No card"), ("RTX 3060 Ti:0", "between 1"),
        ("RTX 3060 Ti:9999999999", "between 1"), ("RTX 3060 Ti:2#GPU-1111", "one UUID"),
        ("RTX 3060 Ti#GPU-1111,RTX 3070#GPU-1111", "id GPU-1111"), ("RTX 3060 Ti@gen9x3", "PCIe"), ("RTX 3060 Ti@fast", "read"),
        ("RTX 3060 Ti 9000GB", "between 512 MiB"), ("CMP 100-100", "How much memory"), ("x" * 30_000, "at most"),
        ("RTX 3060 Ti:-1", "read"), ("2x RTX 3060 Ti", r"write \"RTX 3060 Ti:2\""), ("6 x P104-100 8GB", "8GB:6"),
        ("RTX 9999", "Nearest: RTX"), ("RTX 3060 Ti@x3", "PCIe"),
    ],
)
def test_parse_cards_refuses(text: str, words: str) -> None:
    with pytest.raises(CardParseError, match=words):
        parse_cards(text)


@pytest.mark.parametrize(
    ("name", "size_gib", "said"),
    [
        ("RTX 3060", 8, "RTX 3060 was sold with 8 and 12 GB; taken as 8 GB, write RTX 3060 12GB if it has that."),
        ("RTX 3080", 10, "RTX 3080 was sold with 10 and 12 GB; taken as 10 GB"), ("RTX 2060", 6, "taken as 6 GB, write RTX 2060 12GB"),
        ("P102-100", 5, "taken as 5 GB, write P102-100 10GB"), ("P104-100", 4, "taken as 4 GB, write P104-100 8GB"),
        ("GTX 1060", 3, "GTX 1060 was sold with 3, "), ("RX 580", 4, "taken as 4 GB, write RX 580 8GB"),
    ],
)  # fmt: skip
def test_a_name_sold_with_several_sizes_is_the_smallest_and_says_so(name: str, size_gib: int, said: str) -> None:
    cards = parse_cards(f"{name}:2,RTX 3060 Ti")
    assert cards[0].total_bytes == visible_bytes(size_gib * GIB)
    spec = spec_of(cards[0])
    assert spec is not None
    assert spec.vram_bytes == size_gib * GIB
    (note,) = taken_sizes(cards)
    assert said in note
    assert taken_sizes(parse_cards(f"{name} {size_gib}GB,RTX 2080 Ti 22GB")) == ()


def test_an_unknown_card_gets_the_nearest_names() -> None:
    with pytest.raises(CardParseError) as caught:
        parse_cards("RTX 3060Tii")
    assert "RTX 3060 Ti 8GB" in caught.value.nearest
    assert parse_cards("p106 100 6 GB")[0].spec == "P106-100 6GB", "spelling, case and blanks don't matter"


def test_simulated_card_is_labelled() -> None:
    card = simulated_cpu_card(4 * GIB)
    assert (card.id, card.vendor, card.simulated, card.total_bytes) == ("sim-0", "cpu", True, 4 * GIB)
    with pytest.raises(CardParseError):
        simulated_cpu_card(0)


def test_spec_of_a_card_that_is_in_no_table() -> None:
    assert spec_of(Card("GPU-1", "New card", "nvidia", 8 * GIB)) is None
    assert spec_of(Card("GPU-1", "New card", "nvidia", 8 * GIB, spec="gone")) is None
