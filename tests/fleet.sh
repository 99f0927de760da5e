#!/usr/bin/env bash
# A fleet: three hubs, 300 devices that go from hub to hub, a cluster of three RabbitMQ nodes with quorum queues,
# a consumer; nodes, hubs and the consumer are killed in turn. Prints what was lost, doubled and out of order; ends
# with 1 if anything was lost. Needs rabbitmq-server; some ten minutes. Arguments go to tests/consumers/fleet.py.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

[ -x /usr/sbin/rabbitmq-server ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server
venv=target/fleet-venv
[ -x "$venv/bin/python" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q 'paho-mqtt>=2'; }
cargo build --locked --workspace --features devices/demo
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=examples/consumers:tests/consumers \
    "$venv/bin/python" tests/consumers/fleet.py "$@"
