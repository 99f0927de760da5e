# A reload takes registry, log level and certificates, and costs no connection.

old=$(pid)
reload() { inside systemctl reload telehub; }
reads() { [ "$(journal "$before" -o cat | grep -c 'configuration read again')" = "$1" ]; }
lamp_is_in() { [ "$(upgrade lamp "$token")" = 101 ]; }
lamps_said() { [ "$(journal "$before" -o cat TELEHUB_DEVICE=lamp | grep -c '^device connected')" = "$1" ]; }
swarm_begin 4
check "the devices send" eventually has_published $((acked_in_all + fleet))
before=$(moment)
token=$(inside telehub device add lamp)
set_key level '"warn"'
check "systemctl reload works" reload
check "the configuration is read again" eventually reads 1
check "the registry as well: a new device is let in at once" lamp_is_in
set_key level '"info"'
reload
check "and once more" eventually reads 2
lamp_is_in
check "the log level follows the file: only the second connection is in the journal" \
    eventually lamps_said 1
check "the process is the same" is "$(pid)" "$old"
check "everything is acked across the reloads" swarm_end
check "no device has lost its connection" is "$(report lost_connections)" 0
check "the consumer has what was acked" nothing_lost

certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj "/CN=$1" \
        -keyout "$root/etc/telehub/hub.key" -out "$root/etc/telehub/hub.pem" 2>/dev/null
    inside chown telehub: /etc/telehub/hub.key /etc/telehub/hub.pem
}
served() {
    net openssl s_client -connect 127.0.0.1:8787 < /dev/null 2>/dev/null |
        openssl x509 -noout -subject 2>/dev/null | sed 's/.*= *//'
}
serves() { [ "$(served)" = "$1" ]; }
cp "$root$settings" "$dir/good.toml"
set_key '\[devices.tls\]' x
sed -i -e 's/^#\[devices.tls\]$/[devices.tls]/' -e 's/^#\(cert = "\/etc\/telehub\/hub.pem"\)/\1/' \
    -e 's/^#\(key = "\/etc\/telehub\/hub.key"\)/\1/' "$root$settings"
certificate first.example
check "with certificates the hub starts" inside systemctl restart telehub
check "and serves them" serves first.example
old=$(pid)
request lamp "$token" > "$dir/request"
nsenter -t "$init" -n openssl s_client -quiet -ign_eof -connect 127.0.0.1:8787 \
    < "$dir/request" > "$dir/client" 2>/dev/null &
client=$!
check "a device connects over TLS" eventually grep -qa '^HTTP/1.1 101' "$dir/client"
certificate second.example
check "a reload is taken" reload
check "the new certificate is served" eventually serves second.example
check "the process is the same" is "$(pid)" "$old"
check "the device that was connected still is" eventually status_is '.*; 1 device; .*'
check "with the same connection" kill -0 "$client"
kill "$client"
client=
cp "$dir/good.toml" "$root$settings"
inside telehub device remove lamp
inside systemctl restart telehub
