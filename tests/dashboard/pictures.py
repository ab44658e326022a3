"""Pictures of pages for docs/screenshots: what fits the window, in 128 colours, so that a repository can carry them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

MOST_BYTES = 150_000


def take(page: Page, path: Path) -> None:
    """Writes it, and fails when it is larger than MOST_BYTES or shows next to nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert len(whole.getcolors(2**24) or ()) > 20, "an empty page"
    whole.quantize(128).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, path
