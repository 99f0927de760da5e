#!/usr/bin/env bash
# Builds an ESPHome node with the external component (devices/kits/esphome) for ESPHome's host
# platform and runs it against a hub: its readings arrive, and none is missing after the hub was away.
# ESPHome comes from PyPI and writes the sources; g++ compiles them with the flags that ESPHome wrote.
# PlatformIO, which would do that, is left out: its registry is not one of packages for this machine.
# Takes some three minutes on two cores, most of it compiling. TELEHUB may name the hub's program.
#
#     tests/esphome.sh
set -euo pipefail
cd "$(dirname "$0")/.."
esphome=2026.6.5
target="$(realpath "${CARGO_TARGET_DIR:-target}" 2>/dev/null || echo "$PWD/target")"
kit="$PWD/devices/kits/esphome"
core="$PWD/devices/kits/c"
if [ -z "${TELEHUB:-}" ]; then
    cargo build --quiet --locked --workspace --features devices/demo --bin telehub
    TELEHUB="$target/debug/telehub"
fi

venv="$target/esphome-venv"
if [ "$("$venv/bin/esphome" version 2>/dev/null)" != "Version: $esphome" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "esphome==$esphome"
fi

dir=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$dir"
}
trap cleanup EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# until SECONDS SENTENCE COMMAND...: waits for the command to succeed.
until_true() {
    local tries=$(($1 * 5)) what=$2
    shift 2
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "in vain: $what" >&2; tail -5 "$dir"/*.log >&2; exit 1; }
        sleep 0.2
    done
}

devices=$(free_port) admin=$(free_port) nobody=$(free_port)
cat >"$dir/telehub.toml" <<END
[hub]
id = "barn"
[devices]
listen = "127.0.0.1:$devices"
registry = "$dir/devices.toml"
[spool]
path = "$dir/spool"
min_free = "0MiB"
[uplink]
url = "mqtt://127.0.0.1:$nobody"
[admin]
listen = "127.0.0.1:$admin"
END
token=$("$TELEHUB" device add barn-1 --registry "$dir/devices.toml" 2>/dev/null | tail -1)

echo "generating"
cp -rL "$kit/components" "$kit/thermometer.yaml" "$dir/"
(cd "$dir" && "$venv/bin/esphome" -q -s port "$devices" -s token "$token" compile --only-generate thermometer.yaml)
build="$dir/.esphome/build/barn-1"

echo "compiling"
mapfile -t flags < <(sed -n '/^build_flags =$/,/^[a-z_]* =/{s/^ *\(-[^ ]*\).*/\1/p}' "$build/platformio.ini" | sort -u)
c_flags=()
for flag in "${flags[@]}"; do [[ $flag == -D* ]] && c_flags+=("$flag"); done
(
    cd "$build"
    find src -name '*.cpp' -print0 |
        xargs -0 -P "$(nproc)" -I{} sh -c 'source=$1; shift; g++ -O1 -w "$@" -Isrc -c "$source" -o "$source.o"' sh {} "${flags[@]}"
    gcc -O1 "${c_flags[@]}" -Wall -Wextra -c src/esphome/components/telehub/telehub.c -o src/telehub.c.o
    find src -name '*.o' -print0 | xargs -0 g++ -lpthread -o node
    # The part for ESP32, on the stand-in for ESP-IDF.
    cp "$kit/components/telehub/"*.cpp src/esphome/components/telehub/
    g++ "${flags[@]}" -Wall -DTELEHUB_TASK -Isrc -I"$core/tests/esp-idf" -I"$core/include" -I"$core/esp-idf/include" \
        -fsyntax-only src/esphome/components/telehub/telehub_link.cpp
)

hub() {
    "$TELEHUB" run --config "$dir/telehub.toml" >>"$dir/hub.log" 2>&1 &
    pids+=($!)
    hub=$!
}
batches() {
    curl -sf "http://127.0.0.1:$admin/api/devices" |
        python3 -c 'import json, sys; print(next((d["seq"] or 0 for d in json.load(sys.stdin)), 0))' 2>/dev/null || echo 0
}
at_least() { [ "$(batches)" -ge "$1" ]; }

"$build/node" >"$dir/node.log" 2>&1 &
pids+=($!)
echo "the node runs, without a hub at first"
sleep 3
hub
until_true 60 "the first batches" at_least 5
kill "$hub"
wait "$hub" || true
echo "the hub is away"
before=$(date +%s)
sleep 8
hub
until_true 90 "batches after the outage" at_least 20
kill "$hub"
wait "$hub" || true
"$TELEHUB" spool export --config "$dir/telehub.toml" >"$dir/export"
python3 - "$dir/export" "$before" <<'END'
import json, sys

batches = [json.loads(line) for line in open(sys.argv[1])]
numbers = [batch["seq"] for batch in batches]
assert len({batch["stream"] for batch in batches}) == 1, "one run, one stream"
assert numbers == list(range(1, len(numbers) + 1)), f"numbers are missing: {numbers}"
records = [record for batch in batches for record in batch["pack"]]
for name, unit, seconds in (("milk_temperature", "Cel", 1), ("humidity", "%RH", 2)):
    times = [record["t"] for record in records if record["n"] == name]
    assert {record.get("u") for record in records if record["n"] == name} == {unit}, name
    span = max(times) - min(times)
    # One more or less at either end, and a loaded machine's node is late now and then.
    assert len(times) >= span / seconds * 0.8, f"{name}: {len(times)} readings in {span:.0f} s"
    assert any(0 < time - int(sys.argv[2]) < 8 for time in times), f"{name}: nothing of the outage"
assert {True, False} == {record["vb"] for record in records if record["n"] == "door"}, "both states of the door"
assert {"milking"} == {record["vs"] for record in records if record["n"] == "mode"}, "the mode"
print(f"{len(batches)} batches, {len(records)} readings: none is missing, those of the outage came later")
END
