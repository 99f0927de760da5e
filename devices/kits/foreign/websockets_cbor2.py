"""A device on foreign libraries alone, `websockets` and `cbor2`, written from docs/protocol.md: the
second witness of the conformance test. `--wrong RULE` breaks one rule, to see that the test notices.
"""

import collections
import os
import random
import secrets
import ssl
import sys
import time

# A device has one hub: it does not carry its token where a redirect points.
os.environ["WEBSOCKETS_MAX_REDIRECTS"] = "1"

import cbor2
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

WRONG = sys.argv[sys.argv.index("--wrong") + 1] if "--wrong" in sys.argv else ""
ENV = os.environ
SCALE = float(ENV["TELEHUB_TIME_SCALE"])
FIRST, COUNT = int(ENV["TELEHUB_FIRST"]), int(ENV["TELEHUB_COUNT"])
INTERVAL, CAPACITY = float(ENV["TELEHUB_INTERVAL"]), int(ENV["TELEHUB_QUEUE"])


class Leave(Exception):
    """The hub does not keep to the protocol, or everything is done."""


class Sensor:
    """Makes the readings, and keeps them until they are safe."""

    def __init__(self):
        self.made = 0
        self.started = time.monotonic()
        self.held = collections.deque()
        self.last = 0

    def make(self):
        while self.made < COUNT:
            if INTERVAL:
                if time.monotonic() - self.started < self.made * INTERVAL * SCALE:
                    return
                if len(self.held) == CAPACITY:
                    self.drop(self.held.popleft())
            elif len(self.held) == CAPACITY:
                return
            self.last += 1
            self.held.append([self.last, FIRST + self.made])
            self.made += 1

    def drop(self, batch):
        if WRONG != "drops-silently":
            print("drop", batch[1], batch[1], flush=True)

    def renumber(self, above):
        for batch in self.held:
            above += 1
            batch[0] = above
        self.last = above

    def done(self):
        return self.made == COUNT and not self.held


