"""Somebody who asks devices, written by someone else: paho-mqtt from PyPI, MQTT 5, with Response Topic
and Correlation Data.

Exit status 0: each command got the one final answer that the contract has for it, where it was asked
for and with its correlation. Usage: ask.py PORT DEVICE
"""

import json
import queue
import sys

import cbor2
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

FINAL = {"done", "failed", "refused", "expired", "timeout", "unknown"}
ANSWER = {"id", "name", "state", "ok", "executed", "value", "error", "attempt", "received", "time",
          "late"}
answers, ready = queue.Queue(), queue.Queue()


def on_message(_client, _data, message):
    answers.put(message)


def ask(client, device, name, payload, topic, correlation):
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = topic
    properties.CorrelationData = correlation
    client.publish(f"telehub/barn/{device}/command/{name}", payload, qos=1, properties=properties)


def read(payload):
    return json.loads(payload) if payload[:1] == b"{" else cbor2.loads(payload)


def final(topic, correlation):
    """All answers up to the final one."""
    before = []
    while True:
        message = answers.get(timeout=60)
        assert message.topic == topic, message.topic
        assert message.properties.CorrelationData == correlation, message.properties
        assert message.qos == 1 and not message.retain
        answer = read(message.payload)
        assert set(answer) <= ANSWER and not answer.get("late"), answer
        if answer["state"] in FINAL:
            return before, answer
        before.append(answer["state"])


def main():
    port, device = int(sys.argv[1]), sys.argv[2]
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "asker", protocol=mqtt.MQTTv5)
    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.put(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("app/#", qos=1)
    ready.get(timeout=60)

    steps = [
        ("set-level", json.dumps({"id": "1", "args": {"level": 3}}), "app/answers/json", b"\x00one",
         {"state": "done", "executed": "yes", "value": {"level": 3, "raw": 1.5}}),
        ("set-level", cbor2.dumps({"id": "2", "args": {"level": 4}}), "app/answers/cbor", b"two",
         {"state": "done", "executed": "yes", "value": {"level": 4, "raw": 1.5}}),
        # Again the same: the same answer, and the device is not asked.
        ("set-level", json.dumps({"id": "1", "args": {"level": 3}}), "app/answers/again", b"again",
         {"state": "done", "executed": "yes", "value": {"level": 3, "raw": 1.5}}),
        ("fail", "{}", "app/answers/fail", b"\xff" * 256,
         {"state": "failed", "executed": "yes", "error": "the bulb is gone \u2603"}),
        ("reboot", "{}", "app/answers/no", b"no", {"state": "refused", "executed": "no", "error": "forbidden"}),
        ("set-level", "[1]", "app/answers/bad", b"bad",
         {"state": "refused", "executed": "no", "error": "malformed"}),
        ("cut", json.dumps({"id": "3"}), "app/answers/cut", b"cut", {"state": "done", "executed": "yes"}),
        ("leave", "{}", "app/answers/leave", b"bye", {"state": "done", "executed": "yes"}),
    ]
    for name, payload, topic, correlation, expected in steps:
        ask(client, device, name, payload, topic, correlation)
        before, answer = final(topic, correlation)
        got = {key: answer[key] for key in expected}
        assert got == expected, answer
        assert answer["ok"] == (answer["state"] == "done"), answer
        asked = answer["state"] != "refused" and correlation != b"again"
        assert before[:1] == (["accepted"] if asked else []), before
        print("ok:", name, answer["state"], flush=True)
    assert answers.empty(), answers.get().payload
    client.disconnect()
    client.loop_stop()


main()
