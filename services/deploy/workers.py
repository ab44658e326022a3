"""Services of placements: the worker that runs one engine on one card, and the one-shot that fetches its image's weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.deploy import images as table
from services.deploy.flags import flags_of
from services.deploy.limits import FETCH_BYTES, GRACE_ABOVE_DRAIN_S, TMP_BYTES, memory_limit, start_limit_s
from services.deploy.options import Options
from services.deploy.stack import After, Build, Gpu, Health, Image, Mount, Service, StackError, Tmpfs
from services.sizing.planfile import to_json
from services.sizing.types import Card, ImageWorkload, Placement, Plan
from services.sizing.units import GIB, MIB, gib

PORT, ENGINE_PORT = 9100, 9101
USER = "${RIGSERVE_USER:-10001:10001}"
PLAN_IN_CONTAINER = "/etc/rigserve/plan.yaml"
PROGRAM = "/opt/rigserve/.venv/bin/rigserve"
WEIGHTS = "${RIGSERVE_WEIGHTS:-weights}"
LOAD_LOCK = "load-lock"
CALIBRATION = "calibration"
HUB_TOKEN = "hub-token"  # noqa: S105 - a name; the file may be empty, it is read for gated models only
RENDER_GID = "${RENDER_GID:?the id of the group that owns the render node: stat -c %g /dev/dri/renderD128}"

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,80}", re.ASCII)
_RENDER_NODE = re.compile(r"/dev/dri/renderD\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rig:
    """A plan with what its services are made from. `argv`: each placement's engine command line, for people."""

    plan: Plan
    images: Mapping[str, table.Image]
    names: Mapping[str, str]
    argv: Mapping[str, Sequence[str]]
    options: Options

    def card(self, placement: Placement) -> Card:
        return next(card for card in self.plan.cards if card.id == placement.card_id)

    def image(self, environment: str) -> table.Image:
        return table.image_of(self.images, environment)


def fetch_name(environment: str) -> str:
    return f"fetch-{environment}"


def fetch_service(rig: Rig, environment: str) -> Service:
    """Fetches, checks and converts the weights of all placements of one engine environment, in that engine's image, and ends."""
    row = rig.image(environment)
    users = [placement for placement in rig.plan.placements if placement.choice.environment == environment]
    build = Build(row.dockerfile, tuple(row.build_args(rig.options.version).items()))
    return Service(
        name=fetch_name(environment), role="fetch", image=Image(row.reference(rig.options.version), True, build),
        notes=(f"Weights for {', '.join(dict.fromkeys(p.model_id for p in users))}: fetched, checked and converted once, then this ends.",),
        command=("fetch", "--plan", PLAN_IN_CONTAINER, "--weights-only", "--environment", environment),
        profile=_profile(rig.card(users[0])), user=USER, networks=("egress",), secrets=(HUB_TOKEN,),
        environment=(("HF_TOKEN_PATH", f"/run/secrets/{HUB_TOKEN}"), ("HF_ENDPOINT", "${HF_ENDPOINT:-}")),
        mounts=(Mount(WEIGHTS, "/weights", read_only=False),), configs=(("plan", PLAN_IN_CONTAINER),),
        tmpfs=(Tmpfs("/tmp", GIB, exec=True), Tmpfs("/var/cache/rigserve", TMP_BYTES)),  # noqa: S108 - in the container
        memory_bytes=FETCH_BYTES, memory_why="a download streams; a conversion holds a few tensors at a time", one_shot=True,
        labels=(("rigserve.environment", environment), ("rigserve.inputs", digest([users]))),
    )


def worker_service(rig: Rig, placement: Placement, before: str | None) -> Service:
    """One placement on its card. `before`: the worker that must be up first, so that no two models load at once.

    Raises StackError for a card that no container can be given, ImageError for an environment without an image.
    """
    card, row, name = rig.card(placement), rig.image(placement.choice.environment), rig.names[placement.id]
    memory, memory_why = memory_limit(placement, row.shm_bytes)
    start_s, start_why = start_limit_s(placement, card)
    drain_s = rig.options.drain_s
    gpu = gpu_of(card, row)
    return Service(
        name=name, role="worker", image=Image(row.reference(rig.options.version), True),
        notes=(*_notes(card, placement, row), f"Start-up timeout {start_s} s: {start_why}."),
        flags=flags_of(placement.choice.engine, rig.argv[placement.id]) if placement.id in rig.argv else (),
        command=(
            "worker", "--plan", PLAN_IN_CONTAINER, "--placement", placement.id, "--host", "0.0.0.0",  # noqa: S104 - of its own network
            "--port", str(PORT), "--engine-port", str(ENGINE_PORT), "--token-file", f"/run/secrets/{name}",
            "--load-lock", "/run/rigserve-load/lock", "--drain-s", str(drain_s),
        ),
        profile=_profile(card), user=USER, networks=("workers",), environment=_visible(gpu), gpu=gpu,
        groups=(RENDER_GID,) if gpu.nodes else (),
        mounts=(Mount(WEIGHTS, "/weights"), Mount(LOAD_LOCK, "/run/rigserve-load", read_only=False),
                Mount(CALIBRATION, "/var/lib/rigserve", read_only=False), *_kept_cache(row)),
        tmpfs=_tmpfs(row), configs=(("plan", PLAN_IN_CONTAINER),), secrets=(name,),
        health=Health((PROGRAM, "health", "worker"), start_s, start_interval_s=5),
        after=(After(fetch_name(row.environment), "done"), *((After(before, "healthy", required=False),) if before else ())),
        memory_bytes=memory, memory_why=memory_why, shm_bytes=row.shm_bytes, pids=1024, stop_grace_s=drain_s + GRACE_ABOVE_DRAIN_S,
        labels=_labels(rig, placement, card),
    )


