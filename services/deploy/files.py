"""Stack -> the files of its folder, as text by relative path. Secrets are not among them: they are made where they are needed."""

from __future__ import annotations

import json
from dataclasses import dataclass

from services.deploy.compose import compose_text
from services.deploy.names import service_names
from services.deploy.stack import Stack
from services.deploy.workers import ENGINE_PORT, PORT
from services.sizing.types import Plan


@dataclass(frozen=True, slots=True)
class Here:
    """What only the machine and its owner know. `user`: uid:gid of every container of ours. `source`: the checkout that images are built
    from, as seen from the folder. `render_gid`: the group of the AMD render nodes, None where there are none. `weights`: a folder of the
    host instead of a volume. `profiles`: those beside gpu and cpu. `others`: further lines that the owner wrote into .env.
    """

    user: str = "10001:10001"
    bind: str = "127.0.0.1"
    port: int = 8000
    source: str = "."
    render_gid: int | None = None
    weights: str | None = None
    profiles: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def stack_files(stack: Stack, plan: Plan, plan_text: str, here: Here) -> dict[str, str]:
    """compose.yaml, plan.yaml (the same text), endpoints.json and .env."""
    return {
        "compose.yaml": compose_text(stack),
        "plan.yaml": plan_text,
        "endpoints.json": endpoints_text(plan),
        ".env": env_text(stack, here),
    }


def endpoints_text(plan: Plan) -> str:
    """Where the gateway finds each placement: its service's name is its DNS name."""
    names = service_names(placement.id for placement in plan.placements)
    rows = [
        {"placement_id": ident, "worker_url": f"http://{name}:{PORT}", "engine_url": f"http://{name}:{ENGINE_PORT}",
         "token_file": f"/run/secrets/{name}"}
        for ident, name in names.items()
    ]
    return json.dumps({"endpoints": rows}, indent=2) + "\n"


def env_text(stack: Stack, here: Here) -> str:
    """What compose fills into the file. Nothing secret."""
    profiles = [*sorted({service.profile for service in stack.of("worker") if service.profile}), *here.profiles]
    lines = [
        "# Read by docker compose beside compose.yaml. Nothing secret.",
        "# Add monitoring or loadtest behind a comma to have those too.",
        f"COMPOSE_PROFILES={','.join(profiles)}",
        f"RIGSERVE_USER={here.user}",
        "# Where the gateway is published. Beyond loopback anyone who reaches it can use it.",
        f"RIGSERVE_BIND={here.bind}",
        f"RIGSERVE_PORT={here.port}",
        f"RIGSERVE_SOURCE={_quoted(here.source)}",
    ]
    if here.weights:
        lines.append(f"RIGSERVE_WEIGHTS={_quoted(here.weights)}")
    if here.render_gid is not None:
        lines.append(f"RENDER_GID={here.render_gid}")
    return "\n".join([*lines, *here.others]) + "\n"


def _quoted(path: str) -> str:
    """Single quotes: compose takes what is in them as it is."""
    return path if all(c.isalnum() or c in "/._-+" for c in path) else "'" + path.replace("'", "\\'") + "'"
