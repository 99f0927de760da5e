#!/bin/sh
# Runs the WebSocket conformance cases of kosoku (PyPI) against examples/echo.rs, which shares the
# hub's opening handshake and WebSocket settings: the 301 cases of RFC 6455. The 216 others (12 and
# 13) are about compression (RFC 7692), which the hub does not negotiate. Prints how the cases ended, and those that
# failed. Needs python3 with venv. Reports are left in target/conformance.
#
# Exit status: 0 all passed; 1 a case failed, or something is missing.
set -eu
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
venv="$target/kosoku"
out="$target/conformance"

if [ ! -x "$venv/bin/kosoku" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check kosoku==0.1.0
fi
cargo build --quiet --example echo
rm -rf "$out"
mkdir -p "$out"

"$target/debug/examples/echo" 127.0.0.1:0 > "$out/address" &
echo_server=$!
trap 'kill "$echo_server" 2> /dev/null || true' EXIT
tries=0
until [ -s "$out/address" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "the echo server does not start" >&2; exit 1; }
    sleep 0.1
done

# Its own exit status does not tell a failed case from a case that did not run: count.
"$venv/bin/kosoku" --parallelism 4 --exclude "12.*" --exclude "13.*" --outdir "$out" \
    "ws://$(cat "$out/address")/v1/devices/echo" \
    > "$out/log" 2>&1 || true
"$venv/bin/python" - "$out" <<'COUNT'
import collections, json, pathlib, sys

EXPECTED = 301
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
index = json.loads((pathlib.Path(sys.argv[1]) / "index.json").read_text())
cases = {name: case for agent in index.values() for name, case in agent.items()}
for what in ("behavior", "behaviorClose"):
    counts = collections.Counter(case[what] for case in cases.values())
    print(f"{what}:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
failed = sorted(
    name for name, case in cases.items()
    if case["behavior"] not in GOOD or case["behaviorClose"] not in GOOD
)
for name in failed[:20]:
    print(f"failed: {name}: see {sys.argv[1]}/{cases[name]['reportfile']}")
if len(failed) > 20:
    print(f"and {len(failed) - 20} more")
if len(cases) != EXPECTED:
    print(f"{len(cases)} cases ran instead of {EXPECTED}")
sys.exit(bool(failed) or len(cases) != EXPECTED)
COUNT