def gpu_of(card: Card, row: table.Image) -> Gpu:
    """1. The simulated CPU card: nothing. 2. NVIDIA: its UUID, which survives a new enumeration; without one its index, when detected.
    3. AMD: its render node, and /dev/kfd where the image's engine is ROCm. 4. A card described with --cards alone: refused.
    """
    if card.vendor == "cpu":  # 1
        return Gpu()
    if card.vendor == "nvidia":  # 2
        if _UUID.fullmatch(card.id):
            return Gpu(nvidia_id=card.id)
        if card.index is not None and card.pci_address == card.id:
            return Gpu(nvidia_id=str(card.index))
    if card.vendor == "amd" and card.render_node and _RENDER_NODE.fullmatch(card.render_node):  # 3
        return Gpu(nodes=(card.render_node, *(("/dev/kfd",) if row.devices is table.Devices.KFD else ())))
    known = "its UUID (nvidia-smi -L)" if card.vendor == "nvidia" else "its render node"
    example = f' or write the UUID behind its name: --cards "{card.spec or card.name}#GPU-..."' if card.vendor == "nvidia" else ""
    raise StackError(  # 4
        f"card {card.id} ({card.name}) was described, not detected, so {known} is not known and no container can be given it; "
        f"make the plan on the rig itself with `rigserve plan --out plan.yaml`{example}"
    )


def _visible(gpu: Gpu) -> tuple[tuple[str, str], ...]:
    """NVIDIA's base images say `all` here. The docker engine adds the reserved card behind that, and which of the two counts is the
    runtime's secret: so the variable of the image is replaced."""
    return (("NVIDIA_VISIBLE_DEVICES", gpu.nvidia_id),) if gpu.nvidia_id else ()


def digest(value: object) -> str:
    """Twelve hex digits of what a container is made from: a container whose inputs have changed is then made anew."""
    return hashlib.sha256(json.dumps(to_json(value), sort_keys=True).encode()).hexdigest()[:12]


def _profile(card: Card) -> str:
    return "cpu" if card.vendor == "cpu" else "gpu"


def _notes(card: Card, placement: Placement, row: table.Image) -> tuple[str, ...]:
    choice, report, workload = placement.choice, placement.report, placement.workload
    size = (f"{workload.width_px}×{workload.height_px} px × {workload.batch}" if isinstance(workload, ImageWorkload)
            else f"{workload.context_tokens} tokens × {workload.sequences} sequences")
    decided = [f"dtype {choice.dtype}", f"KV cache {choice.kv_dtype}" if report.bill and report.bill.kv_cache_bytes else "",
               f"attention {choice.attention_backend}" if choice.attention_backend else "", "eager" if choice.enforce_eager else "",
               f"offload {choice.offload}" if choice.offload != "none" else "", "VAE in tiles" if choice.vae_tiling else ""]
    link = f", PCIe gen {card.link.generation or '?'} x{card.link.width or '?'}" if card.link else ""
    return (
        f"{card.name}{link}, {gib(card.total_bytes)}{'; simulated: true, no GPU' if card.simulated else ''}",
        f"{placement.model_id} {report.quant or ''} by {choice.engine.value}: {size}; {', '.join(word for word in decided if word)}",
        report.reason, f"Image for: {row.cards}.", *choice.reasons,
    )


def _kept_cache(row: table.Image) -> tuple[Mount, ...]:
    return (Mount(cache_volume(row.environment), "/var/cache/rigserve", read_only=False),) if row.cache_kept else ()


def cache_volume(environment: str) -> str:
    return f"cache-{environment}"


def _tmpfs(row: table.Image) -> tuple[Tmpfs, ...]:
    tmp = Tmpfs("/tmp", GIB if row.tmp_exec else TMP_BYTES, exec=row.tmp_exec)  # noqa: S108 - in the container
    cache = () if row.cache_kept else (Tmpfs("/var/cache/rigserve", TMP_BYTES),)
    return (tmp, Tmpfs("/run/rigserve", 16 * MIB), *cache)


def _labels(rig: Rig, placement: Placement, card: Card) -> tuple[tuple[str, str], ...]:
    together = [p for p in rig.plan.placements if p.card_id == card.id]  # a worker looks at its neighbours on the card too
    return (
        ("rigserve.placement", placement.id), ("rigserve.model", placement.model_id), ("rigserve.card", card.id),
        ("rigserve.simulated", "true" if card.simulated else "false"), ("rigserve.inputs", digest([card, placement, together])),
    )
