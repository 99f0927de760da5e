#!/usr/bin/env bash
# The whole-daemon tests under the restrictions of systemd/telehub.service: its system call filter,
# its read-only file system, its user. Boots a small Debian in systemd-nspawn for that, and starts
# the unit itself in it as well: ready, status line, fields in the journal, a credential, a reload.
# What cannot run there, above all for want of root, runs outside, and only the hub is restricted:
# by the system call filters of the unit's own process, without a capability, on a file system that
# is read-only but for the tests' own directory (tests/support/restrict.c). Needs root.
#
#     tests/hardened.sh            # every test program that starts the daemon
#     tests/hardened.sh flow log   # only these
#
# ROOT_TAR=FILE: takes the Debian from this file, or makes it and keeps it there.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD
target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
[ "$(id -u)" -eq 0 ] || { echo "NOT TESTED: tests/hardened.sh needs root" >&2; exit 1; }

# Those that name the harness or the binary.
starts_the_daemon() {
    grep -lE '^#\[path = ".*support/daemon\.rs"\]|CARGO_BIN_EXE_telehub"' \
        tests/*.rs devices/tests/*.rs | sed 's|.*/||; s|\.rs$||'
}
# Why a program cannot run under the unit, as a whole; its hub can.
hindrance() {
    case "$1" in
        dashboard) echo "Chromium writes the code that it runs, which the unit forbids" ;;
        disk_read) echo "strace stands between the hub and its disk, and the unit forbids ptrace" ;;
        disk_trouble | power_cut) echo "its disks are loop devices, which need root" ;;
        session_cut) echo "its networks and disks need root" ;;
    esac
}
tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    for test in $(starts_the_daemon); do
        case "$test" in
            vm) echo "NOT TESTED: vm: its hub is in an emulated machine, by this unit: tests/vm.sh" >&2 ;;
            *) tests+=("$test") ;;
        esac
    done
fi

. tests/support/nspawn.sh
nspawn_needs pip3:python3-pip promtool:prometheus cc:gcc strace:strace ip:iproute2 \
    mkfs.ext4:e2fsprogs mosquitto:mosquitto chromium:chromium chromedriver:chromium-driver

echo "==> systemd-analyze security: at most 1.2"
systemd-analyze security --offline=true --threshold=12 systemd/telehub.service --no-pager |
    grep -E '✗|Overall'

