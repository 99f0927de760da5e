#!/usr/bin/env bash
# What the hub takes, as one table: binary size, memory, CPU and start on this machine, and the
# instructions for a million readings on x86-64 (valgrind) and on ARM (qemu), where under emulation
# nothing else means anything. Fails when a bound is not reached. docs/footprint.md says more.
# Installs what it needs.
#
#     tests/footprint.sh [DIRECTORY]      for the spool; a real disk with 3 GB free [target]
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
dir="${1:-$target_dir}"

missing=()
need() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2"); }
need cc gcc
need mosquitto mosquitto
need valgrind valgrind
need qemu-arm qemu-user
need python3 python3
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
systemd/build
# The load comes from the debug build, which is there after the tests; the hub is the release.
cargo build --quiet --locked --workspace --features devices/demo --bin devices
devices="$target_dir/debug/devices"

status=0
"$devices" bench --only footprint --strict --dir "$dir" \
    --hub-binary "$target_dir/x86_64-unknown-linux-gnu/release/telehub" || status=$?

work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; rm -rf "$work"' EXIT
cc -O2 -shared -fPIC -o "$work/count.so" tests/support/count_instructions.c
PATH="$PATH:/usr/sbin"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mosquitto -p "$port" > "$work/mosquitto.log" 2>&1 &
broker=$!
cat > "$work/telehub.toml" <<CONFIG
[hub]
id = "footprint"
[devices]
listen = "127.0.0.1:0"
auth = "open"
[spool]
path = "$work/spool"
min_free = "1MiB"
[uplink]
url = "mqtt://127.0.0.1:$port"
CONFIG

# 20 devices, 10 batches a second of each, 10 readings in a batch.
DEVICES=20 RATE=10 READINGS=10 FEW=30 MANY=230
# Instructions of a hub that is started, takes so many batches of each device, and is stopped.
instructions() { # BATCHES COMMAND…
    local batches="$1" hub address="" status=0
    shift
    rm -f "$work/count" "$work/callgrind.out"
    "$@" run --config "$work/telehub.toml" 2> "$work/log" &
    hub=$!
    for _ in $(seq 600); do
        address=$(sed -n 's/.* listening.*address=//p' "$work/log" | tail -1)
        ! grep -q 'uplink connected' "$work/log" || [ -z "$address" ] || break
        sleep 0.1
    done
    "$devices" swarm --quiet --report-json --hub "ws://$address" --devices "$DEVICES" \
        --rate "$RATE" --batch "$READINGS" --batches "$batches" > "$work/report" || status=$?
    kill "$hub"
    wait "$hub" || status=$?
    [ "$status" -eq 0 ] || { cat "$work/log" "$work/report" >&2; exit 1; }
    if [ -e "$work/callgrind.out" ]; then
        sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$work/callgrind.out" | head -1
    else
        cat "$work/count"
    fi
}
# The difference of two runs: what starting and connecting take is in both.
per_million() { # NAME COMMAND…
    local name="$1" few many
    shift
    few=$(instructions "$FEW" "$@")
    many=$(instructions "$MANY" "$@")
    python3 -c "print('| %-30s | %10.1f | %16.1f |' % ('$name', ($many - $few)
        / ($DEVICES * ($MANY - $FEW) * $READINGS) / 1e3, $few / 1e6))"
}
telehub() { echo "$target_dir/$1/release/telehub"; }
plugin="$work/count.so,into=$work/count"
printf '\n| instructions                   | 10^9 per million readings | 10^6 to start, connect %d devices, %d readings, stop |\n|---|---|---|\n' \
    "$DEVICES" $((DEVICES * FEW * READINGS))
per_million x86_64-unknown-linux-gnu valgrind --tool=callgrind \
    "--callgrind-out-file=$work/callgrind.out" --log-file="$work/valgrind.log" \
    "$(telehub x86_64-unknown-linux-gnu)"
per_million armv7-unknown-linux-gnueabihf qemu-arm -plugin "$plugin" -L /usr/arm-linux-gnueabihf \
    "$(telehub armv7-unknown-linux-gnueabihf)"
per_million aarch64-unknown-linux-gnu qemu-aarch64 -plugin "$plugin" -L /usr/aarch64-linux-gnu \
    "$(telehub aarch64-unknown-linux-gnu)"
per_million aarch64-unknown-linux-musl qemu-aarch64 -plugin "$plugin" \
    "$(telehub aarch64-unknown-linux-musl)"
exit "$status"
