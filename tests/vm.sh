#!/usr/bin/env bash
# An arm64 Debian with the package installed, as a whole machine: its own kernel, systemd and file
# system, emulated by qemu-system-aarch64 (a Cortex-A53, the processor of a Raspberry Pi 3). Checks
# that it boots, takes readings and publishes them, and then cuts its power again and again: qemu is
# killed while devices send and the broker comes and goes. docs/reliability.md says what such a cut
# shows. A boot takes up to a minute, so this is no part of the default tests.
#
#     tests/vm.sh                  # 20 cuts
#     VM_CUTS=100 SEED=2 tests/vm.sh
#     VM_BARRIER=0 VM_CUTS=3 tests/vm.sh   # the control: a disk that is never flushed must lose data
#
# DEB=FILE: the arm64 package, instead of making it.
# Needs root. VM_ROOT=DIR keeps the Debian there, with its kernel in DIR.kernel, and takes it from
# there the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "NOT TESTED: tests/vm.sh needs root" >&2; exit 1; }
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

missing=()
need() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing+=("$2"); }
need qemu-system-aarch64 qemu-system-arm
need qemu-aarch64-static qemu-user-static
need qemu-img qemu-utils
need mmdebstrap mmdebstrap
need arch-test arch-test
need depmod kmod
need cpio cpio
need mkfs.ext4 e2fsprogs
need mosquitto mosquitto
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

deb=${DEB:-}
if [ -z "$deb" ]; then
    systemd/package arm64
    deb=$(ls "$target"/debian/telehub_*_arm64.deb | grep -v -- '-99_arm64' | tail -1)
fi

