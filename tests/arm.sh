#!/usr/bin/env bash
# Runs the ARM binaries: tests of the whole daemon with the hub as a 32-bit and a 64-bit ARM
# process (qemu's user mode emulation), brokers and devices beside it as ever. Builds the binaries
# (systemd/build) unless they are there, and installs what it needs. With root the power cuts run
# as well.
#
#     tests/arm.sh [TARGET]…
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

# Outage, spool, drain, formats; segments that roll over and overflow; kills; a spool that comes
# late; orderly stops. And the 32-bit one once more with its clock after 2038.
full=(flow long_outage crash spool_late stopping)
brief=(flow long_outage)

targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    targets=(armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu aarch64-unknown-linux-musl)
fi

missing=()
need() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2"); }
need qemu-arm-static qemu-user-static
need mosquitto mosquitto
need mkfs.ext4 e2fsprogs
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
systemd/build "${targets[@]}"

# Runs tests with a binary and its runner. The workspace and its features as in tests/run, so that
# nothing is built anew.
tests() { # TARGET RUNNER TEST… [-- FILTER]
    local binary="$target_dir/$1/release/telehub" runner="$2" filter=()
    printf '\n%s: %s\n' "$1" "${*:3}"
    shift 2
    if [ "${*: -2:1}" = -- ]; then
        filter=(-- "${*: -1}")
        set -- "${@:1:$#-2}"
    fi
    TELEHUB_BIN="$binary" TELEHUB_RUNNER="$runner" \
        cargo test --quiet --locked --workspace --features devices/demo "${@/#/--test=}" "${filter[@]}"
}

for target in "${targets[@]}"; do
    # The C library of the target is that of its compiler's package.
    case "$target" in
        armv7-*)
            root=/usr/arm-linux-gnueabihf
            tests "$target" "qemu-arm-static -L $root" "${full[@]}"
            # Without the controls, which preload a library of this machine's kind.
            POWER_CUTS="${POWER_CUTS:-30}" \
                tests "$target" "qemu-arm-static -L $root" power_cut -- what_
            later="$target_dir/after_2038.so"
            arm-linux-gnueabihf-gcc -O2 -shared -fPIC -o "$later" tests/support/after_2038.c
            echo "after 2038:"
            tests "$target" "qemu-arm-static -E LD_PRELOAD=$later -L $root" flow ;;
        aarch64-*-gnu)
            tests "$target" "qemu-aarch64-static -L /usr/aarch64-linux-gnu" "${full[@]}" ;;
        aarch64-*-musl)
            tests "$target" qemu-aarch64-static "${brief[@]}" ;;
        *)
            echo "$target is no ARM target" >&2
            exit 2 ;;
    esac
done
