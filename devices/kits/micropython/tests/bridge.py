"""Runs inside MicroPython: the core, driven from outside with bytes in hex."""

import gc
from binascii import hexlify, unhexlify

import telehub

core = None
made = 0
most = 0


def on_event(kind, detail):
    if kind in ("dropped", "rejected"):
        print("drop", detail, detail)


def on_command(id, name, args):
    if name != "echo":
        raise ValueError("no such command")
    print("command", id, name)
    return args


def start(host, id, token, capacity):
    global core
    core = telehub.Core(host, id, token, capacity, on_event=on_event, on_command=on_command)


def make(first, count, interval, now):
    global made
    while made < count:
        if interval and now < made * interval:
            return
        if not interval and len(core.held) >= core.capacity:
            return
        core.put([{0: "count", 2: first + made}], now, first + made)
        made += 1
    core.leave()


def step(now, data):
    """Takes bytes; says what to do, and what to send."""
    global most
    if data:
        core.input(unhexlify(data), now)
    todo = core.tick(now)
    gc.collect()
    most = max(most, gc.mem_alloc())
    out = hexlify(core.out).decode()
    if out:
        core.out = bytearray()
    return todo + "|" + out


def ended():
    print("heap: at most", most, "bytes live")
    print("done" if core.leaving is not None and core.idle() else "stopped")
