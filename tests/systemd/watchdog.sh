# What ends by accident, and what stands still, is started again, and nothing acked is lost.

seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }
# Fed a moment ago, not just now: the time that the watchdog allows has begun by then.
fed_before() {
    local fed now
    fed=$(value WatchdogTimestampMonotonic)
    now=$(awk '{printf "%.0f", $1 * 1000000}' /proc/uptime)
    [ $((now - fed)) -gt "$1" ]
}
uptime_ms() { awk '{printf "%.0f", $1 * 1000}' /proc/uptime; }
# When the unit became active, by systemd's own watch, which is the one of /proc/uptime.
active_since_ms() { echo $(($(value ActiveEnterTimestampMonotonic) / 1000)); }
# One second to end and to start, or twice what a plain restart takes where that is more: on a
# machine that is busy with other things.
measure_spare() {
    local begun_ms
    begun_ms=$(uptime_ms)
    inside systemctl restart telehub
    spare=$((2 * ($(active_since_ms) - begun_ms)))
    [ "$spare" -gt 1000 ] || spare=1000
}
signal() { inside sh -c 'kill -s "$1" "$2"' - "$1" "$2"; }

swarm_begin 4
measure_spare
check "all devices are there" eventually fleet_is_in
old=$(pid)
begun_ms=$(uptime_ms)
signal KILL "$old"
check "a hub that was killed is started again" eventually pid_is_new "$old"
took=$(($(active_since_ms) - begun_ms))
check "after the unit's pause of 5 s ($(seconds $took))" at_most "$took" 30000
check "all devices are back" eventually fleet_is_in
flows 100

old=$(pid)
before=$(moment)
eventually fed_before 2000000 || true
begun_ms=$(uptime_ms)
signal STOP "$old"
check "a hub that was stopped by SIGSTOP is started again" eventually pid_is_new "$old"
took=$(($(active_since_ms) - begun_ms))
check "within WatchdogSec + $(seconds $spare) ($(seconds $took))" \
    at_most "$took" $((20000 + spare))
check "it was the watchdog" said "$before" 'Watchdog timeout'
check "all devices are back" eventually fleet_is_in
flows 100
check "everything is acked" swarm_end
check "the consumer has what was acked" nothing_lost

title "stalls of one part, in a debug build with WatchdogSec=6s"
dropin debug <<'UNIT'
[Service]
ExecStart=
ExecStart=/opt/telehub-debug run --config /etc/telehub/telehub.toml
Environment=TELEHUB_STALL=/run/telehub-stall
ExecStopPost=+/bin/rm -f /run/telehub-stall
WatchdogSec=6s
UNIT
inside systemctl restart telehub
swarm_begin 4
measure_spare
for part in "the intake" "the uplink" "the device port" "the spool"; do
    check "all devices are there" eventually fleet_is_in
    flows 50
    old=$(pid)
    before=$(moment)
    # The spool's thread has nothing to do while the broker is there.
    [ "$part" != "the spool" ] || broker_down
    eventually fed_before 700000 || true
    echo "$part" > "$root/srv/stall"
    begun_ms=$(uptime_ms)
    inside cp /srv/stall /run/telehub-stall
    check "$part stands still: started again" eventually pid_is_new "$old"
    took=$(($(active_since_ms) - begun_ms))
    check "within WatchdogSec + $(seconds $spare) ($(seconds $took))" \
        at_most "$took" $((6000 + spare))
    check "the journal names the part" said "$before" "makes no progress.*parts=.*$part"
    [ -n "$broker" ] || broker_up
done
check "all devices are back" eventually fleet_is_in
check "everything is acked" swarm_end
check "the consumer has what was acked" nothing_lost
no_dropin debug
inside systemctl restart telehub
