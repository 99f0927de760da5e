"""A device written by someone else: websockets and cbor2 from PyPI, against the contract only.

Holds the whole conversation with a hub and prints one line a step. Exit status 0: the hub said
what the contract says at every step. Usage: client.py ws://HOST:PORT DEVICE
"""

import asyncio
import json
import sys

import cbor2
import websockets


def say(step):
    print("ok:", step, flush=True)


async def receive(socket):
    frame = await asyncio.wait_for(socket.recv(), 20)
    return cbor2.loads(frame) if isinstance(frame, bytes) else json.loads(frame)


async def send(socket, message):
    await socket.send(cbor2.dumps(message))


async def acked(socket, seq):
    """Acks are cumulative and may be merged: read until the one that covers `seq`."""
    while True:
        message = await receive(socket)
        assert list(message) == ["ack"], message
        assert 1 <= message["ack"]["seq"] <= seq, message
        if message["ack"]["seq"] == seq:
            return


async def rejected(socket, code, seq=None):
    message = await receive(socket)
    assert list(message) == ["reject"], message
    assert message["reject"]["code"] == code, message
    assert message["reject"].get("seq") == seq, message
    assert message["reject"]["detail"], message


async def first_connection(url):
    async with websockets.connect(url, subprotocols=["telehub.v1"]) as socket:
        assert socket.subprotocol == "telehub.v1", socket.subprotocol
        say("subprotocol selected")
        await send(socket, {"hello": {"stream": "boot-1", "model": "py", "firmware": "1.0"}})
        welcome = (await receive(socket))["welcome"]
        assert welcome["stream"] == "boot-1" and welcome["seq"] == 0, welcome
        assert welcome["time"] > 1.6e9 and welcome["ping_interval"] > 0, welcome
        assert welcome["max_message"] >= 1024 and welcome["window"] >= 1, welcome
        say("welcome")

        # RFC 8428 integer labels: bn -2, bt -3, bu -4, n 0, u 1, v 2, vs 3, vb 4, t 6, vd 8.
        await send(socket, {"data": {"seq": 1, "pack": [
            {-2: "py:", -3: 1.7e9, -4: "Cel", 0: "temp", 2: 21.5},
            {0: "hum", 1: "%RH", 2: 40, 6: 1},
            {0: "label", 3: "kitchen \u2603"},
            {0: "door", 4: True},
            {0: "raw", 8: b"\x00\xff"},
        ]}})
        await acked(socket, 1)
        say("integer labels acked")
        await send(socket, {"data": {"seq": 2, "pack": [{"n": "py:x", "v": 1}]}})
        await send(socket, {"data": {"seq": 5, "pack": [{"n": "py:x", "v": 2}]}})
        await acked(socket, 5)
        say("text labels and a gap in the numbers acked")

        await send(socket, {"data": {"seq": 4, "pack": [{"n": "py:x", "v": 3}]}})
        await rejected(socket, "bad-seq", 4)
        await send(socket, {"data": {"seq": 6, "pack": [{"n": "py:x"}]}})
        await rejected(socket, "bad-pack", 6)
        await send(socket, {"date": {}})
        await rejected(socket, "unknown-kind")
        await socket.send(b"\xff\xff")
        await rejected(socket, "malformed")
        say("rejects")

        await send(socket, [{"n": "py:unnumbered", "v": 1}])
        await send(socket, {"data": {"seq": 7, "pack": [{"n": "py:x", "v": 4}]}})
        await acked(socket, 7)
        say("a bare pack is taken without an ack")
        assert await asyncio.wait_for(await socket.ping(), 20) is not None
        say("pings are answered")


async def second_connection(url):
    async with websockets.connect(url) as socket:
        assert socket.subprotocol is None
        await socket.send(json.dumps({"hello": {"stream": "boot-1"}}))
        welcome = (await receive(socket))["welcome"]
        assert welcome["seq"] == 7, welcome
        say("resumed, in JSON, without the subprotocol")
        await socket.send(json.dumps({"data": {"seq": 7, "pack": [{"n": "py:x", "v": 4}]}}))
        await acked(socket, 7)
        await socket.send(json.dumps({"data": {"seq": 8, "pack": [{"n": "py:x", "v": 5}]}}))
        await acked(socket, 8)
        say("a resent batch is acked again")

        async with websockets.connect(url) as newer:
            await socket.wait_closed()
            assert socket.close_code == 4001, socket.close_code
            await send(newer, {"hello": {"stream": "boot-2"}})
            assert (await receive(newer))["welcome"]["seq"] == 0
            say("a newer connection replaces the older; a new stream begins at 0")


async def refusals(base, device):
    for path, status in [("/v1/devices/-bad", 400), ("/v1/nothing", 404)]:
        try:
            async with websockets.connect(base + path):
                raise AssertionError(f"{path} was accepted")
        except websockets.exceptions.InvalidStatus as refusal:
            response = refusal.response
            assert response.status_code == status, response
            assert response.headers["Content-Type"] == "application/problem+json", response
            assert json.loads(response.body)["status"] == status, response
    say("refusals are problem documents")


async def main():
    base, device = sys.argv[1], sys.argv[2]
    url = f"{base}/v1/devices/{device}"
    await first_connection(url)
    await second_connection(url)
    await refusals(base, device)


asyncio.run(main())
