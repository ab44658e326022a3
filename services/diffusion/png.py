"""PNG bytes of an image, and nothing but the image."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encode(pixels: Any) -> bytes:
    """PNG of an array (height, width, 3) of uint8. The same pixels give the same bytes; no text chunk, no time, no prompt."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="PNG")
    return target.getvalue()
