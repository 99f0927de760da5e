#!/usr/bin/env bash
# Runs docs/install.md and docs/operations.md: every command in them as it is written there, in
# order, by a user with sudo on a small Debian that systemd-nspawn boots. Outputs that stand beside
# commands are compared. What can only be done elsewhere (the card, the other computer) is listed as
# NOT RUN. Needs root.
#
#     tests/docs.sh
#
# DEB=FILE: the amd64 package, instead of making it, with telehub-devices beside it. They go by the
# names that the pages use.
# SUITE=trixie: on Debian 13; bookworm, Debian 12, if nothing is said.
# ROOT_TAR=FILE: takes the Debian from this file, or makes it and keeps it there.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "NOT TESTED: tests/docs.sh needs root" >&2; exit 0; }
. tests/support/nspawn.sh
nspawn_needs python3:python3 openssl:openssl
pages=(docs/install.md docs/operations.md)

if [ -z "${DEB:-}" ]; then
    target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
    systemd/package amd64
    DEB=$(ls "$target"/debian/telehub_*_amd64.deb | grep -v -- '-99_amd64' | tail -1)
fi

dir=$(mktemp -d)
root="$dir/root"
home="$root/home/pi"
finish() {
    if [ -n "${watch:-}" ]; then
        inside pkill -u pi || true
        # A Debian that does not end by itself in time is not waited for.
        (sleep 30 && kill -KILL "$init") > /dev/null 2>&1 &
        guard=$!
        nspawn_off
        kill "$guard" 2>/dev/null || true
    else
        nspawn_off
    fi
    rm -rf --one-file-system "$dir"
}
trap finish EXIT
mkdir "$root"
# What a Raspberry Pi OS Lite has, as far as the pages use it, and what they install with apt.
packages=systemd,systemd-sysv,dbus,sudo,curl,openssl,procps,libgcc-s1,ca-certificates
packages+=,mosquitto,mosquitto-clients,python3-minimal,python3-websockets
if [ -n "${ROOT_TAR:-}" ] && [ -f "$ROOT_TAR" ]; then
    tar -C "$root" -xf "$ROOT_TAR"
else
    mmdebstrap --quiet --variant=minbase --include="$packages" "${SUITE:-bookworm}" "$root"
    if [ -n "${ROOT_TAR:-}" ]; then tar -C "$root" -cf "$ROOT_TAR" .; fi
fi
chroot "$root" systemctl --quiet disable mosquitto
chroot "$root" useradd --create-home --shell /bin/bash --groups adm pi
echo 'pi ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/pi"
echo '127.0.0.1 localhost barn broker.example' > "$root/etc/hosts"
echo barn > "$root/etc/hostname"
# A place of its own among the control groups: two booted systems would have the same names there.
group="/sys/fs/cgroup/systemd/telehub-docs.$$"
{ mkdir "$group" && echo "$$" > "$group/cgroup.procs"; } 2>/dev/null || true
nspawn_boot "$root" --hostname=barn
echo "a Debian has booted in $root"

# What stands between the commands.
certificate() { # FILE NAME: FILE.pem and FILE.key, signed by itself, for 30 days
    printf '%s\n' '[req]' distinguished_name=name x509_extensions=for '[name]' '[for]' \
        basicConstraints=critical,CA:FALSE "subjectAltName=DNS:$2" > "$dir/openssl.cnf"
    openssl req -config "$dir/openssl.cnf" -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
        -nodes -days 30 -subj "/CN=$2" -keyout "$1.key" -out "$1.pem" 2> /dev/null
}
give() { chown --reference="$home" "$@"; }
hook() {
    case $1 in
        package) cp "$DEB" "$home/telehub_0_arm64.deb" ;;
        "devices package")
            cp "${DEB%/*}/telehub-devices_${DEB##*/telehub_}" "$home/telehub-devices_0_arm64.deb" ;;
        "wait for the machine")
            for _ in $(seq 150); do
                inside telehub status 2>/dev/null | grep -q 'machine  *online' && return
                sleep 0.2
            done
            inside journalctl --no-pager -u telehub-machine >&2 || true
            return 1 ;;
        "next package")
            dpkg-deb -R "$DEB" "$dir/next"
            sed -i 's/^\(Version: .*\)$/\1.1/' "$dir/next/DEBIAN/control"
            dpkg-deb --root-owner-group -b "$dir/next" "$home/telehub_1_arm64.deb" > /dev/null ;;
        broker)
            certificate "$dir/broker" broker.example
            install -m 644 "$dir/broker.pem" "$root/etc/telehub/broker-ca.pem"
            install -m 644 "$dir/broker.pem" "$dir/broker.key" "$root/etc/mosquitto/certs/"
            cat > "$root/etc/mosquitto/conf.d/docs.conf" << 'CONF'
