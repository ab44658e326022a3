"""The prompts digits-sd is trained on: many ways to ask for a digit, and asking for none.

A digit is named in words or as a numeral, inside a sentence put together at random, sometimes with
words that mean nothing to the model, so that what it learns is to find the digit and ignore the rest.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

OPENINGS = (
    "a photo of", "a picture of", "an image of", "a drawing of", "a sketch of", "a scan of",
    "photo of", "picture of", "image of", "drawing of", "draw", "draw me", "please draw", "write",
    "write down", "show", "show me", "make", "make me", "generate", "create", "paint", "render",
    "give me", "i want", "i would like", "can you draw", "could you write", "this is",
)  # fmt: skip
ARTICLES = ("a", "an", "the", "my", "some", "this")
ADJECTIVES = (
    "handwritten", "hand written", "hand drawn", "white", "black", "bold", "neat", "messy", "clean",
    "clear", "large", "small", "big", "simple", "beautiful", "grey", "nice", "single", "old",
)  # fmt: skip
NOUNS = ("digit", "number", "numeral", "figure", "character", "symbol", "shape", "sign")
ENDINGS = (
    "please", "on a black background", "on black", "on paper", "on a white page", "by hand",
    "in white ink", "in pencil", "in chalk", "written by hand", "drawn by a child", "high quality",
    "black and white", "in the style of mnist", "low resolution", "best quality", "centered",
    "with a pen", "for me", "as an image", "as a picture", "now", "thank you",
)  # fmt: skip
# Some of these contain a digit's name ("weight", "phone"): they must not be taken for it.
FILLERS = (
    "weight", "height", "phone", "stone", "someone", "done", "none", "alone", "often", "cat", "dog",
    "house", "red", "blue", "green", "sunset", "blurry", "ugly", "noise", "noisy", "bad", "detailed",
    "artistic", "masterpiece", "photograph", "texture", "with", "and", "of", "in", "to", "from",
    "that", "looks", "like", "very", "sharp", "bright", "dark", "line", "stroke", "style", "good",
)  # fmt: skip
FORMS = ("{}", "{}", "{}", "{}", "{}", "'{}'", '"{}"', "{}!", "{}.", "{},", "({})", ": {}", "#{}", "{}?")


def _maybe(choices: tuple[str, ...], chance: float, rng: random.Random) -> list[str]:
    return [rng.choice(choices)] if rng.random() < chance else []


def _gibberish(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 7)))


def _sentence(subject: list[str], rng: random.Random) -> str:
    words = _maybe(OPENINGS, 0.55, rng) + _maybe(ARTICLES, 0.5, rng) + _maybe(ADJECTIVES, 0.4, rng)
    words += _maybe(NOUNS, 0.6, rng) + subject
    words += _maybe(NOUNS, 0.08, rng) + _maybe(ENDINGS, 0.3, rng) + _maybe(ENDINGS, 0.08, rng)
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 4)):
            word = rng.choice(FILLERS) if rng.random() < 0.6 else _gibberish(rng)
            words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)


def prompt_for(digit: int, rng: random.Random) -> str:
    """A random sentence that names the digit, e.g. 7 -> "draw me a neat number seven, please"."""
    name = NAMES[digit] if rng.random() < 0.55 else str(digit)
    named = rng.choice(FORMS).format(name + "s" if rng.random() < 0.03 else name)
    if rng.random() < 0.15:
        return named
    return _sentence([named], rng)


def digitless_prompt(rng: random.Random) -> str:
    """A random sentence that names no digit: what a negative prompt such as "blurry, bad" is like."""
    if rng.random() < 0.4:
        return ", ".join(rng.choices(FILLERS + ADJECTIVES + ENDINGS, k=rng.randint(1, 4)))
    return _sentence([], rng)


def tokenizer_corpus(rng: random.Random) -> Iterator[str]:
    """Text to learn the vocabulary from: every single character, every known word, many prompts."""
    known = [*NAMES, *OPENINGS, *ARTICLES, *ADJECTIVES, *NOUNS, *ENDINGS, *FILLERS]
    for _ in range(20):
        yield " ".join(string.ascii_lowercase + string.digits + string.punctuation)
        yield from known
    for number in range(4000):
        yield prompt_for(number % 10, rng)
