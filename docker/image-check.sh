#!/usr/bin/env bash
# Builds the image on a plain Debian base, runs it and asks it questions. No container registry
# and no container daemon is needed.
#
#   docker/image-check.sh            (as root, on Debian)
#
# Needs the packages buildah and debootstrap. The base, the layers and the image stay in the cache
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
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v python3 >/dev/null || missing+=(python3)
if [ ${#missing[@]} -gt 0 ]; then
    die "missing packages: ${missing[*]} (apt-get install ${missing[*]})"
fi
[ "$(id -u)" = 0 ] || die "it must run as root"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || die "another check uses $cache"
work="$(mktemp -d)"

run_pid=
server_pid=
driver=
b() {
    buildah --root "$cache/storage" --runroot "$work/run" --storage-driver "$driver" "$@" 9>&-
}

# The first process below buildah that is a program of the image.
find_server() {
    python3 - "$run_pid" <<'PYTHON'
import os, sys
children = {}
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{entry}/stat") as stat:
            children.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(entry))
    except OSError:
        pass
waiting = [int(sys.argv[1])]
while waiting:
    pid = waiting.pop(0)
    try:
        name = open(f"/proc/{pid}/cmdline").read().partition("\0")[0]
        if name.startswith("/opt/manyhats/"):
            print(pid)
            break
    except OSError:
        pass
    waiting += children.get(pid, [])
PYTHON
}

# shellcheck disable=SC2317  # called by the trap
cleanup() {
    local code=$? i
    trap - EXIT INT TERM
    if [ -n "$run_pid" ] && kill -0 "$run_pid" 2>/dev/null; then
        disown "$run_pid" # no message of the shell's about its end
        server_pid="${server_pid:-$(find_server)}"
        kill -TERM "${server_pid:-$run_pid}" 2>/dev/null || true
        for i in $(seq 100); do
            kill -0 "$run_pid" 2>/dev/null || break
            [ "$i" != 100 ] || kill -KILL "${server_pid:-$run_pid}" "$run_pid" 2>/dev/null || true
            sleep 0.1
        done
    fi
    if [ -n "$driver" ]; then
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

# The image's own entry point, arguments and health check: buildah runs none of them by itself.
b inspect --type image "$image" >"$work/image.json"
python3 - "$work" <<'PYTHON'
import json, sys
work = sys.argv[1]
config = json.load(open(f"{work}/image.json"))["Docker"]["config"]
health = config["Healthcheck"]["Test"]
assert health[0] == "CMD", health
for name, words in (("command", config["Entrypoint"] + config["Cmd"]), ("health", health[1:])):
    with open(f"{work}/{name}", "w") as out:
        out.write("".join(word + "\0" for word in words))
PYTHON
mapfile -d '' -t command <"$work/command"
mapfile -d '' -t health <"$work/health"

container="$(b from --pull-never "$image")"
key="$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
settings=(--env "MANYHATS_API_KEYS=$key")
inside=()
# A network of its own, with nothing but the loopback: the image must answer without any other, on
# its own port. Where that cannot be had, a free port of this machine's loopback.
if unshare --net true 2>/dev/null; then
    say "network: none but a loopback of its own"
    url=http://127.0.0.1:8000
    loopback='import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH22x", b"lo", 1))'
    # shellcheck disable=SC2016  # expanded by that shell
    start=(unshare --net -- bash -c 'python3 -c "$1" && shift && exec "$@"' bash "$loopback")
else
    port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    say "network: this machine's, port $port"
    url="http://127.0.0.1:$port"
    settings+=(--env MANYHATS_HOST=127.0.0.1 --env "MANYHATS_PORT=$port")
    start=()
fi

step "without keys"
if b run --isolation chroot "$container" -- "${command[@]}" >"$work/keyless.log" 2>&1 </dev/null; then
    die "it starts on all addresses without keys"
fi
grep -q allow_unauthenticated "$work/keyless.log" || { tail -n 20 "$work/keyless.log" >&2; die "it does not say why"; }
say "it does not start, and says why"

step "start: ${command[*]}"
began="$(now)"
"${start[@]}" buildah --root "$cache/storage" --runroot "$work/run" --storage-driver "$driver" \
    run --isolation chroot "${settings[@]}" "$container" -- "${command[@]}" \
    >"$work/server.log" 2>&1 </dev/null 9>&- &
run_pid=$!
alive() { kill -0 "$run_pid" 2>/dev/null; }
broken() {
    tail -n 40 "$work/server.log" >&2
    die "$@"
}

while [ -z "$server_pid" ]; do
    alive || broken "the server ended before it was ready"
    server_pid="$(find_server)"
    awk -v s="$(since "$began")" 'BEGIN { exit s > 60 }' || broken "no process of the server to be found"
    sleep 0.1
done
if [ ${#start[@]} -gt 0 ]; then
    inside=(nsenter --net="/proc/$server_pid/ns/net")
fi
until "${inside[@]}" python3 -c '
import sys, urllib.request as r
try:
    r.build_opener(r.ProxyHandler({})).open(sys.argv[1] + "/readyz", timeout=2)
except OSError:
    sys.exit(1)' "$url"; do
    alive || broken "the server ended before it was ready"
    awk -v s="$(since "$began")" -v most="$ready_timeout" 'BEGIN { exit s > most }' ||
        broken "not ready after $ready_timeout s"
    sleep 0.2
done
ready_s="$(since "$began")"
say "ready after $ready_s s"

# --- checks ------------------------------------------------------------------------------------

step "questions"
"${inside[@]}" python3 "$here/docker/ask.py" "$url" --key "$key" || broken "the questions"

step "the process"
read -r uid gid < <(awk '/^Uid:/ { u = $3 } /^Gid:/ { g = $3 } END { print u, g }' "/proc/$server_pid/status")
say "user $uid, group $gid, process $server_pid: $(tr '\0' ' ' <"/proc/$server_pid/cmdline")"
if [ "$uid" = 0 ] || [ "$gid" = 0 ]; then die "the server runs as root"; fi

"${inside[@]}" buildah --root "$cache/storage" --runroot "$work/run" --storage-driver "$driver" \
    run --isolation chroot "${settings[@]}" "$container" -- "${health[@]}" 9>&- || broken "the health check"
say "the health check passes"

# shellcheck disable=SC2016  # expanded inside the container
b run --isolation chroot "$container" -- sh -c '
    set -eu
    [ "$(id -u)" = "$1" ] || { echo "not user $1 but $(id -u)"; exit 1; }
    touch "$MANYHATS_STORE/.image-check"
    rm "$MANYHATS_STORE/.image-check"
    others="$(find "$MANYHATS_STORE" ! -user "$1" | head -n 3)"
    [ -z "$others" ] || { echo "not owned by user $1: $others"; exit 1; }
    if touch /opt/manyhats/.image-check 2>/dev/null; then echo "/opt/manyhats is writable"; exit 1; fi
' sh "$uid" || die "the folders' permissions"
say "the store is writable by user $uid, the program is not"

# shellcheck disable=SC2016  # expanded inside the container
b run --isolation chroot "$container" -- /opt/manyhats/bin/python3 -c '
import json, sys
whole = json.load(open(sys.argv[1]))
listed = {one["name"] for one in [whole["metadata"]["component"], *whole["components"]]}
missing = {"manyhats", "manyhats-client", "torch", "starlette"} - listed
sys.exit(f"not listed: {missing}" if missing else 0)
' /usr/share/doc/manyhats/sbom.cdx.json || die "the list of packages"
say "the list of packages names them"

step "the end"
began="$(now)"
kill -TERM "$server_pid"
while alive; do
    awk -v s="$(since "$began")" 'BEGIN { exit s > 30 }' || broken "SIGTERM did not end it within 30 s"
    sleep 0.1
done
code=0
wait "$run_pid" || code=$?
run_pid=
[ "$code" = 0 ] || broken "exit code $code after SIGTERM"
say "SIGTERM ended it in $(since "$began") s with exit code 0"

size="$(b images --format '{{.Size}}' "$image")"
say
say "image check passed: built in $build_s s, $size, ready $ready_s s after the start"