per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
listener 8883 127.0.0.1
certfile /etc/mosquitto/certs/broker.pem
keyfile /etc/mosquitto/certs/broker.key
password_file /etc/mosquitto/passwords
CONF
            hook "password: the password" ;;
        "password: "*)
            inside mosquitto_passwd -b -c /etc/mosquitto/passwords barn "${1#password: }"
            chmod 644 "$root/etc/mosquitto/passwords"
            inside systemctl restart mosquitto ;;
        "wait for the uplink")
            for _ in $(seq 150); do
                inside telehub status --json 2>/dev/null | grep -q '"state":"connected"' && return
                sleep 0.2
            done
            inside telehub status >&2 || true
            return 1 ;;
        certificate) certificate "$home/hub" barn.local; give "$home"/hub.* ;;
        *) echo "nobody knows what to do for: $1" >&2; return 1 ;;
    esac
}

ran=0 compared=0 not_run=()
for page in "${pages[@]}"; do
    steps="$dir/$(basename "$page")"
    mkdir "$steps"
    python3 tests/support/pages.py split "$page" "$steps"
    for step in "$steps"/*; do
        fail() {
            { echo "$page, $*"; cat "$step"; echo "--- it printed:"; cat "$dir/output"; } >&2
            inside journalctl --no-pager -u telehub -n 20 >&2
            exit 1
        }
        case $step in
            *.hook)
                echo "$page: ($(cat "$step"))"
                hook "$(cat "$step")" ;;
            *.toml)
                echo "$page: $(head -1 "$step") in telehub.toml"
                python3 tests/support/pages.py edit "$root/etc/telehub/telehub.toml" < "$step" ;;
            *.elsewhere) not_run+=("$page: $(cat "$step")") ;;
            *.sh)
                echo "$page: $(head -1 "$step")"
                cp "$step" "$home/.step"
                timeout 120 nsenter -t "$init" -a su - pi -c 'bash -e .step' < /dev/null > "$dir/output" 2> "$dir/errors" || {
                    cat "$dir/errors" >> "$dir/output"
                    fail "this failed:"
                }
                ran=$((ran + $(grep -c . "$step"))) ;;
            *.expect)
                python3 tests/support/pages.py match "$step" "$dir/output" ||
                    fail "this was expected:"
                compared=$((compared + 1)) ;;
            *.watch)
                echo "$page: $(head -1 "$step")"
                cp "$step" "$home/.watch"
                inside su - pi -c 'exec bash -e .watch' < /dev/null > "$dir/watched" 2>&1 &
                watch=$! ;;
            *.watched)
                cp "$dir/watched" "$dir/output"
                for _ in $(seq 150); do
                    ! python3 tests/support/pages.py find "$step" "$dir/output" || break
                    sleep 0.2
                    cp "$dir/watched" "$dir/output"
                done
                python3 tests/support/pages.py find "$step" "$dir/output" ||
                    fail "this was expected in the second terminal:"
                compared=$((compared + 1)) ;;
        esac
    done
done
printf 'NOT RUN: %s\n' "${not_run[@]}" >&2
echo "$ran lines of commands ran as written, $compared outputs were as expected"
