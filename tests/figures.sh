#!/usr/bin/env bash
# Bytes and round trips of a device that wakes, sends one reading and sleeps, and bytes a reading of one
# that stays: telehub beside MQTT QoS 1 (mosquitto), plain and by TLS 1.3, counted on the loopback. Prints
# the tables of docs/kits.md. Takes a minute. TELEHUB may name the hub's program.
#
#     tests/figures.sh
set -euo pipefail
cd "$(dirname "$0")/.."
target="$(realpath "${CARGO_TARGET_DIR:-target}" 2>/dev/null || echo "$PWD/target")"
if [ -z "${TELEHUB:-}" ]; then
    cargo build --quiet --locked --workspace --features devices/demo --bin telehub
    TELEHUB="$target/debug/telehub"
fi
command -v openssl >/dev/null || { echo "openssl is needed" >&2; exit 1; }
[ -x /usr/sbin/mosquitto ] || { echo "mosquitto is needed: apt-get install mosquitto" >&2; exit 1; }
venv="$target/figures-venv"
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'paho-mqtt>=2' 'cbor2>=5'
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" tests/consumers/figures.py "$TELEHUB"
