# What the parts of tests/systemd.sh have in common: checks, waits, load, and the account of what
# was acked. Sourced.

checks=0 failures=0
title() { printf '\n==> %s\n' "$1"; }

# check SENTENCE COMMAND…
check() {
    local sentence=$1
    shift
    checks=$((checks + 1))
    if "$@"; then
        printf 'OK      %s\n' "$sentence"
    else
        failures=$((failures + 1))
        printf 'FAILED  %s\n' "$sentence"
        {
            echo "        $*; unit: $(show ActiveState,SubState,Result,NRestarts,StatusText | tr '\n' ' ')"
            inside journalctl --no-pager -o short-precise -u telehub -n 300 |
                grep -v ' device .*connected ' | tail -12 | sed 's/^/        /'
        } >&2 || true
    fi
}

# within SECONDS COMMAND…: true once the command is.
within() {
    local end=$(($(date +%s%N) + $1 * 1000000000))
    shift
    until "$@"; do
        [ "$(date +%s%N)" -lt "$end" ] || return 1
        sleep 0.1
    done
}
# For what has no bound of its own: as long as a busy machine may need.
eventually() { within 90 "$@"; }
not() { ! "$@"; }
is() { [ "$1" = "$2" ] || { echo "        $1 instead of $2" >&2; return 1; }; }
at_most() { [ "$1" -le "$2" ] || { echo "        $1, more than $2" >&2; return 1; }; }

# ---- the unit

