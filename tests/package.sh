#!/usr/bin/env bash
# Takes the amd64 packages through their lives in a small Debian of its own: install, start, upgrade,
# remove, install again, purge. Needs root, by itself or through sudo.
# Makes the packages unless they are there (systemd/package), and checks all of them with lintian.
#
#     tests/package.sh
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
debs="${CARGO_TARGET_DIR:-target}/debian"

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need lintian lintian
need mmdebstrap mmdebstrap
need ip iproute2
need xmllint libxml2-utils
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Built with the workspace's features, as in tests/run, so that nothing is built anew.
cargo build --quiet --locked --workspace --features devices/demo --bin devices
devices="$(realpath "${CARGO_TARGET_DIR:-target}")/debug/devices"

rm -f "$debs"/*.deb
systemd/package
for deb in "$debs"/*.deb; do
    echo "lintian: $deb"
    lintian --tag-display-limit 0 --fail-on error,warning "$deb"
done
first=$(ls "$debs"/telehub_*_amd64.deb)
simulators=$(ls "$debs"/telehub-devices_*_amd64.deb)

# The same again is the same, byte for byte.
sums=$(sha256sum "$first" "$simulators")
systemd/package amd64 > /dev/null
if [ "$sums" != "$(sha256sum "$first" "$simulators")" ]; then
    echo "the same commit made two different packages: $first or $simulators" >&2
    exit 1
fi
# Each has a bill of materials, of itself.
for deb in "$first" "$simulators"; do
    python3 - "${deb%.deb}.cdx.json" "$(basename "${deb%%_*}")" << 'PYTHON'
import json, sys
bill = json.load(open(sys.argv[1]))
assert bill["metadata"]["component"]["name"] == sys.argv[2], bill["metadata"]
names = {part["name"] for part in bill["components"]}
assert "tokio" in names and ("sled" in names) == (sys.argv[2] == "telehub"), names
assert "rumqttd" not in names and "telehub" not in names, names
PYTHON
done
REVISION=99 systemd/package amd64
second=$(ls "$debs"/telehub_*-99_amd64.deb)

root=$(mktemp -d)
finish() {
    [ -z "${hub:-}" ] || as_root kill "$hub" 2>/dev/null || true
    [ -z "${avahi:-}" ] || as_root kill "$avahi" 2>/dev/null || true
    [ -z "${net:-}" ] || as_root ip netns del "$net"
    as_root rm -rf --one-file-system "$root"
}
trap finish EXIT
echo "a Debian in $root"
as_root mmdebstrap --quiet --variant=minbase --include=systemd,avahi-daemon bookworm "$root"
as_root mkdir "$root/debs"
as_root cp "$first" "$second" "$simulators" "$root/debs/"
inside() { as_root chroot "$root" "$@"; }
dpkg_() { inside env DEBIAN_FRONTEND=noninteractive dpkg "$@" 2>&1 | tee "$root/said"; }
said() { grep -q "$1" "$root/said" || { echo "dpkg did not say: $1" >&2; exit 1; }; }
fail() { echo "$*" >&2; exit 1; }
is() { [ "$1" = "$2" ] || fail "$3: $1 instead of $2"; }

# A network of its own, because the default port may be taken here.
net="telehub-package-$$"
as_root ip netns add "$net"
as_root ip -n "$net" link set lo up
# A link to announce the hub on.
as_root ip -n "$net" link add lan type veth peer name port
as_root ip -n "$net" link set port up
as_root ip -n "$net" link set lan up multicast on
as_root ip -n "$net" address add 10.99.0.1/24 dev lan
root_prefix=()
[ "$(id -u)" -eq 0 ] || root_prefix=(sudo)
start_hub() {
    # "ip netns exec" and chroot become the hub, and sudo passes signals on.
    "${root_prefix[@]}" ip netns exec "$net" chroot --userspec=telehub:telehub "$root" \
        telehub run 2> "$root/log" &
    hub=$!
    for _ in $(seq 200); do
        if grep -q ' listening' "$root/log"; then return; fi
        kill -0 "$hub" 2>/dev/null || break
        sleep 0.1
    done
    cat "$root/log" >&2
    fail "the hub does not start with the configuration as it is installed"
}
stop_hub() {
    as_root kill "$hub"
    wait "$hub" || fail "the hub did not stop in order: $(tail -3 "$root/log")"
    hub=
}
stored() { inside telehub spool stat | sed -n 's/^stored *\([0-9]*\) batches.*/\1/p'; }

