"""How many users there are at a moment of a closed loop. Pure; locustfile.py hands it to locust's LoadTestShape."""

from __future__ import annotations

import math

SHAPES = ("constant", "step", "ramp", "spike", "sweep", "soak")
STEPS = 5
SPIKE_FROM, SPIKE_TO, SPIKE_FACTOR = 0.4, 0.6, 4
SOAK_RAMP = 0.05


def users_at(shape: str, moment_s: float, duration_s: float, users: int) -> int | None:
    """The users at `moment_s`, None when the run is over.

    1. constant: `users` from the start.
    2. step: a fifth of them more in each fifth of the time.
    3. ramp: from 1 to `users`, evenly over the whole time.
    4. spike: a quarter of them, but all of them from 40 % to 60 % of the time.
    5. sweep: 1, 2, 4, ... users, each for the same time, the last is `users`.
    6. soak: up to `users` in the first 5 % of the time, then level.
    Worked number: step, 10 users, 50 s: 2 users at 0 s, 6 at 25 s, 10 at 45 s.
    """
    if moment_s >= duration_s:
        return None
    part = moment_s / duration_s
    if shape == "constant":  # 1
        return users
    if shape == "step":  # 2
        return max(1, math.ceil(users * (math.floor(part * STEPS) + 1) / STEPS))
    if shape == "ramp":  # 3
        return max(1, math.ceil(users * part))
    if shape == "spike":  # 4
        return users if SPIKE_FROM <= part < SPIKE_TO else max(1, users // SPIKE_FACTOR)
    if shape == "sweep":  # 5
        stages = math.ceil(math.log2(users)) + 1 if users > 1 else 1
        return min(users, 1 << math.floor(part * stages))
    if shape == "soak":  # 6
        return max(1, math.ceil(users * min(1.0, part / SOAK_RAMP)))
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}")
