"""Sends a temperature every ten seconds; readings wait in a file while the hub is away.

    TELEHUB_TOKEN=… python thermometer.py wss://hub.local:8787 barn-1 ca.pem
"""

import os
import random
import sys
import time

from telehub_device import BlockingDevice, SqliteQueue


def read_sensor():
    return round(random.gauss(21.0, 0.2), 2)


def main():
    url, device_id = sys.argv[1], sys.argv[2]
    ca = sys.argv[3] if len(sys.argv) > 3 else None
    count = int(os.environ.get("COUNT", "0"))
    with BlockingDevice(
        url, device_id, os.environ.get("TELEHUB_TOKEN"),
        ca=ca, queue=SqliteQueue(f"{device_id}.db"), model="thermometer", on_event=print,
    ) as device:
        done = 0
        while not count or done < count:
            device.put([{"n": "temperature", "u": "Cel", "v": read_sensor()}])
            done += 1
            time.sleep(float(os.environ.get("INTERVAL", "10")))
        device.leave(timeout=30)


if __name__ == "__main__":
    main()
