"""What `make gpu` runs, as one test: every case as predicted. Without a GPU it fails, it does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.hardware.detect import detect
from tests.gpu.__main__ import on_gpu


@pytest.mark.gpu
def test_predictions_hold_on_this_gpu(tmp_path: Path) -> None:
    found = detect()
    cards = [card for card in found.cards if card.vendor == "nvidia" and card.id.startswith("GPU-")]
    assert cards, "no NVIDIA card answers here"
    results = on_gpu(cards[0], found.host, tmp_path)
    assert any(result.as_predicted for result in results)
    assert not [result for result in results if result.as_predicted is False]
