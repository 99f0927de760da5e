# Upgrade, the way back, removal, installation again, purge. Beyond that there is nothing to go on with.

version() { inside dpkg-query -W -f '${Version}' telehub; }
version_of() { dpkg-deb -f "$1" Version; }

inside sh -c 'systemctl stop telehub; systemctl enable --quiet --now telehub.socket
    systemctl start telehub'
swarm_begin 10
flows 100
old=$(pid)
check "an upgrade under load, with the socket" dpkg_ -i "/debs/${second##*/}"
check "the new version is there" is "$(version)" "$(version_of "$second")"
check "and runs as another process" eventually pid_is_new "$old"
check "all devices are back" eventually fleet_is_in
check "everything is acked" swarm_end
check "no attempt to connect failed" is "$(report failed_connects)" 0
check "the consumer has what was acked" nothing_lost
check "the socket is still enabled" inside systemctl --quiet is-enabled telehub.socket

inside systemctl disable --now --quiet telehub.socket
inside systemctl restart telehub
swarm_begin 10
flows 100
old=$(pid)
check "the way back under load, without the socket" dpkg_ -i "/debs/${first##*/}"
check "the old version is there" is "$(version)" "$(version_of "$first")"
check "and runs as another process" eventually pid_is_new "$old"
check "all devices are back" eventually fleet_is_in
check "everything is acked" swarm_end
check "the consumer has what was acked" nothing_lost

stored() { sed -n 's/.*; \([0-9,]*\) batch.* waiting.*/\1/p' <<< "$(value StatusText)" | tr -d ,; }
broker_down
eventually status_is 'uplink down .*'
swarm_begin 4
eventually status_is ".*; $fleet devices; [0-9,]* batches waiting.*"
check "a backlog is in the spool" swarm_end
check "a removal" dpkg_ -r telehub
check "says what it keeps" dpkg_said 'the spool keeps [0-9]+ batches'
check "the hub is stopped" is "$(inside systemctl is-active telehub || true)" inactive
check "the binary is gone" not test -e "$root/usr/bin/telehub"
check "registry and spool are there" test -s "$root/var/lib/telehub/devices.toml" -a -d "$root/var/lib/telehub/spool"
check "installed again" dpkg_ -i "/debs/${second##*/}"
check "the hub runs" eventually active
broker_up
check "and the spool that was kept goes out" nothing_lost

broker_down
eventually status_is 'uplink down .*'
swarm_begin 4
check "another backlog" swarm_end
tokens=$(inside telehub device list | wc -l)
check "a purge" dpkg_ -P telehub
check "says what it deletes" dpkg_said \
    "deleting /var/lib/telehub: the tokens of $tokens devices, and a spool of .* with [1-9][0-9]* batches"
check "and has deleted it" not test -e "$root/var/lib/telehub"
check "with the configuration" not test -e "$root/etc/telehub/telehub.toml"
