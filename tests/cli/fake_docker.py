"""A docker program that records what it was asked and answers from a JSON file: {"versions": ..., "containers": [...], "fails": {...}}.

It keeps containers as `docker compose up SERVICE` and `rm` change them, so that an upgrade can be watched from outside.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_DOCKER"])


def main(argv: list[str]) -> int:
    with (FOLDER / "calls").open("a", encoding="utf8") as calls:
        calls.write(json.dumps(argv) + "\n")
    state: dict[str, Any] = json.loads((FOLDER / "state.json").read_text(encoding="utf8"))
    words = " ".join(argv)
    for pattern, (code, text) in state.get("fails", {}).items():
        if pattern in words:
            print(text, file=sys.stderr)
            return int(code)
    if argv[0] == "compose" and "-f" in argv:
        return compose(argv[argv.index("-f") + 2 :], Path(argv[argv.index("-f") + 1]), state)
    if argv[:2] == ["compose", "version"]:
        print(state.get("compose", "2.26.1-4"))
    elif argv[0] == "version":
        print(state.get("engine", "26.1.5"))
    elif argv[0] == "info":
        print(json.dumps(state.get("root", str(FOLDER))))
    elif argv[:2] == ["image", "inspect"]:
        if argv[-1] in state.get("missing_images", []):
            return 1
        print(state.get("image_ids", {}).get(argv[-1], "sha256:same"))
    elif argv[0] == "inspect":
        container = next(c for c in state["containers"] if c["Name"] == argv[1])
        labels = {"com.docker.compose.config-hash": container.get("hash", "same")}
        print(json.dumps([{"Config": {"Labels": labels}, "Image": container.get("image", "sha256:same")}]))
    elif argv[0] == "build":
        state["missing_images"].remove(argv[argv.index("-t") + 1])
        save(state)
    return 0


def compose(words: list[str], file: Path, state: dict[str, Any]) -> int:
    if words[:2] == ["--profile", "*"]:
        words = words[2:]
    if words[0] == "config" and "--hash" in words:
        print("\n".join(f"{name} {state.get('hashes', {}).get(name, 'same')}" for name in told(file, state)["services"]))
    elif words[0] == "config":
        print(json.dumps(told(file, state)))
    elif words[0] == "ps":
        print("\n".join(json.dumps(container) for container in state.get("containers", [])))
    elif words[0] == "rm":
        state["containers"] = [c for c in state["containers"] if c["Service"] != words[-1]]
        save(state)
    elif words[0] == "up":
        up(words, file, state)
    return 0


def up(words: list[str], file: Path, state: dict[str, Any]) -> None:
    here = {c["Service"] for c in state.setdefault("containers", [])}
    named = [word for word in words[1:] if not word.startswith("-")]
    for name in named or told(file, state)["services"]:
        if name not in here and not name.startswith("fetch-"):
            health = state.get("becomes", {}).get(name, "healthy")
            hashed = state.get("hashes", {}).get(name, "same")
            state["containers"].append({"Service": name, "Name": f"x-{name}-1", "State": "running", "Health": health, "ExitCode": 0,
                                        "Status": "Up", "hash": hashed})
    save(state)


def told(file: Path, state: dict[str, Any]) -> dict[str, Any]:
    """What `config --format json` gives of it: the active profiles' services, ports and volumes in their long form."""
    raw = json.loads(file.with_suffix(".json").read_text(encoding="utf8"))  # the test put it there: this runs without packages
    port = state.get("port", 1)
    services = {name: s for name, s in raw["services"].items() if (s.get("profiles") or ["cpu"]) in (["cpu"], ["gpu"])}
    for service in services.values():
        service["ports"] = [{"host_ip": "127.0.0.1", "published": str(port)}] if "ports" in service else []
        service["volumes"] = [{"type": "volume", "source": "weights", "target": "/weights"}]
    return {"name": raw["name"], "services": services}


def save(state: dict[str, Any]) -> None:
    (FOLDER / "state.json").write_text(json.dumps(state), encoding="utf8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