class Device:
    def __init__(self):
        self.sensor = Sensor()
        self.stream = "boot" if WRONG == "same-stream" else secrets.token_hex(8)
        self.used = 0
        self.results = {}
        self.failures = self.poisoned = 0
        self.careful = False

    def run(self):
        while True:
            try:
                pause = self.attempt()
            except Leave as end:
                if end.args == ("done",):
                    print("done", flush=True)
                    return
                pause = self.usual()
            if pause is None:
                print("stopped", flush=True)
                return
            if WRONG == "no-backoff":
                pause = 0.01
            self.failures += 1
            until = time.monotonic() + pause * SCALE
            while time.monotonic() < until:
                self.sensor.make()
                time.sleep(min(0.02, max(until - time.monotonic(), 0)))

    def usual(self):
        return min(2 ** min(self.failures, 10), 60) * random.uniform(0.5, 1)

    def attempt(self):
        tls = {}
        if ENV["TELEHUB_URL"].startswith("wss:"):
            tls["ssl"] = ssl.create_default_context(cafile=ENV["TELEHUB_CA"])
            if WRONG == "trusts-anyone":
                tls["ssl"].check_hostname = False
                tls["ssl"].verify_mode = ssl.CERT_NONE
        self.in_flight = []
        try:
            with connect(
                f"{ENV['TELEHUB_URL']}/v1/devices/{ENV['TELEHUB_ID']}",
                additional_headers={"Authorization": f"Bearer {ENV['TELEHUB_TOKEN']}"},
                subprotocols=["telehub.v1"], compression=None, max_size=65536, proxy=None,
                open_timeout=30 * SCALE, close_timeout=2 * SCALE,
                ping_interval=25 * SCALE, ping_timeout=25 * SCALE, **tls,
            ) as socket:
                self.talk(socket)
        except InvalidStatus as refusal:
            return self.refused(refusal.response)
        except ConnectionClosed as closed:
            return self.closed(closed.rcvd.code if closed.rcvd else None)
        except (OSError, WebSocketException, ValueError):
            return self.usual()

    def refused(self, response):
        status, wish = response.status_code, response.headers.get("Retry-After")
        if wish and wish.isdigit():
            return max(int(wish) * random.uniform(1, 1.1), self.usual())
        if status == 429 or not 400 <= status < 500:
            return self.usual()
        return 3600 * random.uniform(1, 1.2)

    def closed(self, code):
        if code == 4002 and WRONG != "comes-back":
            return None
        if code == 4001:
            return random.uniform(60, 75)
        if code in (1007, 1009):
            # Which batch it was shows when it is alone.
            if len(self.in_flight) == 1:
                self.poisoned += 1
                if self.poisoned == 2:
                    self.sensor.drop(self.sensor.held.popleft())
                    self.poisoned = 0
            self.careful = True
        if code in (1001, 1009, 1013):
            return random.uniform(1, 5)
        if code in (1002, 1003, 1007, 1008, 4003):
            return 60 * random.uniform(1, 1.2)
        return self.usual()

    def talk(self, socket):
        hello = {"stream": self.stream, "next": self.used + 1, "model": "foreign"}
        socket.send(cbor2.dumps({"hello": hello}))
        until = time.monotonic() + 30 * SCALE
        while (kind_body := self.receive(socket, until - time.monotonic()))[0] != "welcome":
            if time.monotonic() > until:
                raise Leave("no welcome")
        self.welcome(kind_body[1])
        for result in list(self.results.values()):
            socket.send(result)
        acked_at, allowed = time.monotonic(), time.monotonic()
        while True:
            self.sensor.make()
            window = 1 if self.careful else self.window
            while len(self.in_flight) < window and time.monotonic() >= allowed:
                batch = next((b for b in self.sensor.held if b[0] > self.sent), None)
                if batch is None:
                    break
                if not self.in_flight:
                    acked_at = time.monotonic()
                self.sent, self.used = batch[0], max(self.used, batch[0])
                self.in_flight.append(batch[0])
                pack = [{0: "count", 2: batch[1]}]
                socket.send(cbor2.dumps({"data": {"seq": batch[0], "pack": pack}}))
                allowed = max(allowed, time.monotonic() - SCALE) + SCALE / self.rate
            if self.sensor.done() and not self.results:
                socket.send(cbor2.dumps({"bye": {}}))
                socket.close()
                raise Leave("done")
            if self.in_flight and time.monotonic() - acked_at > 60 * SCALE:
                raise Leave("no ack")
            before = len(self.in_flight)
            self.heard(socket, *self.receive(socket, 0.01))
            if len(self.in_flight) < before:
                acked_at = time.monotonic()

    def receive(self, socket, timeout):
        try:
            message = socket.recv(timeout=max(timeout, 0))
        except TimeoutError:
            return None, {}
        if isinstance(message, str):
            return None, {}
        try:
            message = cbor2.loads(message)
        except Exception:  # noqa: BLE001: whatever it is, it is no message
            return None, {}
        if not isinstance(message, dict) or len(message) != 1:
            return None, {}
        ((kind, body),) = message.items()
        return (kind, body) if isinstance(body, dict) else (None, {})

    def welcome(self, body):
        seq = body["seq"]
        if body["stream"] != self.stream or not isinstance(seq, int):
            raise Leave("another stream")
        if WRONG == "sends-on-from-there":
            self.sensor.renumber(seq)
        elif seq <= self.used:
            while self.sensor.held and self.sensor.held[0][0] <= seq:
                self.sensor.held.popleft()
        else:
            self.sensor.renumber(seq)
            self.used = seq
        self.sent = seq
        self.window = body["window"] if WRONG != "ignores-window" else 1000
        self.rate = body.get("max_rate") or 1000

    def heard(self, socket, kind, body):
        if kind == "ack":
            self.results.pop(body.get("result"), None)
            self.acked(body.get("seq"))
        elif kind == "reject":
            if self.results.pop(body.get("result"), None) is None:
                self.rejected(body.get("seq"), body.get("code"))
        elif kind == "command" and body.get("id") not in self.results and len(self.results) < 64:
            ok = body.get("name") == "echo"
            result = {"id": body["id"], "name": body["name"], "ok": ok}
            if ok:
                print("command", body["id"], body["name"], flush=True)
                result["value"] = body.get("args")
            else:
                result["error"] = "no such command"
            message = cbor2.dumps({"result": result})
            # The smallest hub takes more than the short answer.
            if ok and len(message) > 128:
                short = {"id": body["id"], "name": body["name"], "ok": ok, "error": "too-large"}
                message = cbor2.dumps({"result": short})
            self.results[body["id"]] = message
            socket.send(message)

    def acked(self, seq):
        if not isinstance(seq, int) or seq < 0:
            return
        if seq > self.sent:
            raise Leave("an ack of what was never sent")
        while self.sensor.held and self.sensor.held[0][0] <= seq:
            self.sensor.held.popleft()
        if self.in_flight and self.in_flight[0] <= seq:
            self.failures = self.poisoned = 0
            self.careful = False
        self.in_flight = [number for number in self.in_flight if number > seq]

    def rejected(self, seq, code):
        if seq is None and code != "unknown-kind":
            if len(self.in_flight) == 1:
                seq = self.in_flight[0]
            else:
                self.careful = True
        batch = next((b for b in self.sensor.held if b[0] == seq), None)
        if batch is None or seq not in self.in_flight:
            return
        self.in_flight.remove(seq)
        self.sensor.held.remove(batch)
        if code == "bad-seq":
            self.sensor.last += 1
            self.sensor.held.append([self.sensor.last, batch[1]])


Device().run()
