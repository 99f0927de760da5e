# systemd holds the port: a restart refuses nobody.

# As the socket's unit says.
check "the socket takes the port" inside sh -ec 'systemctl --quiet enable telehub.socket
    systemctl stop telehub
    systemctl start telehub.socket telehub'
check "the hub has the port from systemd" eventually status_is 'uplink connected; 0 devices; .*'
check "and the socket is active" is "$(inside systemctl is-active telehub.socket)" active
swarm_begin 10
for try in 1 2 3; do
    flows 100
    old=$(pid)
    check "restart $try under load works" inside systemctl restart telehub
    check "it is another process" pid_is_new "$old"
    check "all $fleet devices are back" eventually fleet_is_in
done
check "everything is acked" swarm_end
check "no attempt to connect failed" is "$(report failed_connects)" 0
check "the consumer has what was acked" nothing_lost
inside systemctl --quiet stop telehub 2>/dev/null
swarm_begin 4
flows 100
check "a stopped hub is started by devices that connect, and takes their data" swarm_end

title "a wrong configuration behind the socket"
cp "$root$settings" "$dir/good.toml"
sed -i 's/^max_rate = /max_rat = /' "$root$settings"
before=$(moment)
check "a hub with a wrong configuration does not start" \
    not inside systemctl --quiet restart telehub 2>/dev/null
upgrade $(head -1 "$dir/tokens") > "$dir/knock" &
client=$!
# The seconds of those starts that ended in 78.
starts() { journal "$before" -o short-unix | sed -n 's/^\([0-9]*\)\..*status=78.*/\1/p'; }
has_started() { [ "$(starts | wc -l)" -ge "$1" ]; }
check "a device that knocks has the hub started again and again" eventually has_started 4
took=$(($(starts | sed -n 4p) - $(starts | head -1)))
check "once in five seconds, not more often (four starts in $took s)" at_most 15 "$took"
check "the socket is still there" is "$(inside systemctl is-active telehub.socket)" active
check "and the device waits" kill -0 "$client"
cp "$dir/good.toml" "$root$settings"
check "once the configuration is right the hub starts by itself" eventually active
check "and lets the device in that has waited" wait "$client"
client=
check "which has never been refused" is "$(cat "$dir/knock")" 101
sed -i 's/^max_rate = /max_rat = /' "$root$settings"
before=$(moment)
inside systemctl --quiet restart telehub 2>/dev/null || true
upgrade $(head -1 "$dir/tokens") > "$dir/knock" &
client=$!
check "wrong once more, it is tried once more" eventually has_started 2
inside systemctl --quiet stop telehub.socket 2>/dev/null
check "the end of the socket is the end of that" eventually state_is failed
check "devices are refused then" not net bash -c 'exec 3<>/dev/tcp/127.0.0.1/8787' 2>/dev/null
check "and nobody tries" state_is failed
wait "$client" || true
client=
cp "$dir/good.toml" "$root$settings"
inside systemctl --quiet disable --now telehub.socket
inside systemctl restart telehub
