"""Packs (`uplink.pack`) taken apart: what `telehub unpack` does, in Python.

Reads {prefix}/+/packed and publishes each item on the usual topic of the same broker. A pack is
acknowledged once the broker has acknowledged everything that was in it, so a kill loses nothing; what
comes twice is known by its key. Needs paho-mqtt 2, cbor2 and zstandard.

    python unpack.py mqtt://localhost [PREFIX]
"""

import io
import sys
from urllib.parse import urlsplit

import cbor2
import paho.mqtt.client as mqtt
import zstandard

MOST = 4 << 20  # bytes that a pack may hold


def items(pack):
    """The [kind, device, payload] in a pack, in order."""
    if pack[:1] != b"\x01" or zstandard.frame_content_size(pack[1:]) > MOST:
        raise ValueError("no pack of a form that is known, or one that holds too much")
    sequence = zstandard.ZstdDecompressor().decompress(pack[1:], max_output_size=MOST)
    decoder = cbor2.CBORDecoder(io.BytesIO(sequence))
    while True:
        try:
            yield decoder.decode()
        except cbor2.CBORDecodeEOF:
            return


def main(url, prefix="telehub"):
    packs = {}  # packet id of what was published: the pack that it came in
    left = {}  # packet id of a pack: how much of it is not acknowledged

    def on_message(client, _data, message):
        root = message.topic.rsplit("/", 1)[0]
        try:
            read = list(items(message.payload))
        except (ValueError, zstandard.ZstdError) as error:
            print(f"{message.topic}: {error}", file=sys.stderr)
            read = []
        left[message.mid] = len(read)
        for kind, device, payload in read:
            packs[client.publish(f"{root}/{device}/{kind}", payload, qos=1).mid] = message.mid
        if not read:
            client.ack(message.mid, message.qos)

    def on_publish(client, _data, mid, _reason, _properties):
        pack = packs.pop(mid)
        left[pack] -= 1
        if left[pack] == 0:
            del left[pack]
            client.ack(pack, 1)

    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, "unpack-py", clean_session=False, manual_ack=True
    )
    client.max_queued_messages_set(0)
    client.on_message, client.on_publish = on_message, on_publish
    client.on_connect = lambda client, *_: client.subscribe(f"{prefix}/+/packed", 1)
    client.on_subscribe = lambda *_: print("subscribed", file=sys.stderr, flush=True)
    where = urlsplit(url)
    client.connect(where.hostname, where.port or 1883)
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