echo "install"
dpkg_ -i "/debs/${first##*/}"
said "telehub device add ID"
is "$(inside stat -c '%U:%G %a' /var/lib/telehub)" "telehub:telehub 750" "the state directory"
inside telehub check > /dev/null
for file in /usr/share/man/man1/telehub.1.gz /usr/share/man/man5/telehub.toml.5.gz \
    /usr/share/bash-completion/completions/telehub /lib/systemd/system/telehub.service; do
    [ -e "$root$file" ] || fail "$file is missing"
done

echo "first start, as installed and without a broker; a device is let in by root"
start_hub
token=$(inside telehub device add barn-0)
is "$(inside stat -c '%U:%G %a' /var/lib/telehub/devices.toml)" "telehub:telehub 640" "the registry"
echo "barn-0 $token" > "$root/tokens"
# A running hub knows a new device within two seconds; a slow machine may need another try.
for try in 1 2 3 4 5 failed; do
    sleep 2
    [ "$try" != failed ] || fail "the device is not taken: $(cat "$root/swarm")"
    if as_root ip netns exec "$net" "$devices" swarm --quiet --hub ws://127.0.0.1:8787 --prefix barn --devices 1 \
        --tokens "$root/tokens" --batches 50 --rate 100 > "$root/swarm" 2>&1; then break; fi
done
stop_hub
is "$(stored)" 50 "batches acked without a broker, in the spool"

echo "the network is told where the hub is"
announced=/etc/avahi/services/telehub.service
xmllint --noout --dtdvalid "$root/usr/share/avahi/avahi-service.dtd" "$root$announced"
is "$(sed -n 's/.*<port>\(.*\)<.*/\1/p' "$root$announced")" \
    "$(sed -n 's/^listen = ".*:\(8787\)".*/\1/p' "$root/etc/telehub/telehub.toml")" "the announced port"
printf '[server]\nenable-dbus=no\nuse-ipv6=no\n' | as_root tee "$root/etc/avahi/test.conf" > /dev/null
"${root_prefix[@]}" ip netns exec "$net" chroot "$root" avahi-daemon --no-drop-root --no-chroot \
    --no-rlimits --debug --file /etc/avahi/test.conf > "$root/announced" 2>&1 &
avahi=$!
for try in $(seq 200) failed; do
    [ "$try" != failed ] || fail "Avahi does not announce the hub: $(cat "$root/announced")"
    if grep -q 'Service "telehub on .*telehub.service) successfully established' "$root/announced"; then break; fi
    kill -0 "$avahi" 2>/dev/null || fail "Avahi does not run: $(cat "$root/announced")"
    sleep 0.1
done
as_root kill "$avahi"
wait "$avahi" || true
avahi=

echo "the second package: installed beside it, off; this machine reports itself; purged"
dpkg_ -i "/debs/${simulators##*/}"
said "man telehub-devices-machine"
for file in /usr/share/man/man1/telehub-devices.1.gz /usr/share/man/man1/telehub-devices-machine.1.gz \
    /lib/systemd/system/telehub-machine.service /usr/share/doc/telehub-devices/third-party.gz; do
    [ -e "$root$file" ] || fail "$file is missing"