show() { inside systemctl show telehub -p "$1"; }
value() { inside systemctl show telehub -p "$1" --value; }
active() { [ "$(value ActiveState)" = active ]; }
state_is() { [ "$(value ActiveState)" = "$1" ]; }
status_is() { grep -qE "^$1\$" <<< "$(value StatusText)"; }
pid() { value MainPID; }
# pid_is_new OLD: another process than OLD, and ready.
pid_is_new() { active && [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ]; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# A moment; journal MOMENT… shows what was said since. Not a cursor: with filters journalctl 252 skips
# the first entry after one.
moment() { date +@%s.%6N; }
journal() {
    inside journalctl -q --no-pager -u telehub --since="$1" "${@:2}"
}
said() { grep -qE "$2" <<< "$(journal "$1" -o cat)"; }

# What the checks provoke by themselves is said with its words; anything else at level error fails.
no_unexpected_error() {
    local errors
    errors=$(inside journalctl -q --no-pager -o cat -p err _SYSTEMD_UNIT=telehub.service _TRANSPORT=journal |
        grep -vE "$expected_errors" || true)
    [ -z "$errors" ] || { sed 's/^/        /' <<< "$errors" >&2; return 1; }
}
expected_errors='a part of the hub makes no progress|the configuration has errors|telehub.toml'

settings=/etc/telehub/telehub.toml
# set_key KEY VALUE: in the configuration; a key that is commented out is put to use.
set_key() { sed -i -E "s|^#?($1) = .*|\1 = $2|" "$root$settings"; }

# Drop-ins of this run.
dropin() { install -D -m 644 /dev/stdin "$root/etc/systemd/system/telehub.service.d/$1.conf"; inside systemctl daemon-reload; }
no_dropin() { rm -f "$root/etc/systemd/system/telehub.service.d/$1.conf"; inside systemctl daemon-reload; }

# ---- the broker and the consumer

broker= consumer=
broker_up() {
    cat > "$dir/mosquitto.conf" <<CONF
listener 1883 127.0.0.1
allow_anonymous true
user root
persistence true
persistence_location $dir/
max_queued_messages 0
log_dest file $dir/mosquitto.log
log_type error
log_type warning
log_type subscribe
CONF
    PATH=$PATH:/usr/sbin nsenter -t "$init" -n mosquitto -c "$dir/mosquitto.conf" 2>/dev/null &
    broker=$!
    eventually broker_answers
}
broker_answers() { net mosquitto_pub -h 127.0.0.1 -t up -n 2>/dev/null; }
broker_down() { kill "$broker"; wait "$broker" || true; broker=; }

# Its session is kept by the broker, so it gets what was published while it was away.
consumer_up() {
    nsenter -t "$init" -n mosquitto_sub -h 127.0.0.1 -i consumer -c -q 1 -t 'telehub/#' -F '%t %p' \
        >> "$dir/told" 2>> "$dir/consumer.log" &
    consumer=$!
    eventually grep -q 'consumer .* telehub/#' "$dir/mosquitto.log"
}
consumer_down() { kill "$consumer"; wait "$consumer" || true; consumer=; }
retained() { net timeout 30 mosquitto_sub -h 127.0.0.1 -t "$1" -C 1; }

# ---- devices, and the account

fleet=50
let_in() {
    inside sh -c 'for i in $(seq 0 $(($1 - 1))); do
        echo "field-$i $(telehub device add field-$i)"; done' - "$fleet" > "$dir/tokens"
    # A running hub follows within 2 s.
    eventually last_is_in || echo "        the devices are not let in" >&2
}
last_is_in() {
    [ "$(upgrade $(tail -1 "$dir/tokens"))" = 101 ] || { sleep 0.3; false; }
}

swarm= acked_in_all=0
# swarm_begin RATE [OPTION]…: that many batches a second from each of the fleet, until swarm_end.
swarm_begin() {
    nsenter -t "$init" -n "$devices" swarm --hub ws://127.0.0.1:8787 --prefix field \
        --devices "$fleet" --tokens "$dir/tokens" --batch 2 --rate "$1" --quiet --report-json \
        --ramp-timeout 90s --drain-timeout 90s "${@:2}" > "$dir/report" 2> "$dir/swarm.log" &
    swarm=$!
    eventually fleet_is_in || echo "        not all devices are connected" >&2
}
fleet_is_in() { status_is ".*; $fleet devices; .*"; }
report() { sed -n "s/.*\"$1\":\([0-9a-z]*\)[,}].*/\1/p" "$dir/report"; }
# Everything that the devices have made is acked, before they are done.
swarm_end() {
    kill "$swarm"
    if ! wait "$swarm"; then
        swarm=
        sed 's/^/        /' "$dir/report" >&2
        tail -5 "$dir/swarm.log" | sed 's/^/        /' >&2
        return 1
    fi
    swarm=
    acked_in_all=$((acked_in_all + $(report acked)))
}

published() {
    sed -n 's/^telehub\/barn\/[^/]*\/\(data\|history\) .*"device":"\([^"]*\)","stream":"\([^"]*\)","seq":\([0-9]*\),.*/\2 \3 \4/p' \
        "$dir/told" | sort -u | wc -l
}
has_published() { [ "$(published)" -ge "$1" ]; }
# Every batch that a device was told to be safe has reached the consumer, and nothing was given up.
nothing_lost() {
    eventually has_published "$acked_in_all" || true
    is "$(published)" "$acked_in_all" && not grep -q '^telehub/barn/[^/]*/gap ' "$dir/told"
}
# flows MORE: that many batches more than now have reached the consumer.
flows() {
    eventually has_published $(($(published) + $1)) || echo "        no data comes through" >&2
}

dpkg_() {
    inside env DEBIAN_FRONTEND=noninteractive dpkg "$@" > "$dir/dpkg" 2>&1 ||
        { cat "$dir/dpkg" >&2; return 1; }
}
dpkg_said() { grep -qE "$1" "$dir/dpkg" || { cat "$dir/dpkg" >&2; return 1; }; }

install_hub() {
    title "install"
    check "the package installs, and its service is started by that" dpkg_ -i "/debs/${first##*/}"
    check "the unit is active" eventually active
    check "the service is enabled, the socket is not" is \
        "$(inside systemctl is-enabled telehub.service telehub.socket | tr '\n' ' ')" "enabled disabled "
    broker_up
    consumer_up
    let_in
}

# request ID TOKEN: what a device asks the hub first. upgrade ID TOKEN: the status of the answer.
request() {
    printf '%s\r\n' "GET /v1/devices/$1 HTTP/1.1" 'Host: hub' 'Connection: Upgrade' \
        'Upgrade: websocket' 'Sec-WebSocket-Version: 13' \
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' "Authorization: Bearer $2" ''
}
upgrade() {
    request "$1" "$2" > "$dir/upgrade"
    net bash -c 'exec 3<>/dev/tcp/127.0.0.1/8787 && cat "$1" >&3 && read -r line <&3 &&
        set -- $line && echo "$2"' - "$dir/upgrade" 2>/dev/null
}
