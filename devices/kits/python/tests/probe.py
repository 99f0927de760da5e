"""The program under test of the conformance test: see docs/kits.md, "The test contract"."""

import asyncio
import os
import sys

from telehub_device import (
    CommandFailed, Device, Dropped, MemoryQueue, Rejected, SqliteQueue, Stopped,
)


def say(*words):
    print(*words, flush=True)


def on_event(event):
    if isinstance(event, Dropped):
        say("drop", event.tag, event.tag)
    elif isinstance(event, Rejected) and event.code in ("too-large", "too-often", "bad-seq"):
        say("drop", event.tag, event.tag)
    else:
        print(event, file=sys.stderr)


def on_command(command):
    if command.name != "echo":
        raise CommandFailed("no such command")
    say("command", command.id, command.name)
    return command.args


async def main():
    env = os.environ
    scale = float(env["TELEHUB_TIME_SCALE"])
    first, count = int(env["TELEHUB_FIRST"]), int(env["TELEHUB_COUNT"])
    interval, capacity = float(env["TELEHUB_INTERVAL"]), int(env["TELEHUB_QUEUE"])
    if "--sqlite" in sys.argv:
        queue = SqliteQueue(os.path.join(env["TELEHUB_STATE"], "queue.db"), capacity)
    else:
        queue = MemoryQueue(capacity)
    device = Device(
        env["TELEHUB_URL"], env["TELEHUB_ID"], env["TELEHUB_TOKEN"],
        ca=env.get("TELEHUB_CA"), queue=queue, model="probe",
        on_event=on_event, on_command=on_command,
    )
    async with device:
        for reading in range(first, first + count):
            if interval:
                await asyncio.sleep(interval * scale)
            else:
                await device.room()
            device.put([{"n": "count", "v": reading}], tag=reading)
        await device.leave()
        if device.core.stopped:
            say("stopped", device.core.stopped)
            return
        say("done")


asyncio.run(main())
