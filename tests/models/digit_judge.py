"""Reads digits in pictures: a scikit-learn classifier that has only ever seen real handwriting.

It judges what digits-sd drew, whichever way the pictures came (diffusers directly, or the gateway).
Needs scikit-learn, numpy and Pillow; no torch.

    judge = DigitJudge.from_real_digits()
    judge.read([picture, another])  # -> [7, 3]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from sklearn.svm import SVC

Picture = Image.Image | np.ndarray

HELD_OUT_IMAGES = 297
INK_LEVELS = 16  # the data set counts inked pixels per 4x4 block: 0..16


@dataclass(frozen=True, slots=True)
class RealDigits:
    """scikit-learn's 1,797 digits in two parts: ink counts (n, 8, 8) in 0..16 and labels (n,).

    The split (stratified, random_state 0) is the one models/make_digits_sd.py trains on: digits-sd has
    never seen the held-out part.
    """

    train_ink: np.ndarray
    held_out_ink: np.ndarray
    train_labels: np.ndarray
    held_out_labels: np.ndarray

    @classmethod
    def split(cls) -> RealDigits:
        from sklearn.datasets import load_digits  # here: scikit-learn takes seconds to import
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        return cls(*train_test_split(digits.images, digits.target, test_size=HELD_OUT_IMAGES, random_state=0, stratify=digits.target))


def ink_8x8(picture: Picture) -> np.ndarray:
    """Ink counts (8, 8) in 0..16 of a picture of any size with bright ink on a dark ground.

    Each cell is the plain mean of the pixels it covers, as the data set itself was made from 32x32 scans.
    A float array is taken to be in 0..1, a uint8 array or a PIL image in 0..255.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            picture = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
        picture = Image.fromarray(picture)
    grey = picture.convert("L").convert("F")
    return np.asarray(grey.resize((8, 8), Image.Resampling.BOX)) / 255 * INK_LEVELS


@dataclass(frozen=True, slots=True)
class DigitJudge:
    classifier: SVC

    @classmethod
    def trained_on(cls, ink: np.ndarray, labels: np.ndarray) -> DigitJudge:
        """ink: (n, 8, 8) in 0..16; labels: (n,) in 0..9."""
        from sklearn.svm import SVC

        return cls(SVC(gamma=0.001, C=10).fit(ink.reshape(len(ink), 64), labels))

    @classmethod
    def from_real_digits(cls) -> DigitJudge:
        real = RealDigits.split()
        return cls.trained_on(real.train_ink, real.train_labels)

    def read_ink(self, ink: np.ndarray) -> np.ndarray:
        """The digit (n,) in each of n ink grids (n, 8, 8)."""
        return self.classifier.predict(ink.reshape(len(ink), 64))

    def read(self, pictures: Sequence[Picture]) -> list[int]:
        """The digit in each picture. It always answers a digit: a blank picture gets one too."""
        return [int(digit) for digit in self.read_ink(np.stack([ink_8x8(p) for p in pictures]))]
