#!/usr/bin/env bash
# The amd64 package on a real systemd: boots a small Debian in systemd-nspawn, installs the package
# and goes through what an operator and an accident do to it. Every check is a sentence with OK or
# FAILED before it. Needs root. Devices, consumer and broker are programs of this machine in the
# Debian's network, so that what they know outlives whatever happens to the hub.
#
#     tests/systemd.sh                 # all parts
#     tests/systemd.sh start watchdog  # only these; they are the files in tests/systemd
#
# DEBS=DIR: takes telehub_VERSION_amd64.deb, and the one with revision 99 for the upgrade, from there
# instead of making them. ROOT_TAR=FILE: takes the Debian from this file, or keeps it there.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(start config journal reload watchdog stop socket life)
[ "$(id -u)" -eq 0 ] || { echo "NOT TESTED: tests/systemd.sh needs root" >&2; exit 0; }

. tests/support/nspawn.sh
. tests/systemd/support.sh
nspawn_needs mosquitto:mosquitto mosquitto_sub:mosquitto-clients openssl:openssl

target_dir="$(realpath "${CARGO_TARGET_DIR:-target}")"
# Built with the workspace's features, as in tests/run, so that nothing is built anew.
cargo build --quiet --locked --workspace --features devices/demo --bins
devices="$target_dir/debug/devices"
# For stalls, which only a debug build can be asked for.
debug_hub="$target_dir/debug/telehub"
if [ -z "${DEBS:-}" ]; then
    DEBS="$target_dir/debian"
    rm -f "$DEBS"/telehub_*-99_amd64.deb
    systemd/package amd64
    REVISION=99 systemd/package amd64
fi
second=$(ls "$DEBS"/telehub_*-99_amd64.deb)
first=$(ls "$DEBS"/telehub_*_amd64.deb | grep -v -- '-99_amd64')

dir=$(mktemp -d)
root="$dir/root"
finish() {
    kill ${swarm:-} ${consumer:-} ${broker:-} ${client:-} 2>/dev/null || true
    nspawn_off
    rm -rf --one-file-system "$dir"
}
trap finish EXIT
trap 'echo "tests/systemd.sh ended early, at: $BASH_COMMAND" >&2' ERR
begun=$SECONDS

mkdir "$root" "$dir/debs"
cp "$first" "$second" "$dir/debs/"
nspawn_debian "$root"
boot() {
    nspawn_boot "$root" --bind-ro="$dir/debs:/debs" \
        --bind-ro="$debug_hub:/opt/telehub-debug"
}
boot
echo "a Debian has booted in $root ($((SECONDS - begun)) s)"

install_hub
for part in "${parts[@]}"; do
    title "$part"
    . "tests/systemd/$part.sh"
done

title "the whole run"
check "the hub has never said that something was lost: no error but those that were provoked" \
    no_unexpected_error
if [ "$failures" -gt 0 ]; then
    echo "$failures of $checks checks FAILED ($((SECONDS - begun)) s)" >&2
    exit 1
fi
echo "all $checks checks passed in $((SECONDS - begun)) s"
