"""How fast one lane is, learned from what it finished. Pure: time comes in as seconds that have passed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

EWMA_WEIGHT = 0.2
FAR_OFF = 2.0
IDLE_S = 30.0
PROMPT_WEIGHT = 0.1
LONG_PROMPT_TOKENS = 100


@dataclass(slots=True)
class LaneSpeed:
    """`unit_s`: seconds per token (text) or per image, as expected now; None before anything is known.

    `seed_s` is the plan's prediction, None without a plan. `prompt_s`: seconds per prompt token, None before a long prompt was measured.
    """

    seed_s: float | None = None
    unit_s: float | None = field(init=False)
    prompt_s: float | None = field(default=None, init=False)
    _best_s: float | None = field(default=None, init=False)
    _strange_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.unit_s = self.seed_s

    def learn(self, measured_s: float) -> None:
        """One more measurement, above 0.

        1. The first of all is believed.
        2. Far off (over twice or under half of what was expected) for the second time in a row and in the same direction: believed. A card
           that has turned slow is known after two requests.
        3. Far off for the first time: one request proves little, it counts as the nearest that is not far off.
        4. A moving average (EWMA). Worked number: expected 1.0 s, measured 2.0 s: 1.2 s.
        """
        if not 0 < measured_s < math.inf:
            raise ValueError(f"{measured_s} s per token is no measurement")
        expected, strange, self._strange_s = self.unit_s, self._strange_s, None
        if expected is None:  # 1
            self.unit_s = measured_s
        elif expected / FAR_OFF <= measured_s <= expected * FAR_OFF:  # 4
            self.unit_s = expected + EWMA_WEIGHT * (measured_s - expected)
        elif strange is not None and (strange > expected) == (measured_s > expected):  # 2
            self.unit_s = math.sqrt(strange * measured_s)
        else:  # 3
            self._strange_s = measured_s
            nearest_s = expected * FAR_OFF if measured_s > expected else expected / FAR_OFF
            self.unit_s = expected + EWMA_WEIGHT * (nearest_s - expected)
        self._best_s = self.unit_s if self._best_s is None else min(self._best_s, self.unit_s or self._best_s)

    def learn_prompt(self, first_s: float, prompt_tokens: int, unit_s: float) -> None:
        """The first token of a prompt came after `first_s`, one token time of it its own. Short prompts tell nothing.

        Worked number: 1000 prompt tokens, first token after 0.22 s at 0.02 s a token: 0.0002 s a prompt token.
        """
        if prompt_tokens >= LONG_PROMPT_TOKENS:
            measured_s = max(0.0, first_s - unit_s) / prompt_tokens
            self.prompt_s = measured_s if self.prompt_s is None else self.prompt_s + PROMPT_WEIGHT * (measured_s - self.prompt_s)

    def rest(self, idle_s: float) -> None:
        """It was idle for `idle_s`: what was learned fades towards the prediction (without one: towards its own best), so that a card that
        was slow once is tried again.

        The ratio's logarithm fades by exp(-idle / 30 s). Worked number: predicted 0.02 s, learned 0.1 s: after 30 s idle
        0.02 x 5^(1/e) = 0.0362 s.
        """
        prior = self.seed_s if self.seed_s is not None else self._best_s
        if prior is not None and self.unit_s is not None and prior > 0:
            self.unit_s = prior * (self.unit_s / prior) ** math.exp(-idle_s / IDLE_S)
