"""Hubs that mean harm: whatever they send costs them their message or their connection, never the device."""

import asyncio
import base64
import hashlib
import random
import unittest

import cbor2

from telehub_device import Core, Device, MemoryQueue
from telehub_device import core as limits

HUGE = 1 << 100000  # As a bignum, which CBOR has and no text of Python may be made of.
TAGGED = [
    (0, b"\x61x"), (1, b"\xfb\x7f\xf0\0\0\0\0\0\0"), (4, b"\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01"),
    (5, b"\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x03"), (25, b"\x05"), (28, b"\x81\xd8\x1d\x00"),
    (29, b"\x05"), (30, b"\x82\x01\x00"), (35, b"\x61("), (36, b"\x61x"), (37, b"\x41x"),
    (100, b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff"), (258, b"\x81\x80"), (260, b"\x41x"), (261, b"\xa1\x41x\x05"),
]


def welcomed(**more):
    core = Core(MemoryQueue(10), rng=random.Random(1))
    core.put([{"n": "x", "v": 1}], 0.0, "tag")
    core.connected(0.0)
    core.outgoing(0.0)
    body = {"stream": core.queue.stream, "seq": 0, "window": 4, **more}
    core.received(cbor2.dumps({"welcome": body}), 0.0)
    return core


def odd_values():
    return [None, True, -1, HUGE, -HUGE, 1e300, float("nan"), float("-inf"), "x" * 60000, b"x", [], {}, [[]],
            {"a": {}}]


class Messages(unittest.TestCase):
    def test_no_value_of_a_known_field_raises(self):
        kinds = {
            "welcome": ["seq", "stream", "window", "max_message", "max_rate", "ping_interval", "ping_timeout"],
            "ack": ["seq", "result"],
            "reject": ["seq", "result", "code", "detail"],
            "note": ["code", "detail", "seq"],
            "command": ["id", "name", "args", "timeout"],
        }
        for kind, fields in kinds.items():
            for field in fields:
                for value in odd_values():
                    core = Core(MemoryQueue(10), rng=random.Random(1))
                    core.put([{"n": "x", "v": 1}], 0.0)
                    core.connected(0.0)
                    good = {"stream": core.queue.stream, "seq": 0, "id": "1", "name": "a", "code": "malformed"}
                    for body in ({field: value}, {**good, field: value}):
                        core.received(cbor2.dumps({kind: body}), 0.0)
                        while core.outgoing(1.0):
                            pass
                        core.tick(2.0)
                        self.assertGreater(core.wake_at(2.0), 0.0)

    def test_lengths_that_are_not_there_and_tags_that_make_no_sense_are_faults(self):
        heads = [b"\x5a", b"\x7a", b"\x9a", b"\xba"]
        messages = [b"\xa1\x64note" + head + b"\x7f\xff\xff\xff" for head in heads]
        for tag, value in TAGGED:
            head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
            messages += [b"\xa1\x64note\xa1\x64code" + head + value, b"\xa1" + head + value + b"\xa0"]
        messages += ['{"note":{"detail":%s}}' % ("[" * depth + "]" * depth) for depth in (500, 900, 980, 5000)]
        for message in messages:
            core = welcomed()
            core.received(message, 0.0)
            core.received(cbor2.dumps({"note": {"code": "good", "detail": "still here"}}), 0.0)
            self.assertEqual([e.code for e in core.events() if isinstance(e, limits.Note)][-1], "good")

    def test_marks_above_what_numbers_can_be_are_no_welcome(self):
        for mark in (limits.LARGEST_MARK + 1, 2**53, 2**64 - 1, HUGE, 1e300):
            core = Core(MemoryQueue(10), rng=random.Random(1))
            core.connected(0.0)
            body = {"stream": core.queue.stream, "seq": mark}
            core.received(cbor2.dumps({"welcome": body}), 0.0)
            self.assertFalse(core.welcomed)

    def test_the_same_command_a_thousand_times_is_answered_once(self):
        core = welcomed()
        command = cbor2.dumps({"command": {"id": "1", "name": "echo", "timeout": 5}})
        core.received(command, 0.0)
        core.result("1", True, name="echo")
        for _ in range(1000):
            core.received(command, 0.0)
        self.assertEqual(len(core._unsent_results), 1)

    def test_a_second_welcome_changes_nothing(self):
        core = welcomed()
        core.outgoing(0.0)
        core.received(cbor2.dumps({"welcome": {"stream": core.queue.stream, "seq": 900}}), 1.0)
        self.assertEqual((core._sent, len(core.queue)), (1, 1))


async def upgrade(reader, writer):
    key = None
    while (line := (await reader.readline()).strip()):
        if line.lower().startswith(b"sec-websocket-key:"):
            key = line.split(b":", 1)[1].strip()
    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + proof + b"\r\nSec-WebSocket-Protocol: telehub.v1\r\n\r\n")


class Connections(unittest.IsolatedAsyncioTestCase):
    async def comes_again_after(self, hub):
        """Whether the device gives the connection up and comes back."""
        connections, again = 0, asyncio.Event()

        async def serve(reader, writer):
            nonlocal connections
            connections += 1
            if connections > 1:
                again.set()
            try:
                await hub(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        device = Device(f"ws://127.0.0.1:{port}", "d", time_scale=0.01)
        runner = asyncio.create_task(device.run())
        done, _ = await asyncio.wait(
            [runner, asyncio.ensure_future(again.wait())], timeout=120, return_when=asyncio.FIRST_COMPLETED
        )
        self.assertTrue(done and not runner.done(), "the device neither came back nor ended")
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        server.close()

    async def test_a_wish_that_is_no_number_is_none(self):
        async def hub(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 x\r\nRetry-After: nan\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        await self.comes_again_after(hub)

    async def test_a_hub_that_floods_with_pings_and_reads_nothing_is_left(self):
        async def hub(reader, writer):
            await upgrade(reader, writer)
            # A good part of a second of protocol is 10 ms here: only the unread answers can end it.
            core = cbor2.loads((await frame(reader)))["hello"]
            body = {"stream": core["stream"], "seq": 0, "ping_interval": 86400.0, "ping_timeout": 86400.0}
            message = cbor2.dumps({"welcome": body})
            writer.write(bytes([0x82, len(message)]) + message)
            writer.transport.pause_reading()
            while not writer.is_closing():
                writer.write((b"\x89\x7d" + bytes(125)) * 500)
                await writer.drain()

        await self.comes_again_after(hub)


async def frame(reader):
    head = await reader.readexactly(2)
    size = head[1] & 127
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    mask = await reader.readexactly(4)
    return bytes(byte ^ mask[at & 3] for at, byte in enumerate(await reader.readexactly(size)))


if __name__ == "__main__":
    unittest.main()
