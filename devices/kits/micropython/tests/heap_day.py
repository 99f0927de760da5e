"""What heap.py measures."""

import gc

from telehub import MAX_MESSAGE, Core, dumps

CAPACITY = 48


def frame(payload, op=2, fin=128):
    size = len(payload)
    head = bytearray([fin | op])
    if size < 126:
        head.append(size)
    else:
        head.extend(bytes([126, size >> 8, size & 255]))
    return bytes(head) + payload


def feed(core, data, now):
    # As a socket gives it: half a kilobyte at a time.
    for at in range(0, len(data), 512):
        core.input(data[at : at + 512], now)
        drain(core, now)


def drain(core, now):
    while core.tick(now) and core.out:
        core.out = bytearray()


def put(core, count, now):
    for at in range(count):
        core.put([{0: "temperature", 1: "Cel", 2: 21.5 + at}, {0: "humidity", 1: "%RH", 2: 40}], now, at)


def day():
    seen = []
    core = Core(
        "hub.local:8787", "barn-1", "a" * 43, CAPACITY,
        on_event=lambda kind, detail: seen.append(kind) if kind == "fault" else None,
        on_command=lambda id, name, args: args,
    )
    now = 0
    put(core, CAPACITY + 8, now)
    for connection in range(3):
        core.connected(now)
        drain(core, now)
        feed(core, b"HTTP/1.1 101 Switching Protocols\r\nX-Padding: " + b"x" * 900 + b"\r\n", now)
        feed(core, b"Sec-WebSocket-Accept: " + core.proof + b"\r\n\r\n", now)
        welcome = {"stream": core.stream, "seq": 0, "known": True, "window": 32, "max_message": 65536,
                   "ping_interval": 20.0, "ping_timeout": 10.0, "max_rate": 1000, "time": 1.7e9}
        feed(core, frame(dumps({"welcome": welcome})), now)
        for second in range(40):
            now += 1000
            put(core, 2, now)
            drain(core, now)
            feed(core, frame(b"ping" * 31, 9), now)
            if second % 4 == 0 and core.in_flight:
                feed(core, frame(dumps({"ack": {"seq": core.in_flight[-1]}})), now)
        # The largest command that is taken, in fragments, and its answer.
        args = "x" * (MAX_MESSAGE - 64)
        command = dumps({"command": {"id": str(connection), "name": "echo", "args": args}})
        feed(core, frame(command[:1000], 2, 0) + frame(command[1000:], 0), now)
        del command, args
        put(core, CAPACITY, now)
        drain(core, now)
        # A message that is too large ends the connection; the result is still owed.
        feed(core, frame(bytes(MAX_MESSAGE + 1)), now)
        assert core.hang_up and core.results
        core.disconnected(now)
        now += 120000
    assert seen == ["fault"] * 3
    # Deep sleep: everything goes into memory that survives it, and comes back in an empty heap.
    kept = core.save(now)
    del core
    gc.collect()
    core = Core("hub.local:8787", "barn-1", capacity=CAPACITY)
    assert core.restore(kept, now) and len(core.held) == CAPACITY
