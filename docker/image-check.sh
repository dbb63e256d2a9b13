#!/usr/bin/env bash
# Builds the image on a plain Debian base and runs it under an OCI runtime, with a read-only root file system, without
# capabilities, and with no network but a loopback: it starts, answers the demo's questions, takes an upload, drains, and
# starts again on the same volume. No container registry and no container daemon is needed.
#
#   docker/image-check.sh            (as root, on Debian)
#
# Needs the packages buildah, crun and debootstrap. The base, the layers and the image stay in the cache
# folder, so that the next check is quicker; erase the folder to begin anew.
#
# Variables: MANYHATS_IMAGE_CACHE  the cache folder (default ${XDG_CACHE_HOME:-$HOME/.cache}/manyhats-image)
#            DEBIAN_MIRROR         where debootstrap finds Debian (default: its own)
#            TORCH_INDEX_URL       as in the Dockerfile (default: empty where pip's settings on this
#                                  machine name sources of their own, else the Dockerfile's)
#            STORAGE_DRIVER        overlay or vfs (default: overlay where it works)
#            READY_TIMEOUT         seconds until the server must be ready (default 180)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cache="${MANYHATS_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manyhats-image}"
ready_timeout="${READY_TIMEOUT:-180}"
base=localhost/manyhats-base
image=localhost/manyhats-image-check
suite=bookworm

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf 'image check failed: %s\n' "$*" >&2
    exit 1
}
now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", to - from }'; }

# --- what is needed ----------------------------------------------------------------------------

