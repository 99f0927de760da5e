# A wrong configuration ends in 78, is not tried again, and says where it is wrong.

cp "$root$settings" "$dir/good.toml"
sed -i 's/^max_rate = /max_rat = /' "$root$settings"
line=$(grep -n '^max_rat = ' "$root$settings" | cut -d: -f1)
before=$(moment)
check "systemctl says that a hub with a wrong configuration does not start" \
    not inside systemctl --quiet restart telehub 2>/dev/null
check "it fails for good, without another try" eventually state_is failed
check "its exit status is 78" is "$(value ExecMainStatus)" 78
check "it was not started again" is "$(value NRestarts)" 0
check "the journal says file, line and key" said "$before" "$settings:$line: .*max_rat"
check "and what to write instead" said "$before" "did you mean .*max_rate"
cp "$dir/good.toml" "$root$settings"
check "after mending it starts" inside systemctl start telehub
check "and is active" active
