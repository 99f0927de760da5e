# What the journal has, what a registry made by root is worth, and how systemd rates the unit.

before=$(moment)
token=$(inside telehub device add lamp)
added=$(now_ms)
check "the registry belongs to the hub" \
    is "$(inside stat -c '%U:%G %a' /var/lib/telehub/devices.toml)" "telehub:telehub 640"
answers_101() { [ "$(upgrade "$1" "$2")" = 101 ] || { sleep 0.3; false; }; }
eventually answers_101 lamp "$token" || true
took=$(($(now_ms) - added))
check "a device that root adds is let in within 2 s (found after $took ms)" at_most "$took" 3000
inside telehub device remove lamp
removed=$(now_ms)
refused() { [ "$(upgrade lamp "$token")" = 401 ] || { sleep 0.3; false; }; }
eventually refused || true
took=$(($(now_ms) - removed))
check "a device that root removes is let in no more within 2 s (found after $took ms)" at_most "$took" 3000

swarm_begin 2
flows 100
check "a swarm comes and goes" swarm_end
entry() { grep -m1 "$1" <<< "$(journal "$before" -o json)"; }
has_field() { grep -q "\"$2\":\"$3\"" <<< "$1"; }
gone() { entry '"TELEHUB_DEVICE":"field-0".*"TELEHUB_REASON"\|"TELEHUB_REASON".*"TELEHUB_DEVICE":"field-0"'; }
session_has_ended() { gone > /dev/null; }
eventually session_has_ended || true
check "the end of a session has the device in a field" has_field "$(gone)" TELEHUB_DEVICE field-0
check "and the reason" has_field "$(gone)" TELEHUB_REASON '[^"]\+'
check "and the level" has_field "$(gone)" PRIORITY '[4567]'
check "messages have no time of their own" \
    not grep -qE '^\[?(20[0-9]{2}-|[A-Z][a-z]{2} [0-9 ][0-9] )' <<< "$(journal "$before" -o cat)"
check "systemd-analyze security rates the running unit at most 1.2" \
    inside systemd-analyze security --no-pager --threshold=12 telehub.service > "$dir/security"
tail -1 "$dir/security"
