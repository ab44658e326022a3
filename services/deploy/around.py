"""The services around the workers: gateway, monitoring, load test."""

from __future__ import annotations

from services.deploy import images as table
from services.deploy.limits import GATEWAY_BYTES
from services.deploy.stack import After, Build, Health, Image, Mount, Port, Service, Tmpfs
from services.deploy.workers import PLAN_IN_CONTAINER, PROGRAM, USER, Rig, digest
from services.sizing.units import GIB, MIB

ENDPOINTS_IN_CONTAINER = "/etc/rigserve/endpoints.json"
GATEWAY_PORT = 8000
PUBLISHED_ON = "${RIGSERVE_BIND:-127.0.0.1}"
KEYS_VOLUME = "keys"
KEYS_IN_CONTAINER = "/var/lib/rigserve"  # the image's DATABASE_URL is a file there
GATEWAY_DRAIN_S = 10  # the gateway's own grace for streams that run
PROMETHEUS = "prom/prometheus:v2.53.4"
GRAFANA = "grafana/grafana:11.6.0"
GRAFANA_SECRET = "grafana"  # noqa: S105 - a name
_LOOPBACK = "${RIGSERVE_MONITORING_BIND:-127.0.0.1}"
_TMP = Tmpfs("/tmp", 64 * MIB)  # noqa: S108 - in the container


def gateway_service(rig: Rig) -> Service:
    """The only published port. It starts first and answers at once; models appear as their workers become ready."""
    row = table.image_of(rig.images, table.GATEWAY)
    return Service(
        name="gateway", role="gateway",
        image=Image(row.reference(rig.options.version), True, Build(row.dockerfile, tuple(row.build_args(rig.options.version).items()))),
        notes=(
            "The OpenAI API, and the only published port: on loopback unless RIGSERVE_BIND says otherwise.",
            "API keys: docker compose exec gateway rigserve keys create NAME. Until the first one is made, the gateway answers",
            "only while that port is on loopback: --published-on tells it, since inside its container it can't know.",
            "--open-status: Prometheus and `rigserve status` need no key; nothing they read is a key, a prompt or a user.",
        ),
        command=("gateway", "--plan", PLAN_IN_CONTAINER, "--endpoints", ENDPOINTS_IN_CONTAINER,
                 "--host", "0.0.0.0", "--port", str(GATEWAY_PORT),  # noqa: S104 - of its container
                 "--published-on", PUBLISHED_ON, "--open-status"),
        environment=(("RIGSERVE_TARIFF", "${RIGSERVE_TARIFF:-}"), ("RIGSERVE_CURRENCY", "${RIGSERVE_CURRENCY:-}")),
        user=USER, networks=("workers", "edge"), ports=(Port(PUBLISHED_ON, "${RIGSERVE_PORT:-8000}", GATEWAY_PORT),),
        configs=(("plan", PLAN_IN_CONTAINER), ("endpoints", ENDPOINTS_IN_CONTAINER)),
        secrets=tuple(rig.names[placement.id] for placement in rig.plan.placements), tmpfs=(_TMP,),
        mounts=(Mount(KEYS_VOLUME, KEYS_IN_CONTAINER, read_only=False),),
        health=Health((PROGRAM, "health", "gateway"), 60), memory_bytes=GATEWAY_BYTES,
        memory_why="41 MiB when idle (docs/footprint.md); pictures that wait for their client take the rest",
        stop_grace_s=GATEWAY_DRAIN_S + 5, labels=(("rigserve.inputs", digest([rig.plan, dict(rig.names)])),),
    )


def monitoring_services() -> tuple[Service, ...]:
    """Prometheus over the gateway's /metrics, and Grafana over Prometheus."""
    prometheus = Service(
        name="prometheus", role="monitoring", image=Image(PROMETHEUS, False), profile="monitoring", networks=("edge",),
        notes=("Scrapes the gateway, evaluates the alert rules. Loopback only: it asks nobody for a password.",),
        command=("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
                 "--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=2GB"),
        mounts=(Mount("./monitoring/prometheus.yml", "/etc/prometheus/prometheus.yml"),
                Mount("./monitoring/alerts.yml", "/etc/prometheus/alerts.yml"), Mount("prometheus", "/prometheus", read_only=False)),
        tmpfs=(_TMP,), ports=(Port(_LOOPBACK, "${RIGSERVE_PROMETHEUS_PORT:-9090}", 9090),), memory_bytes=512 * MIB,
        memory_why="43 MiB on an empty store; grows with the series of the cards", stop_grace_s=30,
    )
    grafana = Service(
        name="grafana", role="monitoring", image=Image(GRAFANA, False), profile="monitoring", networks=("edge",), user=USER,
        notes=("Dashboards. User admin, password in secrets/grafana.",), command=(),
        environment=(
            ("GF_SECURITY_ADMIN_PASSWORD__FILE", f"/run/secrets/{GRAFANA_SECRET}"), ("GF_USERS_ALLOW_SIGN_UP", "false"),
            ("GF_ANALYTICS_REPORTING_ENABLED", "false"), ("GF_ANALYTICS_CHECK_FOR_UPDATES", "false"),
            ("GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false"),
        ),
        mounts=(Mount("./monitoring/grafana/provisioning", "/etc/grafana/provisioning"),
                Mount("./monitoring/grafana/dashboards", "/var/lib/grafana/dashboards"),
                Mount("grafana", "/var/lib/grafana", read_only=False)),
        tmpfs=(_TMP,), secrets=(GRAFANA_SECRET,), ports=(Port(_LOOPBACK, "${RIGSERVE_GRAFANA_PORT:-3000}", 3000),),
        after=(After("prometheus", "started", required=False),), memory_bytes=512 * MIB, memory_why="Grafana's own minimum",
    )
    return (prometheus, grafana)


def loadtest_services(version: str) -> tuple[Service, ...]:
    """Locust: a master with its page, and workers that make the requests (more: --scale loadtest-worker=4)."""
    image = f"rigserve/loadtest:{version}"
    start = ("--locustfile", "/loadtest/locustfile.py")
    mounts = (Mount("./loadtest", "/loadtest"),)
    master = Service(
        name="loadtest", role="loadtest", image=Image(image, True, Build("docker/loadtest/Dockerfile")), profile="loadtest",
        networks=("edge",), user=USER, mounts=mounts, tmpfs=(_TMP,), memory_bytes=GIB // 2, memory_why="Locust's figures in memory",
        notes=("Locust's master; its page is on loopback.",), command=(*start, "--master", "--host", f"http://gateway:{GATEWAY_PORT}"),
        ports=(Port(_LOOPBACK, "${RIGSERVE_LOADTEST_PORT:-8089}", 8089),),
    )
    worker = Service(
        name="loadtest-worker", role="loadtest", image=Image(image, True), profile="loadtest", networks=("edge",), user=USER,
        mounts=mounts, tmpfs=(_TMP,), memory_bytes=GIB // 2, memory_why="a few hundred simulated users",
        notes=("Makes the requests. More of them: docker compose --profile loadtest up -d --scale loadtest-worker=4",),
        command=(*start, "--worker", "--master-host", "loadtest"), after=(After("loadtest", "started"),),
    )
    return (master, worker)
