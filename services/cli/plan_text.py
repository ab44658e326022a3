"""Predicted speeds and the explanation of a plan as text."""

from __future__ import annotations

from services.sizing.plan_explain import Choice, Explanation
from services.sizing.types import Speed


def speed_text(speed: Speed | None) -> str:
    """`, ~62.8 tok/s predicted`, or nothing where no figure has a source."""
    if speed is not None and speed.decode_tok_s is not None:
        return f", ~{speed.decode_tok_s:.1f} tok/s predicted"
    if speed is not None and speed.images_per_min is not None:
        return f", ~{speed.images_per_min:.1f} images/min predicted"
    return ""


def explanation_text(explanation: Explanation | None) -> str:
    """The rule, the solver's word, and for each kind of choice its points beside those of the runner-up."""
    if explanation is None:
        return "\nwhy: the built-in models of a machine without GPUs; nothing was weighed. --goal quality weighs the whole catalogue."
    bound = explanation.bound_points
    most = "a better one may exist" if bound is None else f"no plan can have more than {bound:.1f}"
    sure = "optimal" if explanation.complete else f"stopped at its bound; {most}"
    host = f", {explanation.host_used_mib} of {explanation.host_mib} MiB of host RAM used" if explanation.host_mib is not None else ""
    lines = ["", f"why: {explanation.goal}. {explanation.rule}", f"  {explanation.solver}: {explanation.points:.2f} points, {sure}{host}"]
    for chosen in explanation.chosen:
        ids = f"{', '.join(chosen.card_ids[:4])}{' ...' if len(chosen.card_ids) > 4 else ''}"
        lines += [f"  {len(chosen.card_ids)} x {chosen.card_name} ({ids})", _choice_text("chosen   ", chosen.choice)]
        if chosen.runner_up is not None:
            lines.append(_choice_text("runner-up", chosen.runner_up))
        lines.append(f"    not taken because: {chosen.why}" if chosen.runner_up else f"    {chosen.why}")
    return "\n".join(lines)


def _choice_text(label: str, choice: Choice) -> str:
    terms = "; ".join(f"{term.name} {term.points:+.4g}{f' ({term.words})' if term.words else ''}" for term in choice.terms)
    return f"    {label} {' + '.join(choice.models)}: {choice.points:.4g} = {terms}"
