"""What every consumer of telehub needs: a session that loses nothing, and payloads that decode.

The rules (docs/consumers.md says why):
  - QoS 1, a fixed client id, a session that outlives the connection;
  - a message is acknowledged to the broker after its content is stored, not before;
  - (hub, device, stream, seq) names a batch on both lanes: the second one is a duplicate;
  - a gap record takes its numbers off the list of what is awaited.

Needs paho-mqtt 2 (and cbor2 for `uplink.format = "cbor"`). Speaks MQTT 5 and 3.1.1.
"""

import hashlib
import json
import ssl
import sys
from collections import namedtuple
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# Seconds that the broker keeps the session of a consumer that is away.
SESSION_EXPIRY = 7 * 24 * 3600
KINDS = ("data", "history", "gap")

Address = namedtuple("Address", "prefix hub device kind")


def address(topic, prefix):
    """The parts of `{prefix}/{hub}/{device}/{kind}`, or None for any other topic."""
    if not topic.startswith(prefix + "/"):
        return None
    parts = topic[len(prefix) + 1 :].split("/")
    if len(parts) != 3 or parts[2] not in KINDS:
        return None
    return Address(prefix, *parts)


def decode(payload):
    """The map of a batch or gap record: JSON, or CBOR where the first byte is a CBOR map's."""
    if payload[:1] == b"{":
        return json.loads(payload)
    import cbor2

    return cbor2.loads(payload)


def digest(batch):
    """Names a batch that has no number: a re-send of it is the same to the byte, its moment of
    arrival included."""
    text = json.dumps(batch, sort_keys=True, default=bytes.hex).encode()
    return hashlib.sha256(text).digest()


class Consumer:
    """Hands over messages in portions and acknowledges a portion once it was stored.

    `store(portion)` gets a list of (Address, map) and returns only when it is safe. If it raises,
    nothing of the portion was acknowledged, and the broker sends it again to the next connection.
    """

    def __init__(self, url, client_id, store, prefix="telehub", mqtt5=True, portion=500):
        self.url = urlsplit(url)
        self.store, self.prefix, self.most = store, prefix, portion
        self.mqtt5, self.waiting, self.refused = mqtt5, [], None
        self.malformed = 0
        options = {} if mqtt5 else {"clean_session": False}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311,
            manual_ack=True,
            **options,
        )
        if self.url.username:
            self.client.username_pw_set(self.url.username, self.url.password)
        if self.url.scheme == "mqtts":
            self.client.tls_set_context(ssl.create_default_context())
        self.client.on_connect = self._connected
        self.client.on_subscribe = self._subscribed
        self.client.on_message = lambda _client, _data, message: self.waiting.append(message)

    def _connected(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            self.refused = f"the broker refused the connection: {reason}"
            return
        client.subscribe([(f"{self.prefix}/+/+/{kind}", 1) for kind in KINDS])

    def _subscribed(self, _client, _data, _mid, reasons, _properties):
        if any(reason.is_failure for reason in reasons):
            self.refused = f"the broker refused the subscription: {reasons[0]}"
            return
        print("subscribed", file=sys.stderr, flush=True)

    def connect(self):
        port = self.url.port or (8883 if self.url.scheme == "mqtts" else 1883)
        options = {}
        if self.mqtt5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = SESSION_EXPIRY
            options = {"clean_start": False, "properties": properties}
        self.client.connect(self.url.hostname, port, **options)

    def step(self, patience=0.05):
        """Reads what has come, stores it, and acknowledges it. False: the connection is gone."""
        alive = self.client.loop(timeout=patience) == mqtt.MQTT_ERR_SUCCESS
        if self.refused:
            raise ConnectionError(self.refused)
        while self.waiting:
            portion, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
            read = []
            for message in portion:
                where = address(message.topic, self.prefix)
                try:
                    read.append((where, decode(message.payload)))
                except ValueError:
                    # Somebody else publishes here. Left unacknowledged it would come for ever.
                    self.malformed += 1
            self.store([(where, what) for where, what in read if where is not None])
            for message in portion:
                self.client.ack(message.mid, message.qos)
        return alive
