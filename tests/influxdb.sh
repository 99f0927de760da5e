#!/usr/bin/env bash
# What the hub publishes in line protocol, written into InfluxDB and read back. Fetches Debian's package of
# the server (1.6, the last one in Debian) into target/ and installs nothing. Debian 12; some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${TELEHUB_INFLUXD:-}" ]; then
    home=$PWD/target/influxdb
    if [ ! -x "$home/usr/bin/influxd" ]; then
        mkdir -p "$home/package"
        (cd "$home/package" && rm -f ./*.deb && apt-get download influxdb)
        dpkg -x "$home"/package/influxdb_*.deb "$home"
    fi
    export TELEHUB_INFLUXD=$home/usr/bin/influxd
fi
cargo test --locked --workspace --features devices/demo --test influxdb "$@"