echo "==> build"
# With the workspace's features, as in tests/run, so that nothing is built anew.
arguments=()
for test in "${tests[@]}"; do arguments+=(--test "$test"); done
programs=$(cargo test --locked --workspace --features devices/demo --no-run \
    --message-format=json "${arguments[@]}" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')

dir=$(mktemp -d)
root="$dir/root"
mkdir "$root"
finish() {
    nspawn_off
    rm -rf --one-file-system "$dir"
}
trap finish EXIT

echo "==> a Debian in $root"
# cc and Python are for tests: libraries that are loaded before the C library, a foreign device.
nspawn_debian "$root" gcc libc6-dev python3
install -m 755 "$(command -v promtool)" "$root/usr/local/bin/"
pip3 install --quiet --root-user-action=ignore --only-binary=:all: --target "$root/srv/python" \
    --python-version "$(chroot "$root" python3 -c 'import platform; print(platform.python_version())')" \
    'websockets>=14' 'cbor2>=5'
chroot "$root" useradd --system --home-dir /var/lib/telehub --no-create-home telehub
install -D -m 755 "$target_dir/debug/telehub" "$root/usr/bin/telehub"
install -D -m 644 -t "$root/etc/systemd/system" systemd/telehub.service systemd/telehub.socket
install -D -m 600 /dev/stdin "$root/etc/credstore/telehub.mqtt-password" <<< "opensesame"
sed -e 's/^#\(username = \).*/\1"barn"/' \
    -e 's/^#\(password_file = \).*/\1"telehub.mqtt-password"/' \
    -e 's/^auth = .*/auth = "open"/' systemd/telehub.toml |
    install -D -m 644 /dev/stdin "$root/etc/telehub/telehub.toml"
install -d -m 777 "$root/srv/out"
# The sources and what was built, to be where they are outside, and to be read by the unit's user
# whatever they may be outside.
mkdir -p "$root/srv/work" "$root/srv/debug/deps"
git ls-files -z | tar -c --ignore-failed-read --null -T - | tar -x -C "$root/srv/work"
chmod -R a+rX "$root/srv/work"
cc -O1 -Wall -static -o "$dir/restrict" tests/support/restrict.c
binds=()
for program in $programs; do
    case "$program" in
        */deps/*) name=deps/$(basename "$program" | sed 's/-[0-9a-f]*$//') ;;
        *) name=$(basename "$program") ;;
    esac
    binds+=("--bind-ro=$program:/srv/debug/$name")
done
case "$target_dir" in "$work"/*) mkdir -p "$root/srv/work/${target_dir#"$work"/}/debug" ;; esac
# The unit, with a test in the place of the hub, which starts the hub under the same restrictions.
sed -e '/^\(Type\|NotifyAccess\|Exec.*\|Restart.*\|Timeout.*\|WatchdogSec\|LoadCredential\)=/d' \
    -e 's/^ProtectHome=.*/ProtectHome=tmpfs/' \
    -e "s|^\[Service\]|&\nType=oneshot\nExecStart=$target_dir/debug/deps/%i --test-threads=2\n\
TimeoutStartSec=20min\nWorkingDirectory=$work\nEnvironment=TMPDIR=/var/lib/telehub\n\
Environment=TELEHUB_TEST_PYTHON=python3 PYTHONPATH=/srv/python\n\
BindReadOnlyPaths=/srv/work:$work /srv/debug:$target_dir/debug\n\
StandardOutput=append:/srv/out/%i.log\nStandardError=append:/srv/out/%i.log|" \
    systemd/telehub.service > "$root/etc/systemd/system/hardened@.service"

nspawn_boot "$root" --bind-ro="$dir/restrict:/srv/restrict" "${binds[@]}"
fail() { echo "$*" >&2; inside journalctl --no-pager -n 40 >&2; exit 1; }

echo "==> the unit itself"
inside systemctl start telehub || fail "telehub.service does not start"
main() { inside systemctl show -p MainPID --value telehub; }
first=$(main)
status() { inside systemctl show -p StatusText --value telehub; }
for _ in $(seq 100); do status | grep -q 'uplink down' && break; sleep 0.2; done
echo "status: $(status)"
status | grep -q '^uplink down since .*; 0 devices; spool empty$' || fail "the status line"
entry=$(inside journalctl --no-pager -o json -u telehub | grep '"TELEHUB_ADDRESS"' | head -1)
# The password that the configuration asks for is there, or the hub would not have started.
for part in '"PRIORITY":"6"' '"TELEHUB_ADDRESS":"127.0.0.1:8787"' '"_TRANSPORT":"journal"'; do
    grep -qF "$part" <<< "$entry" || fail "no $part in the journal: $entry"
done
inside systemctl reload telehub || fail "reload"
for _ in $(seq 100); do
    inside journalctl --no-pager -u telehub | grep -q 'configuration read again' && break
    sleep 0.1
done
inside journalctl --no-pager -u telehub | grep -q 'configuration read again' || fail "reload"
[ "$(main)" = "$first" ] || fail "the hub was started anew by a reload"
inside /srv/restrict save "$(main)" /srv/filters
begun=$(date +%s%N)
inside kill -STOP "$(main)"
until now=$(main) && [ "$now" != "$first" ] && [ "$now" != 0 ] &&
    [ "$(inside systemctl is-active telehub)" = active ]; do
    [ $(($(date +%s%N) - begun)) -lt 60000000000 ] || fail "the watchdog does not bite"
    sleep 0.1
done
echo "stopped by SIGSTOP, running again after $((($(date +%s%N) - begun) / 1000000)) ms"
inside systemctl stop telehub || fail "stop"
[ "$(inside systemctl show -p Result --value telehub)" = success ] || fail "the stop failed"

echo "==> the control: what must be refused"
cat > "$root/srv/debug/deps/control" <<'CONTROL'
#!/bin/sh
refused() { if "$@" 2>/dev/null; then echo "not refused: $*"; exit 1; fi; echo "refused: $*"; }
refused touch /etc/x
refused touch /usr/x
refused touch /srv/x
refused mount -t tmpfs tmpfs "$TMPDIR"
refused unshare --user true
refused mknod "$TMPDIR/x" c 1 3
grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status
echo "user: $(id -un)"
grep -q '^Seccomp:.*2$' /proc/self/status && grep -q '^CapBnd:\s*0*$' /proc/self/status &&
    touch "$TMPDIR/x"
CONTROL
chmod 755 "$root/srv/debug/deps/control"
inside systemctl start hardened@control || { cat "$root/srv/out/control.log"; exit 1; }
cat "$root/srv/out/control.log"
grep -qx 'user: telehub' "$root/srv/out/control.log"

failed=() passed=0 begun=$SECONDS
# told TEST SECOND: how a program has gone that began then.
told() {
    local log="$root/srv/out/$1.log" result
    # One that has said nothing of a result has failed, or runs no test.
    result=$(grep '^test result' "$log" | tail -1) || result="no result"
    printf '%s: %s (%s s)\n' "$1" "$result" $((SECONDS - $2))
    grep -E 'NOT TESTED|^SKIPPED|^test .* FAILED' "$log" | sed 's/^/    /' || true
    counted=$(sed -n 's/.* \([0-9]*\) passed.*/\1/p' <<< "$result")
}

echo "==> the tests under the unit"
rest=()
for test in "${tests[@]}"; do
    if [ -n "$(hindrance "$test")" ]; then
        rest+=("$test")
        continue
    fi
    at=$SECONDS
    LIMIT=1300 inside systemctl start "hardened@$test" || failed+=("$test")
    told "$test" "$at"
    passed=$((passed + counted))
    ! grep -qE 'NOT TESTED|^SKIPPED' "$root/srv/out/$test.log" || rest+=("$test")
done
nspawn_off

if [ "${#rest[@]}" -gt 0 ]; then
    echo "==> what cannot run there, outside, with only the hub restricted"
    mkdir "$dir/tmp"
    export TMPDIR="$dir/tmp" RUST_BACKTRACE=0
    export TELEHUB_RUNNER="$dir/restrict run $root/srv/filters $TMPDIR"
    $TELEHUB_RUNNER "$root/srv/debug/deps/control" | sed 's/^/    /'
fi
for test in "${rest[@]}"; do
    why=$(hindrance "$test")
    echo "$test: ${why:-has skipped something there}"
    at=$SECONDS log="$root/srv/out/$test.log"
    program=$(grep "/deps/$test-" <<< "$programs")
    timeout 1300 "$program" --test-threads=2 > "$log" 2>&1 || failed+=("$test")
    told "$test" "$at"
    # What has skipped something under the unit is counted already.
    [ -z "$why" ] || passed=$((passed + counted))
done
if [ "${#failed[@]}" -gt 0 ]; then
    for test in "${failed[@]}"; do tail -n 60 "$root/srv/out/$test.log" >&2; done
    echo "failed under the unit's restrictions: ${failed[*]}" >&2
    exit 1
fi
echo "==> $passed tests of ${#tests[@]} programs passed under the unit's restrictions in" \
    "$((SECONDS - begun)) s"
