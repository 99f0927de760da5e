#!/usr/bin/env bash
# Runs the hub against the brokers that Debian has: mosquitto by MQTT 5 and by 3.1.1, RabbitMQ, NATS
# JetStream. Prints what each of them does in every scenario, and ends with 1 when one does not do
# what docs/brokers.md says. Takes a quarter of an hour; installs what is missing.
#
#     tests/brokers.sh [--broker NAME]... [--scenario NAME]... [--keep DIR]
#
# TELEHUB and DEVICES may name the programs; otherwise they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
target="$(realpath "${CARGO_TARGET_DIR:-target}" 2>/dev/null || echo target)"

missing=()
need() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$1"); }
need mosquitto
need rabbitmq-server
need nats-server
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

if [ -z "${TELEHUB:-}" ] || [ -z "${DEVICES:-}" ]; then
    cargo build --quiet --locked --workspace --features devices/demo --bins
    TELEHUB="$target/debug/telehub"
    DEVICES="$target/debug/devices"
fi

venv="$target/brokers-venv"
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'paho-mqtt>=2'
fi
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=examples/consumers exec "$venv/bin/python" \
    tests/consumers/brokers.py --telehub "$TELEHUB" --devices "$DEVICES" "$@"
