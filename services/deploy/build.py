"""plan -> Stack. Pure: the same plan gives the same stack, to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.deploy.around import GRAFANA_SECRET, KEYS_VOLUME, gateway_service, loadtest_services, monitoring_services
from services.deploy.images import Image
from services.deploy.names import service_names
from services.deploy.options import Options
from services.deploy.stack import Network, Service, Stack, StackError, Volume
from services.deploy.workers import CALIBRATION, HUB_TOKEN, LOAD_LOCK, Rig, cache_volume, fetch_service, worker_service
from services.sizing.types import Plan
from services.sizing.units import MIB, gib

_NETWORKS = (
    Network("workers", True, "gateway and workers; no way out, no published port"),
    Network("edge", False, "where the gateway's port is published, and monitoring"),
    Network("egress", False, "the way to the model hubs, for the one-shot fetch services only"),
)


def stack_of(plan: Plan, images: Mapping[str, Image], options: Options, argv: Mapping[str, Sequence[str]] | None = None) -> Stack:
    """Everything that has to run for a plan.

    1. A plan without placements: refused.
    2. The gateway, first: it answers while models load.
    3. One fetch service for each engine environment, one worker for each placement.
    4. Workers start one after the other, in the plan's order: each when the one before it is healthy, or has failed to become so.
    5. Monitoring and load test, in profiles of their own.
    Raises StackError or ImageError.
    """
    if not plan.placements:  # 1
        raise StackError("the plan places no model on any card, so there is nothing to run; `rigserve plan` says why each was refused")
    rig = Rig(plan, images, service_names(p.id for p in plan.placements), argv or {}, options)
    environments = dict.fromkeys(placement.choice.environment for placement in plan.placements)
    services: list[Service] = [gateway_service(rig), *(fetch_service(rig, name) for name in environments)]  # 2, 3
    before: str | None = None
    for placement in plan.placements:  # 4
        services.append(worker_service(rig, placement, before))
        before = rig.names[placement.id]
    services += [*monitoring_services(), *loadtest_services(options.version)]  # 5
    secrets = [*rig.names.values(), HUB_TOKEN, GRAFANA_SECRET]
    return Stack(
        name=options.name, notes=_notes(plan, services), services=tuple(services), networks=_NETWORKS,
        volumes=_volumes(images, environments), configs=(("plan", "./plan.yaml"), ("endpoints", "./endpoints.json")),
        secrets=tuple((name, f"./secrets/{name}") for name in secrets),
    )


def _volumes(images: Mapping[str, Image], environments: Mapping[str, None]) -> tuple[Volume, ...]:
    kept = [name for name in environments if images[name].cache_kept]
    return (
        Volume("weights", "read-only in workers; RIGSERVE_WEIGHTS=/a/folder puts a folder of the host in its place"),
        Volume(LOAD_LOCK, "the file that only one worker at a time may hold while its model loads", memory_bytes=MIB),
        *(Volume(cache_volume(name), "kernels that the engine compiled; lost, they are compiled again") for name in kept),
        Volume(CALIBRATION, "what the workers measured on their cards: the next start believes it"),
        Volume(KEYS_VOLUME, "API keys (as SHA-256), usage and the audit log: worth a backup"),
        Volume("prometheus", "30 days of metrics, at most 2 GB"),
        Volume("grafana", "Grafana's own settings"),
    )


def _notes(plan: Plan, services: Sequence[Service]) -> tuple[str, ...]:
    workers = [service for service in services if service.role == "worker"]
    needs = [p.report.host.resident_bytes if p.report.host else None for p in plan.placements]
    known = sum(need for need in needs if need is not None)
    unknown = "" if None not in needs else f" ({needs.count(None)} of them not known)"
    used = {placement.card_id for placement in plan.placements}
    idle = [card.name for card in plan.cards if card.id not in used]
    simulated = any(card.simulated for card in plan.cards)
    return (
        f"Placements: {len(workers)}, cards used: {len(used)}." + (" With simulated CPU cards: no GPU there." if simulated else ""),
        *((f"Nothing runs on: {', '.join(idle)}.",) if idle else ()),
        f"Host RAM while serving, as planned: {gib(known)}{unknown} of {gib(plan.host.ram_bytes) if plan.host.ram_bytes else 'unknown'}. "
        "The limits below are higher: they stop a runaway, they reserve nothing.",
        "Models load one after the other: the order below, and across reboots a lock that the workers share.",
    )
