"""`rigserve probe`: measure what NVIDIA cards really do, and tell a throttled mining card from an unlocked one."""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import fields
from pathlib import Path

import click

from services.cli.bars import progress
from services.cli.columns import aligned
from services.cli.output import gib, json_option, print_json
from services.cli.profiles import save_profiles
from services.hardware import probe_cuda
from services.hardware.detect import detect
from services.provision import environments
from services.sizing.cards import spec_of
from services.sizing.catalogue import load_catalogue
from services.sizing.engines import EngineRefusal, choose
from services.sizing.planfile import to_json
from services.sizing.profile import ProbeFigures, Profile, profile_of
from services.sizing.types import Card, Host

MODEL = "digits-sd"  # any image model will do: the question is which environment its engine has on a card
TIMEOUT_S = 180.0
BUSY_SHARE = 0.2
_RATES = (
    ("fp32 FMA", "fp32_fma_flops", "TFLOP/s"), ("fp32 mul+add", "fp32_mul_add_flops", "TFLOP/s"), ("half2 FMA", "hfma2_flops", "TFLOP/s"),
    ("half matrices", "hgemm_flops", "TFLOP/s"), ("int8 dp4a", "dp4a_ops_per_s", "TOP/s"),
)  # fmt: skip


class ProbeError(Exception):
    """One card could not be measured; the message is a sentence."""


@click.command(epilog="Example: rigserve probe --save")
@click.option("--card", "ids", multiple=True, help="Only the card with this UUID (see `rigserve detect`); may be repeated.")
@click.option("--save", is_flag=True, help="Keep the profiles, so that detect, fit and plan use them.")
@json_option
def probe(ids: tuple[str, ...], save: bool, as_json: bool) -> None:
    """Measure arithmetic, memory and link of NVIDIA cards for some seconds each, and decide whether a CMP card is at stock or unlocked.
    Stop what runs on the cards first. Installs the image engine's environment when it is not there.

    Exit code 0: at least one card was measured. 1: none was.
    """
    found = detect()
    cards = _asked(tuple(card for card in found.cards if card.vendor == "nvidia"), ids, found.notes)
    results: dict[str, tuple[ProbeFigures, Profile]] = {}
    failed: dict[str, str] = {}
    for card in cards:
        try:
            figures = measure(card, found.host)
        except ProbeError as error:
            failed[card.id] = str(error)
            continue
        results[card.id] = (figures, profile_of(figures, spec_of(card)))
    written = save_profiles(results) if save and results else None
    if as_json:
        measured = [{"card_id": card_id, "figures": to_json(f), "profile": to_json(p)} for card_id, (f, p) in results.items()]
        print_json(measured + [{"card_id": card_id, "error": sentence} for card_id, sentence in failed.items()])
    else:
        _show(cards, results, failed)
        if results:
            click.echo(f"saved in {written}" if written else "nothing saved: add --save so that plans use it")
    if not results:
        raise SystemExit(1)


def _asked(cards: tuple[Card, ...], ids: tuple[str, ...], notes: tuple[str, ...]) -> tuple[Card, ...]:
    if not cards:
        raise click.ClickException("No NVIDIA card answers on this machine, and the micro-benchmark needs CUDA. " + " ".join(notes))
    unknown = [card_id for card_id in ids if card_id not in {card.id for card in cards}]
    if unknown:
        raise click.ClickException(f"There is no card {unknown[0]}; there are: {', '.join(card.id for card in cards)}.")
    return tuple(card for card in cards if not ids or card.id in ids)


def measure(card: Card, host: Host) -> ProbeFigures:
    """Run the script on one card in the environment that its image engine would have. Raises ProbeError."""
    model = load_catalogue().get(MODEL)
    choice = choose(card, spec_of(card), host, model, model.variants[0])
    if isinstance(choice, EngineRefusal):
        raise ProbeError(choice.reason)
    with progress(f"engine environment {choice.environment}") as sink:
        python = environments.ensure(choice.environment, sink)
    return _run(python, card)


def _run(python: Path, card: Card) -> ProbeFigures:
    command = [str(python), "-I", str(Path(probe_cuda.__file__))]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": card.id, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"The measurement took longer than {TIMEOUT_S:.0f} s and was stopped: is the card busy, or hung?") from error
    except OSError as error:
        raise ProbeError(f"{python} can't be started: {error.strerror}.") from error
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode != 0:
        raise ProbeError(f"The measurement ended with code {done.returncode}: {last[:300]}")
    return parse_figures(done.stdout)


def parse_figures(text: str) -> ProbeFigures:
    """The script's last line. Raises ProbeError for anything but figures that a card can have."""
    try:
        raw = json.loads((text.strip().splitlines() or [""])[-1])
    except ValueError as error:
        raise ProbeError("The measurement printed no figures.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or set(raw) - {field.name for field in fields(ProbeFigures)}:
        raise ProbeError("The measurement printed something else than figures.")
    for name, value in raw.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if name != "name" and value is not None and not number:
            raise ProbeError(f"The measurement printed {name} = {value!r}, which is no rate.")
    return ProbeFigures(**raw)


def _show(cards: tuple[Card, ...], results: dict[str, tuple[ProbeFigures, Profile]], failed: dict[str, str]) -> None:
    for card in cards:
        click.echo(f"{card.name} ({card.id})")
        if card.id in failed:
            click.echo(f"  not measured: {failed[card.id]}")
            continue
        figures, profile = results[card.id]
        if card.free_bytes is not None and card.free_bytes < (1 - BUSY_SHARE) * card.total_bytes:
            click.echo("  something runs on this card: the figures are lower than they could be")
        click.echo("\n".join(f"  {line}" for line in aligned(figure_rows(figures))))
        click.echo(f"  profile: {profile.profile or 'none'}")
        for reason in profile.reasons:
            click.echo(f"    because: {reason}")


def figure_rows(figures: ProbeFigures) -> list[tuple[str, str]]:
    """Label and value of every figure; unknown where it could not be measured."""
    rows = [("memory", gib(figures.total_bytes))]
    for label, name, unit in _RATES:
        value: float | None = getattr(figures, name)
        rows.append((label, "unknown" if value is None else f"{value / 1e12:.2f} {unit}"))
    for label, speed in (("memory bandwidth", figures.bandwidth_bytes_per_s), ("host to card", figures.host_to_card_bytes_per_s)):
        rows.append((label, "unknown" if speed is None else f"{speed / 1e9:.2f} GB/s"))
    return rows