# The disk of the machine lives in memory where there is enough of it: it is copied after every cut.
free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)
place=/tmp
[ "${free:-0}" -lt 3000000 ] || place=/dev/shm
work=$(mktemp -d "$place/telehub-vm.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root="${VM_ROOT:-$work/root}"

# Programs for ARM run here while the Debian is made: by binfmt_misc and qemu's user mode.
binfmt=/proc/sys/fs/binfmt_misc
[ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt"
[ -e "$binfmt/qemu-aarch64" ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > "$binfmt/register"

if [ ! -e "$root/etc/debian_version" ]; then
    echo "==> an arm64 Debian in $root ($(date +%T))"
    mkdir -p "$root"
    rm -rf "$root.kernel"
    mmdebstrap --quiet --arch=arm64 --variant=minbase \
        --include=systemd,systemd-sysv,libgcc-s1,init-system-helpers,busybox-static \
        --customize-hook='chroot "$1" sh -c "cd /tmp &&
            apt-get download \$(apt-cache depends linux-image-cloud-arm64 | sed -n \"s/.*Depends: //p\")"' \
        --customize-hook='mkdir "$1/kernel" && dpkg-deb -x "$1"/tmp/linux-image-*.deb "$1/kernel" &&
            rm "$1"/tmp/*.deb' bookworm "$root"
fi
# Beside it: the machine's disk needs none.
[ ! -e "$root/kernel" ] || mv "$root/kernel" "$root.kernel"

echo "==> $(basename "$deb") in it ($(date +%T))"
cp "$deb" "$root/tmp/telehub.deb"
chroot "$root" dpkg --force-confnew -i /tmp/telehub.deb
rm "$root/tmp/telehub.deb"
cat > "$root/etc/telehub/telehub.toml" << 'TOML'
[hub]
id = "barn"
[devices]
listen = "0.0.0.0:8787"
auth = "open"
[spool]
path = "/var/lib/telehub/spool"
min_free = "16MiB"
[uplink]
url = "mqtt://10.0.2.2:@BROKER@"
inflight = 20
ack_timeout = "5s"
[admin]
listen = "0.0.0.0:8788"
token_file = "/etc/telehub/admin-token"
TOML
# The test asks with it from outside.
openssl rand -hex 32 > "$work/admin-token"
install -m 644 "$work/admin-token" "$root/etc/telehub/admin-token"
# Who connects to this port is told how systemd in the machine sees the unit, and what the
# hub's log has said at WARN and above since the boot.
cat > "$root/usr/local/sbin/telehub-unit" << 'ASK'
#!/bin/sh
systemctl show telehub --property=Type,ActiveState,SubState,Result,NRestarts,StatusText \
    --property=FragmentPath,DropInPaths,UnitFileState,User
pid=$(systemctl show telehub --property=MainPID --value)
echo "Program=$(readlink "/proc/$pid/exe")"
echo "Spool=$(readlink "/proc/$pid"/fd/* | grep -om1 ^/var/lib/telehub/spool)"
echo "Owners=$(stat -c %U "/proc/$pid" /var/lib/telehub /var/lib/telehub/spool | xargs)"
journalctl --quiet --no-pager --boot --output=cat --priority=warning _COMM=telehub | sed 's/^/Said=/'
ASK
chmod +x "$root/usr/local/sbin/telehub-unit"
cat > "$root/etc/systemd/system/telehub-unit.socket" << 'SOCKET'
[Socket]
ListenStream=8789
Accept=yes
SOCKET
cat > "$root/etc/systemd/system/telehub-unit@.service" << 'SERVICE'
[Service]
ExecStart=/usr/local/sbin/telehub-unit
StandardOutput=socket
SERVICE
mkdir -p "$root/etc/systemd/system/sockets.target.wants" "$root/var/log/journal"
ln -sf ../telehub-unit.socket "$root/etc/systemd/system/sockets.target.wants/"
echo telehub-vm > "$root/etc/hostname"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"

echo "==> kernel and initial file system"
modules=$(echo "$root.kernel"/lib/modules/*)
version=$(basename "$modules")
depmod -b "$root.kernel" "$version"
first="$work/initrd"
mkdir -p "$first"/{bin,proc,sys,dev,root,modules}
cp "$root/bin/busybox" "$first/bin/"
# In the order in which they are to be loaded: what one needs comes before it.
for name in virtio_pci virtio_blk virtio_net crc32c_generic ext4; do
    file=$(grep -E "^[^:]*/$name\.ko[^:]*:" "$modules/modules.dep" || true)
    [ -n "$file" ] || continue # built in
    for module in $(tr ' ' '\n' <<< "${file#*:}" | tac) ${file%%:*}; do
        name=$(basename "$module")
        [ ! -e "$first/modules/$name" ] || continue
        cp "$modules/$module" "$first/modules/"
        echo "insmod /modules/$name" >> "$first/load"
    done
done
# The address is given here, so that nothing but systemd and the hub has to start. The broker's port
# is another one in each run.
cat > "$first/init" << 'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
. /load
for word in $(cat /proc/cmdline); do
    case $word in broker=*) broker=${word#*=} ;; barrier=*) barrier=$word ;; esac
done
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 -o "${barrier:-barrier=1}" /dev/vda /root || exec sh
sed -i "s|^url = .*|url = \"mqtt://10.0.2.2:$broker\"|" /root/etc/telehub/telehub.toml
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
umount /proc /sys
exec switch_root /root /sbin/init
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/initrd.gz"
cp "$root.kernel"/boot/vmlinuz-* "$work/vmlinuz"

echo "==> disk"
mkdir -p "$work/empty"
truncate -s 1G "$work/base.raw"
mkfs.ext4 -q -F -m 0 -d "$root" "$work/base.raw"
[ -n "${VM_ROOT:-}" ] || rm -rf --one-file-system "$root"
du -h "$work/base.raw" "$work/initrd.gz"
[ -z "${VM_ONLY_BUILD:-}" ] || { trap - EXIT; echo "$work"; exit; }

echo "==> boots and cuts ($(date +%T))"
VM_DIR="$work" VM_CUTS="${VM_CUTS:-20}" VM_BARRIER="${VM_BARRIER:-1}" \
    cargo test --locked --workspace --features devices/demo --test vm -- --ignored --nocapture
