"""The advice as one self-contained page: inline charts, light and dark, nothing fetched and nothing run."""

from __future__ import annotations

from html import escape

from services.cli.advise_words import cost_words, money, number, speed_words
from services.cli.output import gib
from services.cli.svg_bars import Bar, bars
from services.sizing.advise import Advice, CardAdvice, Offer, RigTotal

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1d2126; --soft: #626a73; --line: #e3e0d8;
  --chat: #2f6f8f; --image: #b4612d; --hash: #8a8577; --cost: #5d7a3a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e8e6e1; --soft: #9aa3ac; --line: #30363c;
  --chat: #6db3d3; --image: #e39a67; --hash: #8f8a7c; --cost: #a3c178; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 0; }
h3 { font-size: 15px; margin: 22px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 6px 0; } .soft { color: var(--soft); } .small { font-size: 14px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 24px; margin-top: 24px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 20px; margin-top: 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 24px; color: var(--soft); margin-top: 4px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 8px 32px; }
.bars { width: 100%; height: auto; display: block; } .bars text { font-size: 14px; fill: var(--ink); }
.bars .value { font-variant-numeric: tabular-nums; } .bars .unknown { fill: var(--soft); font-style: italic; }
.axis { stroke: var(--line); } .bar { fill: var(--chat); } .bar.image { fill: var(--image); } .bar.hash { fill: var(--hash); }
.bar.cost { fill: var(--cost); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; margin-top: 8px; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } td { font-variant-numeric: tabular-nums; }
td:nth-child(-n+5) { white-space: nowrap; } sup { line-height: 0; } a { color: var(--soft); }
ol { padding-left: 22px; } li { margin: 4px 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 24px 14px 48px; } section { padding: 16px; } .charts { grid-template-columns: 1fr; } }
@media print { section { break-inside: avoid; } }
"""


def report_html(advice: Advice) -> str:
    """The page. All text goes through `escape`; a policy in its head forbids everything but its own style."""
    notes: dict[str, int] = {}
    cards = [_card(card, advice.tariff.currency, notes) for card in advice.cards]
    body = [_head(advice), _now_and_then(advice), *cards, _footnotes(advice, notes)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>What this rig could serve</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(advice: Advice) -> str:
    kinds = ", ".join(f"{len(card.card_ids)} × {card.card_name}{' (simulated)' if card.simulated else ''}" for card in advice.cards)
    price = f"Electricity at {advice.tariff.per_kwh:g} {advice.tariff.currency} a kWh."
    blocks = "".join(_total(total, advice.tariff.currency) for total in advice.totals)
    return (
        f"<h1>What this rig could serve</h1><p>{escape(kinds)}</p>"
        f'<p class="soft">Every speed is predicted, not measured. {escape(price)}</p>{blocks}'
    )


def _total(total: RigTotal, currency: str) -> str:
    tiles = (
        (number(total.decode_tok_s, 0), "tokens a second"),
        (number(total.images_per_min), "images a minute"),
        (f"{number(total.watts, 0)} W" if total.watts else "unknown", f"at full power, {money(total.cost_per_day, currency)} a day"),
        (money(total.cost_per_million_tokens, currency), "electricity of a million tokens"),
    )
    left_out = ""
    if total.unknown:
        left_out = f" {total.unknown} of {total.placements} placements have no predicted speed and are not in the sums."
    drawn = "".join(f'<div class="tile"><b>{escape(value)}</b><span class="soft">{escape(label)}</span></div>' for value, label in tiles)
    return (
        f'<section><h2>The whole rig, planned for {escape(total.goal)}</h2><div class="tiles">{drawn}</div>'
        f'<p class="soft small">{escape(", ".join(total.models))}.{escape(left_out)}</p></section>'
    )


def _now_and_then(advice: Advice) -> str:
    """For each kind of card the hash rate it used to have beside what its best chat model does."""
    then, now, used = [], [], []
    for card in advice.cards:
        rate = max(card.hashrate_mh_s) if card.hashrate_mh_s else None
        then.append(Bar(card.card_name, rate, card.hashrate.partition(" MH/s")[0] if card.hashrate else "unknown", "hash"))
        best = next((offer for offer in card.offers if offer.work == "chat"), None)
        now.append(Bar(card.card_name, best.decode_tok_s if best else None, number(best.decode_tok_s) if best else "nothing fits"))
        used += [f"{card.card_name}: {best.model_id} {best.quant}"] if best else []
    return (
        f'<section><h2>Then and now, one card of each kind</h2><div class="charts">{_chart("Then: Ethash, MH/s", then)}'
        f'{_chart("Now: best chat model, predicted tok/s", now)}</div><p class="soft small">{escape("; ".join(used))}</p></section>'
    )


def _card(card: CardAdvice, currency: str, notes: dict[str, int]) -> str:
    facts = _facts(card, notes)
    chats = [Bar(o.model_id, o.decode_tok_s, number(o.decode_tok_s)) for o in card.offers if o.work.startswith("chat")]
    images = [Bar(o.model_id, o.images_per_min, number(o.images_per_min), "image") for o in card.offers if o.work == "image"]
    charts = _chart("Chat, predicted tok/s", chats) + _chart("Images, predicted per minute", images)
    rows = "".join(_row(offer, currency, notes) for offer in card.offers)
    heads = "".join(f"<th>{head}</th>" for head in ("Work", "Model", "Variant", "Fits", "Predicted speed", "Electricity"))
    table = f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return (
        f'<section><h2>{len(card.card_ids)} × {escape(card.card_name)}</h2><div class="facts">{facts}</div>'
        f'<div class="charts">{charts}</div>{table if rows else "<p>Nothing of the catalogue fits.</p>"}</section>'
    )


def _facts(card: CardAdvice, notes: dict[str, int]) -> str:
    watts, mined = "power unknown", "hash rate unknown"
    if card.power.watts is not None:
        watts = f"{card.power.watts:.0f} W {_mark(notes, f'Watts of {card.card_name}: {card.power.basis}')}"
    if card.hashrate is not None:
        mined = f"mined {escape(card.hashrate)} {_mark(notes, f'Hash rate of {card.card_name}: {card.sources}')}"
    simulated = ["simulated: true"] if card.simulated else []
    return "".join(f"<span>{fact}</span>" for fact in (gib(card.total_bytes), watts, mined, f"{card.servable} models fit", *simulated))


def _chart(title: str, rows: list[Bar]) -> str:
    return f"<div><h3>{escape(title)}</h3>{bars(title, rows)}</div>" if rows else ""


def _row(offer: Offer, currency: str, notes: dict[str, int]) -> str:
    mark = _mark(notes, offer.basis) if offer.basis else ""
    cells = (offer.work, offer.model_id, f"{offer.quant} by {offer.engine}", f"{offer.verdict.value}, {gib(offer.need_bytes)}")
    plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr>{plain}<td>{escape(speed_words(offer))} {mark}</td><td>{escape(cost_words(offer, currency))}</td></tr>"


def _footnotes(advice: Advice, notes: dict[str, int]) -> str:
    said = "".join(f"<p>{escape(note)}</p>" for note in advice.notes)
    listed = "".join(f'<li id="n{place}">{escape(text)}</li>' for text, place in notes.items())
    return f'<section class="small"><h2>What these figures rest on</h2>{said}<ol>{listed}</ol></section>'


def _mark(notes: dict[str, int], text: str) -> str:
    place = notes.setdefault(text, len(notes) + 1)
    return f'<a href="#n{place}"><sup>{place}</sup></a>'
