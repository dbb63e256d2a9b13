#!/usr/bin/env python3
"""Write an OCI runtime's config.json for an image, as `docker run --read-only` and Kubernetes would have it.

    python3 docker/bundle.py FOLDER IMAGE.json ROOT VOLUME NAME=VALUE ...

IMAGE.json is what `buildah inspect --type image` says, ROOT its mounted file system, VOLUME the folder for /store;
NAME=VALUE are added to the environment. The root file system is read-only, /tmp is in memory, the user is the image's,
who has no capability and can get none, and the network has a loopback alone. FOLDER/health gets the words of the
image's health check, each with a NUL after it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SPACES = ("pid", "network", "ipc", "uts", "mount")


def mount(where: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    """One entry of `mounts`."""
    return {"destination": where, "type": kind, "source": source, "options": list(options)}


def config(image: dict[str, Any], root: str, volume: str, environment: list[str]) -> dict[str, Any]:
    """The whole file. Raises ValueError where the image runs as root."""
    uid, _, gid = image["User"].partition(":")
    if int(uid) == 0 or int(gid) == 0:
        raise ValueError(f"the image's user is {image['User']!r}")
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": int(uid), "gid": int(gid)},
            "args": image["Entrypoint"] + image["Cmd"],
            "env": image["Env"] + environment,
            "cwd": image["WorkingDir"],
            "capabilities": {name: [] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "manyhats",
        "mounts": [
            mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777", "size=256m"),
            mount("/store", "bind", volume, "bind", "rw", "nosuid", "nodev"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in SPACES],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) < 5:
        print(f"usage: {sys.argv[0]} FOLDER IMAGE.json ROOT VOLUME NAME=VALUE ...", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    image = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))["Docker"]["config"]
    kind, *health = image["Healthcheck"]["Test"]
    assert kind == "CMD", kind
    assert set(image["Volumes"]) == {"/store"}, image["Volumes"]
    folder.mkdir(exist_ok=True)
    (folder / "health").write_text("".join(word + "\0" for word in health))
    (folder / "config.json").write_text(json.dumps(config(image, sys.argv[3], sys.argv[4], sys.argv[5:]), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
