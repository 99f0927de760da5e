"""A device that takes commands, written by someone else: websockets and cbor2 from PyPI, against the
contract only.

Answers each command once, in CBOR, keeps each result until it is acked, and goes at the end. Exit
status 0: the hub kept to the contract. Usage: lamp.py ws://HOST:PORT DEVICE TOKEN
"""

import asyncio
import sys

import cbor2
import websockets

COMMAND = {"id", "name", "args", "timeout", "again"}


async def receive(socket):
    frame = await asyncio.wait_for(socket.recv(), 60)
    assert isinstance(frame, bytes), "the hub answers in the encoding that the device uses"
    message = cbor2.loads(frame)
    assert len(message) == 1, message
    return next(iter(message.items()))


async def send(socket, message):
    await socket.send(cbor2.dumps(message))


async def connect(url, token):
    headers = {"Authorization": f"Bearer {token}"}
    socket = await websockets.connect(url, additional_headers=headers)
    await send(socket, {"hello": {"stream": "lamp", "remembers": 8, "max_message": 4096}})
    kind, welcome = await receive(socket)
    assert kind == "welcome", kind
    return socket


async def main():
    base, device, token = sys.argv[1:]
    url = f"{base}/v1/devices/{device}"
    socket = await connect(url, token)
    print("ready", flush=True)
    results, unacked, carried_out = {}, {}, []
    while True:
        kind, body = await receive(socket)
        if kind == "ack":
            unacked.pop(body["result"], None)
            if carried_out[-1:] == ["leave"] and not unacked:
                break
            continue
        assert kind == "command", kind
        assert set(body) <= COMMAND and body["timeout"] > 0, body
        if body["id"] in results:
            # Sent again, and carried out already: the same result.
            assert body.get("again") is True, body
            await send(socket, {"result": results[body["id"]]})
            continue
        result = {"id": body["id"], "name": body["name"], "ok": True}
        carried_out.append(body["name"])
        if body["name"] == "set-level":
            for step in range(2):
                await send(socket, {"result": dict(result, value=step, more=True)})
            result["value"] = {"level": body["args"]["level"], "raw": 1.5}
        elif body["name"] == "fail":
            result.update(ok=False, error="the bulb is gone \u2603")
        elif body["name"] == "cut":
            # Goes away with the result in its hand, and says it when it is back.
            await socket.close()
            socket = await connect(url, token)
        results[body["id"]] = unacked[body["id"]] = result
        await send(socket, {"result": result})
    await socket.close()
    print("carried out:", " ".join(carried_out), flush=True)


asyncio.run(main())
