# Ready, the status line, and no network at all.

check "the network is lo and nothing else" is "$(net ip -o link | wc -l)" 1
check "the status line says that the uplink is connected" eventually \
    status_is 'uplink connected; 0 devices; spool empty'

# The debug build can be held up where it opens its spool, before the first device is accepted.
inside systemctl stop telehub
dropin debug <<'UNIT'
[Service]
ExecStart=
ExecStart=/opt/telehub-debug run --config /etc/telehub/telehub.toml
Environment=TELEHUB_STALL=/run/telehub-stall
UNIT
echo "the spool" > "$root/srv/stall"
inside cp /srv/stall /run/telehub-stall
opening=$(moment)
inside systemctl start --no-block telehub
eventually said "$opening" '^started'
check "a hub that does not accept devices yet is activating" is "$(value ActiveState)" activating
inside rm /run/telehub-stall
check "it is active once it accepts them" eventually active
check "it has said that it listens by then" said "$opening" '^listening'
no_dropin debug
inside systemctl restart telehub

swarm_begin 4
flows 100
check "devices are let in by tokens, send, and are acked" swarm_end
check "the consumer has what was acked" nothing_lost

broker_down
check "the status line says since when the uplink is down" eventually \
    status_is 'uplink down since 20[0-9-]{8} [0-9:]{5} UTC; 0 devices; spool empty'
swarm_begin 4
check "the status line says how many are connected and what waits" eventually \
    status_is "uplink down since [^;]* UTC; $fleet devices; [0-9,]* batch(es)? waiting, [0-9]* % of 1 GiB"
check "devices are acked without a broker, for what is in the spool" swarm_end

title "boot without a network"
consumer_down
nspawn_off
boot
check "the hub is there after a boot without network and broker" eventually active
check "and has the backlog" eventually \
    status_is "uplink down since [^;]* UTC; 0 devices; [0-9,]* batches waiting, [0-9]* % of 1 GiB"
broker_up
check "the backlog goes out when the broker is there" eventually \
    status_is 'uplink connected; 0 devices; spool empty'
consumer_up
check "the consumer has what was acked" nothing_lost
