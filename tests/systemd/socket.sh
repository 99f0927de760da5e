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
inside systemctl --quiet disable --now telehub.socket
inside systemctl restart telehub