if [ $# -gt 0 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
missing=()
command -v buildah >/dev/null || missing+=(buildah)
command -v crun >/dev/null || missing+=(crun)
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v python3 >/dev/null || missing+=(python3)
if [ ${#missing[@]} -gt 0 ]; then
    die "missing packages: ${missing[*]} (apt-get install ${missing[*]})"
fi
[ "$(id -u)" = 0 ] || die "it must run as root"
# crun knows either generation of control groups, not both at once as some machines have them: out of its sight with one.
if mountpoint -q /sys/fs/cgroup/unified; then
    # shellcheck disable=SC2016  # expanded by that shell
    exec unshare --mount -- bash -c 'umount /sys/fs/cgroup/unified && exec bash "$0"' "${BASH_SOURCE[0]}"
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || die "another check uses $cache"
work="$(mktemp -d)"

run_pid=
driver=
name="manyhats-check-$$"
b() {
    buildah --root "$cache/storage" --runroot "$work/run" --storage-driver "$driver" "$@" 9>&-
}
# The OCI runtime, without control groups: they are the machine's, not the image's.
oci() { crun --root "$work/oci" --cgroup-manager=disabled "$@" 9>&-; }

# shellcheck disable=SC2317  # called by the trap
cleanup() {
    local code=$? i
    trap - EXIT INT TERM
    if [ -n "$run_pid" ] && kill -0 "$run_pid" 2>/dev/null; then
        disown "$run_pid" # no message of the shell's about its end
        oci kill "$name" TERM 2>/dev/null || true
        for i in $(seq 100); do
            kill -0 "$run_pid" 2>/dev/null || break
            [ "$i" != 100 ] || oci kill "$name" KILL 2>/dev/null || true
            sleep 0.1
        done
    fi
    if [ -n "$driver" ]; then
        b umount --all >/dev/null 2>&1 || true
        b rm --all >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "${STORAGE_DRIVER:-}" ]; then
    driver="$STORAGE_DRIVER"
else
    mkdir "$cache/probe.$$"
    driver=vfs
    if buildah --root "$cache/probe.$$" --runroot "$work/probe" --storage-driver overlay info >/dev/null 2>&1; then
        driver=overlay
    fi
    umount "$cache/probe.$$/overlay" 2>/dev/null || true
    rm -rf "$cache/probe.$$"
fi
# With vfs every layer is a whole copy: keep none between.
layers=true
[ "$driver" = overlay ] || layers=false
b rm --all >/dev/null 2>&1 || true
say "storage: $driver in $cache"

# --- the base ----------------------------------------------------------------------------------

archive="$cache/debian-$suite.tar"
if [ ! -s "$archive" ]; then
    step "base: Debian $suite by debootstrap"
    rm -rf "$cache/debian"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$cache/debian" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$cache/debootstrap.log" 2>&1 ||
        { tail -n 20 "$cache/debootstrap.log" >&2; die "debootstrap (see $cache/debootstrap.log)"; }
    rm -rf "$cache/debian/var/cache/apt/archives"/*.deb "$cache/debian/var/lib/apt/lists"/*
    tar -C "$cache/debian" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
        --numeric-owner -cf "$archive.part" .
    mv "$archive.part" "$archive"
    rm -rf "$cache/debian"
    b rmi "$base" >/dev/null 2>&1 || true
fi
if ! b inspect --type image "$base" >/dev/null 2>&1; then
    step "base: $base"
    container="$(b from scratch)"
    b add --quiet "$container" "$archive" / >/dev/null
    b config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd /bin/bash "$container"
    b commit --quiet --rm "$container" "$base" >/dev/null
fi

# --- the image ---------------------------------------------------------------------------------

step "build: $image"
mkdir "$work/pip"
python3 "$here/docker/pip_settings.py" "$work/pip"
build=(--isolation chroot --format docker --pull=never --layers="$layers" --tag "$image"
    --build-arg "BASE_IMAGE=$base" --volume "$work/pip/pip.conf:/etc/pip.conf:ro")
while read -r volume; do
    build+=(--volume "$volume")
done <"$work/pip/volumes"
if [ -n "${TORCH_INDEX_URL+set}" ]; then
    build+=(--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL")
elif [ -e "$work/pip/sources" ]; then
    say "pip on this machine has sources of its own: torch comes from them too"
    build+=(--build-arg "TORCH_INDEX_URL=")
fi
began="$(now)"
b build "${build[@]}" "$here" >"$cache/build.log" 2>&1 ||
    { tail -n 40 "$cache/build.log" >&2; die "the build (see $cache/build.log)"; }
build_s="$(since "$began")"
say "built in $build_s s"

# --- start -------------------------------------------------------------------------------------

b inspect --type image "$image" >"$work/image.json"
container="$(b from --pull-never "$image")"
root="$(b mount "$container")"
# A new named volume starts with a copy of what the image has there.
volume="$work/volume"
cp -a "$root/store" "$volume"
key="$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
admin="$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
url=http://127.0.0.1:8000
inside() { oci exec "$name" "$@"; }
python() { inside /opt/manyhats/bin/python3 "$@"; }
alive() { kill -0 "$run_pid" 2>/dev/null; }
broken() {
    tail -n 40 "$work/server.log" >&2
    die "$@"
}
status() { # of a probe, or nothing
    python -c '
import sys, urllib.error, urllib.request as r
try:
    print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    pass' "$url$1" 2>/dev/null || true
}

step "without keys"
python3 "$here/docker/bundle.py" "$work/bundle" "$work/image.json" "$root" "$volume"
if oci run --bundle "$work/bundle" "$name" >"$work/keyless.log" 2>&1 </dev/null; then
    die "it starts on all addresses without keys"
fi
grep -q allow_unauthenticated "$work/keyless.log" || { tail -n 20 "$work/keyless.log" >&2; die "it does not say why"; }
say "it does not start, and says why"

python3 "$here/docker/bundle.py" "$work/bundle" "$work/image.json" "$root" "$volume" \
    "MANYHATS_API_KEYS=$key" "MANYHATS_ADMIN_KEYS=$admin" MANYHATS_DRAIN_DELAY=15 MANYHATS_DRAIN_TIMEOUT=20
mapfile -d '' -t health <"$work/bundle/health"

start() {
    began="$(now)"
    oci run --bundle "$work/bundle" "$name" >"$work/server.log" 2>&1 </dev/null &
    run_pid=$!
    until [ "$(status /readyz)" = 200 ]; do
        alive || broken "the server ended before it was ready"
        awk -v s="$(since "$began")" -v most="$ready_timeout" 'BEGIN { exit s > most }' ||
            broken "not ready after $ready_timeout s"
        sleep 0.2
    done
    ready_s="$(since "$began")"
    say "ready after $ready_s s"
}
end() { # waits for the end that a signal has begun
    while alive; do
        awk -v s="$(since "$began")" 'BEGIN { exit s > 60 }' || broken "SIGTERM did not end it within 60 s"
        sleep 0.1
    done
    code=0
    wait "$run_pid" || code=$?
    run_pid=
    [ "$code" = 0 ] || broken "exit code $code after SIGTERM"
    say "SIGTERM ended it in $(since "$began") s with exit code 0"
}
ask() { python - "$url" --key "$key" "$@" <"$here/docker/ask.py"; }

step "start, with a read-only root file system"
start
first_s="$ready_s"

# --- checks ------------------------------------------------------------------------------------

step "questions, and an upload"
ask --admin-key "$admin" --copy image-check || broken "the questions"

step "the process"
pid="$(oci state "$name" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')"
awk '
    /^Uid:/ { uid = $3 } /^Gid:/ { gid = $3 } /^CapEff:/ { can = $2 } /^CapBnd:/ { may = $2 } /^NoNewPrivs:/ { no = $2 }
    END {
        print "user " uid ", group " gid ", capabilities " can ", at most " may ", none to be gained: " no
        exit uid == 0 || gid == 0 || can != "0000000000000000" || may != can || no != 1
    }' "/proc/$pid/status" || die "the process has rights"
inside "${health[@]}" || broken "the health check"
say "the health check passes"

step "the files"
# shellcheck disable=SC2016  # expanded inside the container
inside sh -c '
    set -eu
    touch "$MANYHATS_STORE/.image-check"
    rm "$MANYHATS_STORE/.image-check"
    others="$(find "$MANYHATS_STORE" ! -user "$(id -u)" | head -n 3)"
    [ -z "$others" ] || { echo "not owned by user $(id -u): $others"; exit 1; }
    for folder in / /opt/manyhats /home/manyhats /var /etc; do
        if touch "$folder/.image-check" 2>/dev/null; then echo "$folder is writable"; exit 1; fi
    done
    for program in cc gcc c++ g++ clang tcc as ld make; do
        if command -v "$program"; then echo "there is a compiler"; exit 1; fi
    done
' || die "the folders' permissions, or the programs"
say "it writes to the store and to /tmp alone; there is no compiler"
python - <<'PYTHON' || die "what is installed"
import json
import obstore, psycopg
from manyhats.kernels.cpu.library import Library
print("CPU kernels:", Library().variant, "- psycopg", psycopg.__version__, "by", psycopg.pq.__impl__, "- obstore", obstore.__version__)
whole = json.load(open("/usr/share/doc/manyhats/sbom.cdx.json"))
listed = {one["name"] for one in [whole["metadata"]["component"], *whole["components"]]}
missing = {"manyhats", "manyhats-client", "torch", "starlette", "psycopg", "obstore"} - listed
assert not missing, f"not in the list of packages: {missing}"
PYTHON
if grep -q "cannot be used" "$work/server.log"; then broken "it does not use its kernels"; fi

step "drain"
began="$(now)"
oci kill "$name" TERM
until [ "$(status /readyz)" = 503 ]; do
    alive || broken "it ended before it said that it is not ready"
    sleep 0.1
done
[ "$(status /healthz)" = 200 ] || broken "it is not alive while it drains"
ask --expect image-check >/dev/null || broken "it does not answer while it drains"
say "not ready, alive, and answering"
end

step "a restart on the same volume"
start
ask --expect image-check >/dev/null || broken "the questions after a restart"
say "the uploaded task is there, and answers"
began="$(now)"
oci kill "$name" TERM
end

size="$(b images --format '{{.Size}}' "$image")"
say
say "image check passed: built in $build_s s, $size, ready $first_s s after the first start, $ready_s s after the second"