done
for wants in "$root"/etc/systemd/system/*.wants/telehub-machine.service; do
    [ ! -e "$wants" ] || fail "the unit is on: $wants"
done
inside systemd-analyze verify --man=no telehub-machine.service
inside telehub device add machine-1 > "$root/machine-token"
start_hub
for try in 1 2 3 4 5 failed; do
    sleep 2
    [ "$try" != failed ] || fail "this machine is not taken: $(cat "$root/machine")"
    # Not in the chroot, which has no /proc to read.
    if as_root timeout --signal=TERM 5 ip netns exec "$net" "$root/usr/bin/telehub-devices" machine --quiet \
        --id machine-1 --token-file "$root/machine-token" --interval 1s > "$root/machine" 2>&1 ||
        grep -q ' [1-9][0-9]* batches with .* acked, 0 rejected, 0 given up, 0 unacked' "$root/machine"
    then break; fi
done
stop_hub
before=$(stored)
[ "$before" -gt 50 ] || fail "what this machine reported is not in the spool"
inside telehub device remove machine-1
inside sh -c 'sed -i "s/5s/9s/" /etc/default/telehub-machine'
dpkg_ -r telehub-devices
[ ! -e "$root/usr/bin/telehub-devices" ] || fail "the simulators are still there"
[ -e "$root/etc/default/telehub-machine" ] || fail "the options went with the package"
dpkg_ -P telehub-devices
as_root rm "$root/machine-token"

echo "upgrade"
inside sh -c 'echo "# mine" >> /etc/telehub/telehub.toml'
dpkg_ -i "/debs/${second##*/}"
is "$(stored)" "$before" "batches in the spool after the upgrade"
is "$(inside tail -1 /etc/telehub/telehub.toml)" "# mine" "the configuration after the upgrade"
start_hub
stop_hub

echo "remove"
dpkg_ -r telehub
said "keeps $before batches"
[ ! -e "$root/usr/bin/telehub" ] || fail "the binary is still there"
[ -e "$root/var/lib/telehub/devices.toml" ] || fail "the registry went with the package"
[ -e "$root/etc/telehub/telehub.toml" ] || fail "the configuration went with the package"

echo "install again"
dpkg_ -i "/debs/${second##*/}"
is "$(stored)" "$before" "batches in the spool after a removal"
is "$(inside telehub device list | cut -d' ' -f1)" barn-0 "the registry after a removal"

echo "purge"
dpkg_ -P telehub
said "deleting /var/lib/telehub: the tokens of 1 devices, .* with $before batches"
left=$(as_root find "$root" -xdev -name '*telehub*' -not -path "$root/debs/*" \
    -not -path "$root/var/log/*" -not -path "$root/proc/*")
is "$left" "" "what is left after the purge"

echo "install from a repository of its own, signed with a key made for this"
need gpg gpg
export GNUPGHOME="$root/gnupg"
as_root install -d -m 700 -o "$(id -u)" -g "$(id -g)" "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'telehub test' ed25519 sign never
SIGNING_KEY='telehub test' systemd/repository "$root/tmp/apt" "$first" "$simulators" > "$root/tmp/told"
grep -q 'stable main' "$root/tmp/told" || fail "it is not said how to use the repository"
as_root cp -r "$root/tmp/apt" "$root/apt"
as_root install -D -m 644 "$root/apt/telehub.asc" "$root/etc/apt/keyrings/telehub.asc"
line='deb [signed-by=/etc/apt/keyrings/telehub.asc] file:/apt stable main'
echo "$line" | as_root tee "$root/etc/apt/sources.list.d/telehub.list" > /dev/null
ours=(-o Dir::Etc::sourcelist=sources.list.d/telehub.list -o Dir::Etc::sourceparts=-)
inside apt-get "${ours[@]}" update
inside env DEBIAN_FRONTEND=noninteractive apt-get "${ours[@]}" install -y telehub telehub-devices
is "$(inside telehub --version | cut -d' ' -f1)" telehub "the hub from the repository"
inside telehub-devices --version
dpkg_ -P telehub telehub-devices
# A repository that somebody has changed is not believed.
as_root sed -i 's/^Version: .*/Version: 9/' "$root/apt/dists/stable/main/binary-amd64/Packages"
as_root rm "$root/apt/dists/stable/main/binary-amd64/Packages.gz"
# What apt has read before it would not read again.
as_root rm -rf "$root/var/lib/apt/lists"
as_root mkdir -p "$root/var/lib/apt/lists/partial"
if inside apt-get "${ours[@]}" -o APT::Update::Error-Mode=any update > "$root/said" 2>&1; then
    fail "apt took an index that nobody has signed: $(cat "$root/said")"
fi

echo "the package is well"
