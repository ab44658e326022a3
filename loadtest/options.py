"""The options that say what a load is, and the Spec made of them: everything is checked here, before the first request."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from loadtest.arrivals import KINDS, Arrival, TraceError, read_trace
from loadtest.lengths import read_lengths
from loadtest.profiles import PROFILES, read_weights, usable
from loadtest.shapes import SHAPES
from loadtest.spec import DEFAULT_URL, Spec, base_url
from loadtest.target import TargetError, lacks, look_at
from loadtest.workload import COMPLETIONS, EMBEDDINGS, read_prompts

LARGEST_FILE_BYTES = 64 * 2**20
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def parsed(read: Callable[[str], Any]) -> Callback:
    """A click callback whose ValueError is a sentence for the user; several values become a tuple."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            return tuple(read(one) for one in value) if isinstance(value, tuple) else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def number_list(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (-1.0,)
    if any(not 0 < value < 1e6 for value in found):
        raise ValueError(f"{text!r} is no list of numbers above 0, such as 1,2,4")
    return found


def _sizes(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for size in found:
        if len(size.split("x")) != 2 or not all(side.isdigit() and 0 < int(side) <= 65536 for side in size.split("x")):
            raise ValueError(f"{size!r} is no image size, such as 512x512")
    return found


def _length(text: str) -> str:
    read_lengths(text)
    return text


def _weights(text: str) -> dict[str, int] | None:
    return read_weights(text) if text else None


def _text_of(text: str) -> str | None:
    """A file's text; None for no file."""
    if not text:
        return None
    path = Path(text)
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ValueError(f"{text} is larger than {LARGEST_FILE_BYTES // 2**20} MiB")
        return path.read_text(encoding="utf8")
    except UnicodeDecodeError:
        raise ValueError(f"{text} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{text} can't be read: {error.strerror or error}") from None


_OPTIONS = (
    click.option("--url", default=DEFAULT_URL, show_default=True, callback=parsed(base_url), help="Any OpenAI-compatible server."),
    click.option("--model", "chat_model", default="", help="Default: the first one that the server lists."),
    click.option("--image-model", default="", help="Default: the first image model, if the server lists one and --model is not given."),
    click.option("--api-key-file", default="", help="File with the API key."),
    click.option("--profile", type=click.Choice(list(PROFILES)), default="ci", show_default=True, help="What is asked."),
    click.option("--weights", default="", callback=parsed(_weights), help="Another mix, such as chat_stream=3,image=1."),
    click.option("--duration", "duration_s", type=click.FloatRange(1, 7 * 86400), default=60.0, show_default=True, help="Seconds."),
    click.option("--warmup", "warmup_s", type=click.FloatRange(0), help="Seconds that are not measured. Default: a tenth, at most 5."),
    click.option("--drain", "drain_s", type=click.FloatRange(0, 3600), default=30.0, show_default=True, help="Seconds for last answers."),
    click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=300.0, show_default=True, help="Seconds an answer."),
    click.option("--users", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Closed loop: that many at once."),
    click.option("--shape", type=click.Choice(list(SHAPES)), default="constant", show_default=True, help="Closed loop: users over time."),
    click.option("--think", "think_s", type=click.FloatRange(0, 3600), default=0.0, help="Closed loop: seconds before the next request."),
    click.option("--rate", "rate_rps", type=click.FloatRange(0, 100_000, min_open=True), help="Open loop: requests/s, come what may."),
    click.option("--arrivals", type=click.Choice(KINDS[:3]), default="poisson", show_default=True, help="Open loop: how they come."),
    click.option("--cv", type=click.FloatRange(0, 10), default=1.0, show_default=True, help="Gamma: the gaps' deviation over their mean."),
    click.option("--trace", default="", callback=parsed(_text_of), help="Open loop: CSV with `timestamp` (s), perhaps token columns."),
    click.option("--trace-speed", type=click.FloatRange(0, 1000, min_open=True), default=1.0, help="2 replays twice as fast."),
    click.option("--max-in-flight", type=click.IntRange(1, 100_000), default=512, show_default=True, help="Open loop: more are skipped."),
    click.option("--seed", type=click.IntRange(0), help="Default: a new one, so that nothing comes from an earlier run's cache."),
    click.option("--prompt-words", default="lognormal:64:0.5", show_default=True, callback=parsed(_length), help="Or fixed, uniform."),
    click.option("--output-tokens", default="fixed:64", show_default=True, callback=parsed(_length), help="The same, for max_tokens."),
    click.option("--prefix-share", type=click.FloatRange(0, 1), help="Share of each prompt that is one of a few common beginnings."),
    click.option("--prefix-groups", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many common beginnings."),
    click.option("--ignore-eos", is_flag=True, help="Ask for equal lengths (vLLM's ignore_eos, min_tokens)."),
    click.option("--prompts", default="", callback=parsed(_text_of), help="Prompts of a file: one a line, JSON lines, or ShareGPT."),
    click.option("--image-sizes", default="", callback=parsed(_sizes), help="Such as 256x256,512x512."),
    click.option("--image-steps", default="", callback=parsed(number_list), help="Such as 4,20."),
    click.option("--image-counts", default="1", callback=parsed(number_list), help="Images of one request."),
    click.option("--wont-fit-model", "wont_fit_models", multiple=True, help="A model that fits no card there. May be repeated."),
)


def load_options(command: Callable[..., None]) -> Callable[..., None]:
    """All of them, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def spec_of(given: dict[str, Any]) -> Spec:
    """The Spec; asks the server what it serves. Raises click.UsageError or TargetError, each with a sentence."""
    given = dict(given)
    duration_s, profile = given["duration_s"], PROFILES[given["profile"]]
    warmup_s = given["warmup_s"] if given["warmup_s"] is not None else min(5.0, duration_s / 10)
    if warmup_s >= duration_s:
        raise click.UsageError("--warmup must be shorter than --duration")
    trace_text, speed, weights = given.pop("trace"), given.pop("trace_speed"), given.pop("weights")
    if trace_text is not None and given["rate_rps"] is not None:
        raise click.UsageError("--trace has its own times; leave --rate away")
    key_file = given["api_key_file"] or None
    target = look_at(given["url"], key_file, given["chat_model"] or None, given["image_model"] or None)
    mix = usable(profile, target.chat_model, target.image_model, weights)
    for kind, path in (("completions", COMPLETIONS), ("embeddings", EMBEDDINGS)):
        # Chat alone is what every server has; a mix that was asked for by --weights is sent as it is.
        if kind in mix and weights is None and len(mix) > 1 and lacks(given["url"], path, key_file):
            click.echo(f"{given['url']} has no {path}: left out")
            del mix[kind]
    if not mix:
        raise TargetError(f"{given['url']} serves no model for the profile {given['profile']}.")
    steps, counts = (tuple(int(value) for value in given[name]) for name in ("image_steps", "image_counts"))
    prompts = given.pop("prompts")
    share = given["prefix_share"] if given["prefix_share"] is not None else profile.prefix_share
    try:
        read = {"trace": _trace(trace_text, duration_s, speed), "prompts": read_prompts(prompts) if prompts is not None else ()}
    except (TraceError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    changed = {
        "chat_model": target.chat_model, "image_model": target.image_model,
        "api_key_file": str(Path(key_file).resolve()) if key_file else None,
        "weights": mix, "warmup_s": warmup_s, "prefix_share": share, "image_steps": steps, "image_counts": counts or (1,),
        "seed": given["seed"] if given["seed"] is not None else secrets.randbelow(2**31),
    }  # fmt: skip
    return Spec(**given | changed | read)


def _trace(text: str | None, duration_s: float, speed: float) -> tuple[Arrival, ...]:
    return tuple(read_trace(text.splitlines(), duration_s, speed)) if text is not None else ()
