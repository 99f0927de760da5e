#!/usr/bin/env bash
# The whole-daemon tests under the restrictions of systemd/telehub.service: its system call filter,
# its read-only file system, its user. Boots a small Debian in systemd-nspawn for that, and starts
# the unit itself in it as well: ready, status line, fields in the journal, a credential, a reload.
# Needs root. What asks for root within a test is skipped there, because the unit has none.
#
#     tests/hardened.sh            # all of them
#     tests/hardened.sh flow log   # only these
#
# ROOT_TAR=FILE: takes the Debian from this file, or makes it and keeps it there.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD
tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    tests=(bad_input crash flow listen_reload log service session_presence spool_late
        stopping)
fi
[ "$(id -u)" -eq 0 ] || { echo "NOT TESTED: tests/hardened.sh needs root" >&2; exit 1; }

. tests/support/nspawn.sh
nspawn_needs

echo "==> systemd-analyze security: at most 1.2"
systemd-analyze security --offline=true --threshold=12 systemd/telehub.service --no-pager |
    grep -E '✗|Overall'

echo "==> build"
arguments=()
for test in "${tests[@]}"; do arguments+=(--test "$test"); done
programs=$(cargo test --locked --no-run --message-format=json "${arguments[@]}" 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
hub=$(grep '/telehub$' <<< "$programs" | head -1)

root=$(mktemp -d)
finish() {
    nspawn_off
    rm -rf --one-file-system "$root" "$root.log"
}
trap finish EXIT

echo "==> a Debian in $root"
nspawn_debian "$root"
chroot "$root" useradd --system --home-dir /var/lib/telehub --no-create-home telehub
install -D -m 755 "$hub" "$root/usr/bin/telehub"
install -D -m 644 -t "$root/etc/systemd/system" systemd/telehub.service systemd/telehub.socket
install -D -m 600 /dev/stdin "$root/etc/credstore/telehub.mqtt-password" <<< "opensesame"
sed -e 's/^#\(username = \).*/\1"barn"/' \
    -e 's/^#\(password_file = \).*/\1"telehub.mqtt-password"/' \
    -e 's/^auth = .*/auth = "open"/' systemd/telehub.toml |
    install -D -m 644 /dev/stdin "$root/etc/telehub/telehub.toml"
install -d -m 777 "$root/srv/out"
# The unit, with a test in the place of the hub, which starts the hub under the same restrictions.
# The sources and what was built are where they are outside.
sed -e '/^\(Type\|NotifyAccess\|Exec.*\|Restart.*\|Timeout.*\|WatchdogSec\|LoadCredential\)=/d' \
    -e 's/^ProtectHome=.*/ProtectHome=tmpfs/' \
    -e "s|^\[Service\]|&\nType=oneshot\nExecStart=/srv/out/%i --test-threads=2\n\
TimeoutStartSec=20min\nWorkingDirectory=$work\nEnvironment=TMPDIR=/var/lib/telehub\n\
BindReadOnlyPaths=/srv/work:$work\nStandardOutput=append:/srv/out/%i.log\n\
StandardError=append:/srv/out/%i.log|" \
    systemd/telehub.service > "$root/etc/systemd/system/hardened@.service"
for program in $programs; do
    name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
    [ "$name" = telehub ] || install -m 755 "$program" "$root/srv/out/$name"
done

nspawn_boot "$root" --bind-ro="$work:/srv/work"
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
cat > "$root/srv/out/control" <<'CONTROL'
#!/bin/sh
refused() { if "$@" 2>/dev/null; then echo "not refused: $*"; exit 1; fi; echo "refused: $*"; }
refused touch /etc/telehub/x
refused touch /usr/x
refused touch /srv/out/x
refused mount -t tmpfs tmpfs /tmp
refused unshare --user true
refused mknod /tmp/x c 1 3
grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status
grep -q '^Seccomp:.*2$' /proc/self/status && touch /var/lib/telehub/x && [ "$(id -un)" = telehub ]
CONTROL
chmod 755 "$root/srv/out/control"
inside systemctl start hardened@control || { cat "$root/srv/out/control.log"; exit 1; }
cat "$root/srv/out/control.log"

echo "==> the tests"
failed=()
for test in "${tests[@]}"; do
    inside systemctl start "hardened@$test" || failed+=("$test")
    grep -E '^test |NOT TESTED|^test result' "$root/srv/out/$test.log" || true
done
if [ "${#failed[@]}" -gt 0 ]; then
    for test in "${failed[@]}"; do tail -n 60 "$root/srv/out/$test.log" >&2; done
    echo "failed under the unit's restrictions: ${failed[*]}" >&2
    exit 1
fi
echo "==> all passed under the unit's restrictions"
