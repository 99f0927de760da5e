# A stop under load.

swarm_begin 20
flows 100
old=$(pid)
begun_ms=$(now_ms)
check "a stop under load works" inside systemctl stop telehub
took=$(($(now_ms) - begun_ms))
check "within 10 s ($took ms)" at_most "$took" 10000
check "exit status 0" is "$(value ExecMainStatus) $(value Result)" "0 success"
offline='"state":"offline"'
check "the broker says that the hub is offline" grep -q "$offline" <<< "$(retained telehub/barn/status)"
check "and why each device is" grep -q "$offline.*\"reason\":\"hub stopping\"" \
    <<< "$(retained telehub/barn/field-7/status)"
inside systemctl start telehub
check "all devices come back" eventually fleet_is_in
check "everything is acked" swarm_end
check "devices were told 1001" is "$(grep -c '1001' "$dir/swarm.log")" 50
check "the consumer has what was acked" nothing_lost
