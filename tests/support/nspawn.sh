# A small Debian that boots in systemd-nspawn, with a network of its own in which there is nothing
# but lo. Sourced by scripts; needs root.
#
#     nspawn_needs          installs what this needs
#     nspawn_debian DIR [PACKAGE]…
#                           a Debian 12 with systemd, mosquitto (disabled) and these in DIR
#     nspawn_boot DIR [OPTION OF systemd-nspawn]…
#     inside COMMAND…       in it
#     net COMMAND…          a program of this machine, in its network
#     nspawn_off            powers it off
#
# ROOT_TAR=FILE: takes the Debian from this file, or makes it and keeps it there (200 MB, with
# compiler and Python 440 MB). One that lacks a package is made anew.

nspawn_needs() {
    local missing=() pair
    for pair in mmdebstrap:mmdebstrap systemd-nspawn:systemd-container \
        systemd-analyze:systemd nsenter:util-linux pgrep:procps; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    for pair in "$@"; do
        command -v "${pair%:*}" >/dev/null || [ -x "/usr/sbin/${pair%:*}" ] ||
            missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

nspawn_debian() {
    local root=$1 packages=(systemd systemd-sysv mosquitto procps libgcc-s1 "${@:2}")
    if [ -f "${ROOT_TAR:-}" ]; then tar -C "$root" -xf "$ROOT_TAR"; fi
    if ! dpkg-query --admindir="$root/var/lib/dpkg" -W "${packages[@]}" > /dev/null 2>&1; then
        find "$root" -mindepth 1 -delete
        mmdebstrap --quiet --variant=minbase --include="${packages[*]}" bookworm "$root"
        if [ -n "${ROOT_TAR:-}" ]; then tar -C "$root" -cf "$ROOT_TAR" .; fi
    fi
    chroot "$root" systemctl --quiet disable mosquitto || true
    echo barn > "$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 barn\n' > "$root/etc/hosts"
}

# Its own processes' ids, as this machine has them.
nspawn= init=

nspawn_boot() {
    local root=$1
    shift
    mkdir -p /run/systemd/nspawn
    mountpoint -q /run/systemd/nspawn || mount -t tmpfs tmpfs /run/systemd/nspawn
    systemd-nspawn --quiet --register=no --keep-unit --private-network --console=passive \
        "$@" -D "$root" -b > "$root.log" 2>&1 &
    nspawn=$!
    local try
    for try in $(seq 600); do
        # Its first child prepares the place for the second one, which is the init.
        init=$(pgrep -P "$nspawn" | tail -1) || true
        case $(inside systemctl is-system-running 2>/dev/null) in
            running | degraded) return 0 ;;
        esac
        kill -0 "$nspawn" 2>/dev/null || break
        sleep 0.2
    done
    cat "$root.log" >&2
    echo "the Debian in $root does not boot" >&2
    return 1
}

# With an environment of its own. Little here takes minutes, so that what hangs ends: LIMIT=SECONDS
# for what does.
inside() {
    timeout "${LIMIT:-180}" nsenter -t "$init" -a env -i LC_ALL=C.UTF-8 HOME=/root \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
net() { nsenter -t "$init" -n "$@"; }

nspawn_off() {
    [ -n "$nspawn" ] || return 0
    # The inner init first: nspawn ends with it.
    kill -s RTMIN+4 ${init:-} 2>/dev/null || true
    local try
    for try in $(seq 300); do
        kill -0 "$nspawn" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL ${init:-} "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn= init=
}
