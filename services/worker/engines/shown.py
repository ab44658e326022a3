"""The engine command lines of a plan as they will be in containers, as JSON: `python -m services.worker.engines.shown < question.json`.

For people and for generated files; nothing is started and no weights are needed. What only the moment of the start knows (how much of
the card is free) is left out, so that a figure that depends on it is the plan's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path, PurePosixPath

from services.sizing.catalogue import Catalogue, CatalogueError, UnknownModelError, load_catalogue
from services.sizing.planfile import PlanFileError, parse_plan
from services.sizing.types import ModelSpec, Placement, Plan
from services.worker.engines import launch
from services.worker.engines.order import LaunchError, Order

INSTALLED = Path("/opt/rigserve")
WEIGHTS = Path("/weights/weights")
STATE = Path("/run/rigserve")


def shown(plan: Plan, catalogue: Catalogue, secrets: dict[str, str]) -> dict[str, list[str]]:
    """Placement id -> command line. `secrets`: placement id -> name of its secret. Raises LaunchError for one that can't be started."""
    cards = {card.id: card for card in plan.cards}
    found = {}
    for placement in plan.placements:
        model = _model(catalogue, placement)
        order = Order(
            placement=placement, card=cards[placement.card_id], host=plan.host, model=model, weights=_weights(placement, model),
            engine_host="0.0.0.0", engine_port=9101, token="", token_file=Path("/run/secrets") / secrets[placement.id],  # noqa: S104
            state_dir=STATE, project=INSTALLED, engine_python=INSTALLED / "envs" / placement.choice.environment / "bin" / "python",
        )
        found[placement.id] = [_installed(word) for word in launch(order).argv]
    return found


def _installed(word: str) -> str:
    """Our own files, wherever this program lies, are under /opt/rigserve in an image."""
    here = str(Path(__file__).parents[3])
    return str(INSTALLED) + word.removeprefix(here) if word.startswith(f"{here}/services/") else word


def _model(catalogue: Catalogue, placement: Placement) -> ModelSpec | None:
    try:
        return catalogue.get(placement.model_id)
    except UnknownModelError:
        return None


def _weights(placement: Placement, model: ModelSpec | None) -> Path:
    """Where the weights will lie: the variant's folder, or its first .gguf file; what is in the project's source is in the image."""
    folder = WEIGHTS / placement.model_id / placement.variant_id / "files"
    variant = next((v for v in model.variants if v.id == placement.variant_id), None) if model else None
    if variant is not None and variant.source.kind == "repo":
        return INSTALLED / (variant.source.path or "")
    if variant is not None and variant.format == "gguf":
        files = sorted(name for name in variant.source.files if name.endswith(".gguf"))
        return folder / (PurePosixPath(files[0]).name if files else "model.gguf")
    return folder


def main() -> int:
    """On standard input: {"plan": the text of a plan file, "secrets": {placement id: name of its secret}}."""
    question = json.load(sys.stdin)
    try:
        lines = shown(parse_plan(question["plan"]), load_catalogue(), question["secrets"])
    except (PlanFileError, CatalogueError, LaunchError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
