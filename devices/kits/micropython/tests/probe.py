"""The program under test of the conformance test: see docs/kits.md, "The test contract"."""

import os
import ssl
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from telehub import Device


def on_event(kind, detail):
    if kind in ("dropped", "rejected"):
        print("drop", detail, detail, flush=True)
    else:
        print(kind, detail, file=sys.stderr)


def on_command(id, name, args):
    if name != "echo":
        raise ValueError("no such command")
    print("command", id, name, flush=True)
    return args


env = os.environ
scheme, _, rest = env["TELEHUB_URL"].partition("://")
host, _, port = rest.partition(":")
ca = None
if scheme == "wss":
    with open(env["TELEHUB_CA"]) as file:
        ca = ssl.PEM_cert_to_DER_cert(file.read())
first, count = int(env["TELEHUB_FIRST"]), int(env["TELEHUB_COUNT"])
interval = float(env["TELEHUB_INTERVAL"]) * 1000
device = Device(
    host, int(port), env["TELEHUB_ID"], env["TELEHUB_TOKEN"], ca,
    scale=float(env["TELEHUB_TIME_SCALE"]), capacity=int(env["TELEHUB_QUEUE"]),
    on_event=on_event, on_command=on_command,
)
made, start = 0, device.now()
while True:
    while made < count:
        if interval and device.now() - start < made * interval:
            break
        if not interval and len(device.core.held) >= device.core.capacity:
            break
        device.put([{0: "count", 2: first + made}], first + made)
        made += 1
    if made == count:
        device.core.leave()
    if not device.step(5):
        break
print("done" if device.core.leaving is not None and device.core.idle() else "stopped", flush=True)
