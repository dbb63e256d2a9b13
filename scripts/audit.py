"""Asks for advisories about every package of the lock, and fails where one is known or one could not be asked about.

    python scripts/audit.py build/audit/bin/pip-audit       (`make audit`)

Exit code 1: an advisory that nobody has accepted here; 2: no service of advisories answers, so that nothing is known.
Uses the standard library alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = "requirements/constraints.txt"
ALONE = "requirements/alone.txt"
SERVICES = ("osv", "pypi")
# Advisories that do not concern what is done here with the package, each with the reason.
ACCEPTED: dict[str, str] = {}


def pins(root: Path) -> list[str]:
    """Every package with its exact version, and where it is for some systems alone, with its marker."""
    lines = [line for name in (LOCK, ALONE) for line in (root / name).read_text(encoding="utf-8").splitlines()]
    return [line for raw in lines if (line := raw.partition("#")[0].strip())]


def asked(program: str, service: str, wanted: list[str]) -> dict[str, list[dict[str, object]]] | None:
    """Each package that the service knows with its advisories; None where it does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "requirements.txt"
        listing.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        options = ["--requirement", str(listing), "--no-deps", "--disable-pip", "--format", "json"]
        options += ["--progress-spinner", "off", "--vulnerability-service", service]
        done = subprocess.run([program, *options], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return {f"{one['name']} {one['version']}": one["vulns"] for one in found if "vulns" in one}


def main() -> int:
    """Returns the exit code."""
    program = sys.argv[1] if len(sys.argv) > 1 else "pip-audit"
    wanted = pins(Path(__file__).resolve().parent.parent)
    known = next((found for service in SERVICES if (found := asked(program, service, wanted))), None)
    if known is None:
        print(f"no service of advisories answers ({', '.join(SERVICES)}): nothing is known of {len(wanted)} packages")
        return 2
    left = [
        f"{package}: {one['id']}, fixed in {one['fix_versions'] or 'no version'}"
        for package, advisories in known.items()
        for one in advisories
        if one["id"] not in ACCEPTED
    ]
    print("\n".join([f"{len(known)} packages asked about; {len(left)} advisories", *left]))
    for name, reason in ACCEPTED.items():
        print(f"accepted: {name}: {reason}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
