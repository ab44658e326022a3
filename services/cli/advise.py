"""`rigserve advise`: what cards could earn their keep with, as text, JSON, or a report to read in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from services.cli.advise_html import report_html
from services.cli.advise_words import cost_words, number, speed_words
from services.cli.columns import aligned
from services.cli.output import OutputFile, gib, json_option, print_json
from services.cli.rig import rig_of_this_machine
from services.sizing.advise import Advice, CardAdvice, Offer, RigTotal, advise
from services.sizing.catalogue import load_catalogue
from services.sizing.economics import Tariff


@click.command("advise", epilog='Example: rigserve advise --cards "P106-100:6,RTX 3060 Ti:2" --tariff 0.30 --html report.html')
@click.option("--cards", help='These cards instead of this machine\'s, as "P106-100:6,RTX 3060 Ti:2".')
@click.option("--host-ram", help="Host memory to plan for, as 8GiB. Default: this machine's.")
@click.option("--tariff", type=float, default=0.25, show_default=True, help="Price of a kilowatt-hour; the default is an example.")
@click.option("--currency", default="EUR", show_default=True, help="Letters or sign of the tariff's currency.")
@click.option("--html", "html", type=OutputFile(), help="Write a report with charts to this file.")
@json_option
def advise_command(cards: str | None, host_ram: str | None, tariff: float, currency: str, html: Path | None, as_json: bool) -> None:
    """Say what cards could serve, how fast, and what it costs in electricity, beside the hash rate they used to have. All speeds are
    predicted, each with its basis; what no source supports is unknown.

    Exit code 0: answered. 1: the report can't be written. 2: the question can't be understood.
    """
    rig = rig_of_this_machine(cards, None, host_ram)
    advice = advise(rig.host, rig.cards, load_catalogue(), Tariff(tariff, currency))
    advice = replace(advice, notes=(*advice.notes, *rig.notes))
    if html is not None:
        try:
            html.write_text(report_html(advice), encoding="utf8")
        except OSError as error:
            raise click.ClickException(f"{html} can't be written: {error.strerror}") from error
    if as_json:
        print_json(advice)
        return
    click.echo(advice_text(advice))
    if html is not None:
        click.echo(f"written to {html}")


def advice_text(advice: Advice) -> str:
    """The whole advice as lines: a block for each kind of card, the rig's totals, and what the figures rest on."""
    notes: dict[str, int] = {}
    lines = [f"Electricity at {advice.tariff.per_kwh:g} {advice.tariff.currency} a kWh. All speeds are predicted; [n] says from what."]
    for card in advice.cards:
        lines += ["", *_card_lines(card, advice.tariff.currency, notes)]
    for total in advice.totals:
        lines += ["", _total_line(total, advice.tariff.currency)]
    lines += ["", *(f"note: {note}" for note in advice.notes), *(f"[{number}] {basis}" for basis, number in notes.items())]
    return "\n".join(lines)


def _card_lines(card: CardAdvice, currency: str, notes: dict[str, int]) -> list[str]:
    label = "   simulated: true" if card.simulated else ""
    watts = f"{card.power.watts:.0f} W [{_note(notes, f'Watts: {card.power.basis}')}]" if card.power.watts is not None else "unknown power"
    mined = "unknown hash rate"
    if card.hashrate is not None:
        mined = f"mined {card.hashrate} [{_note(notes, f'Hash rate of {card.card_name}: {card.sources}')}]"
    lines = [f"{len(card.card_ids)} x {card.card_name}: {gib(card.total_bytes)}, {watts}, {mined}, {card.servable} models fit{label}"]
    if not card.offers:
        return [*lines, "  nothing of the catalogue fits"]
    rows = [("work", "model", "variant", "predicted speed", f"{currency} of electricity")]
    for offer in card.offers:
        variant = f"{offer.quant} by {offer.engine}, {offer.verdict.value}"
        rows.append((offer.work, offer.model_id, variant, _speed(offer, notes), cost_words(offer, currency)))
    return [*lines, *(f"  {line}" for line in aligned(rows))]


def _note(notes: dict[str, int], text: str) -> int:
    return notes.setdefault(text, len(notes) + 1)


def _speed(offer: Offer, notes: dict[str, int]) -> str:
    return f"{speed_words(offer)} [{_note(notes, offer.basis)}]" if offer.basis else speed_words(offer)


def _total_line(total: RigTotal, currency: str) -> str:
    speed = f"{number(total.decode_tok_s, 0)} tok/s"
    images = f", {total.images_per_min:.1f} images/min" if total.images_per_min is not None else ""
    watts = f"{total.watts:.0f} W, {total.cost_per_day:.2f} {currency} a day" if total.watts and total.cost_per_day else "unknown power"
    cost = f", {total.cost_per_million_tokens:.3g} {currency} a million tokens" if total.cost_per_million_tokens is not None else ""
    unknown = f" ({total.unknown} of {total.placements} placements have no predicted speed and are not in the sum)" if total.unknown else ""
    return f"whole rig, goal {total.goal}: {speed}{images} predicted, {watts}{cost}{unknown}\n  {', '.join(total.models)}"
