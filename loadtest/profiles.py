"""What is asked, in which mix. A profile is weights of request kinds, and which endings are what it came for."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_KINDS = ("chat_stream", "chat", "completions", "multi_turn", "probe", "canceller", "slow_reader")
KINDS = (*TEXT_KINDS, "embeddings", "image", "wont_fit", "abuse")


@dataclass(frozen=True, slots=True)
class Profile:
    """`weights`: kind -> share. `sheds`: a 429 or 503 with Retry-After is what is looked for, not a failure."""

    weights: dict[str, int]
    about: str
    sheds: bool = False
    prefix_share: float = 0.0


PROFILES = {
    "chat": Profile({"chat_stream": 1}, "streamed chats"),
    "ci": Profile({"chat_stream": 8, "chat": 1, "completions": 1, "probe": 1, "image": 1},
                  "a minute of everything usual; what `make load` runs"),
    "mixed": Profile(
        {"chat_stream": 6, "chat": 2, "multi_turn": 2, "completions": 1, "image": 2, "probe": 1},
        "chats, conversations, completions, images",
    ),
    "image": Profile({"image": 1}, "a grid of image sizes, steps and numbers"),
    "embeddings": Profile({"embeddings": 1}, "embeddings"),
    "prefix": Profile({"chat_stream": 1, "multi_turn": 1}, "prompts that share most of their beginning", prefix_share=0.8),
    "overload": Profile({"chat_stream": 1}, "more than the server can do: give it --rate above the knee; sheds are counted apart",
                        sheds=True),
    "wont-fit": Profile({"wont_fit": 4, "probe": 1}, "requests that no card can hold: each must be refused, fast, with a reason"),
    "abuse": Profile(
        {"abuse": 3, "canceller": 2, "slow_reader": 1, "chat_stream": 2},
        "malformed requests, clients that leave or read slowly, among good ones", sheds=True,
    ),
}


def usable(profile: Profile, chat_model: str | None, image_model: str | None, weights: dict[str, int] | None = None) -> dict[str, int]:
    """The weights that this server can answer: no image without an image model, no text without a chat model."""
    wanted = weights or profile.weights
    gone = (set() if image_model else {"image"}) | (set() if chat_model else {*TEXT_KINDS, "embeddings", "abuse"})
    return {kind: weight for kind, weight in wanted.items() if weight > 0 and kind not in gone}


def read_weights(text: str) -> dict[str, int]:
    """`chat=3,image=1`. Raises ValueError with a sentence."""
    found = {}
    for part in text.split(","):
        kind, _, number = part.strip().partition("=")
        if kind not in KINDS or not number.isdigit():
            raise ValueError(f"{part.strip()!r} is not a weight; write kind=number, where a kind is one of {', '.join(KINDS)}")
        found[kind] = int(number)
    return found
