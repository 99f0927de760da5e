"""What a reading costs on the wire: a proxy between device and server counts. Started by
tests/figures.sh. Bytes are those of TCP's payload, TLS included; IP and TCP headers come on top."""

import contextlib
import os
import pathlib
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import cbor2
import paho.mqtt.client as mqtt
from broker_servers import free_port, program, until

# One way through the proxy. So long that everything which does not wait for an answer is one flight.
DELAY = 0.03
TOKEN_ID = "barn-1"
READING = [{0: "temperature", 1: "Cel", 2: 21.5}]
STAYS_S = 30


def pack_of(readings):
    """Ten readings of one series, a second apart, as a device would write them."""
    if readings == 1:
        return READING
    first = {-2: "temperature", -4: "Cel", 6: 1 - readings, 2: 21.5}
    return [first] + [{6: at + 1 - readings, 2: 21.5} for at in range(1, readings)]


def encoded(value):
    return cbor2.dumps(value, canonical=True)


class Proxy:
    """Hands bytes on after DELAY and counts them, and how often the client spoke after the server."""

    def __init__(self, port):
        self.target, self.listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.reset()
        threading.Thread(target=self._serve, daemon=True).start()

    def reset(self):
        self.up = self.down = self.flights = 0
        self.last = "down"

    def _serve(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        server = socket.create_connection(("127.0.0.1", self.target))
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends, waiting = {client: server, server: client}, []
        with selectors.DefaultSelector() as selector, client, server:
            for end in ends:
                selector.register(end, selectors.EVENT_READ)
            while True:
                due = waiting[0][0] - time.monotonic() if waiting else None
                for key, _ in selector.select(None if due is None else max(0, due)):
                    data = b""
                    with contextlib.suppress(OSError):
                        data = key.fileobj.recv(65536)
                    self._count(key.fileobj is client, data)
                    waiting.append((time.monotonic() + DELAY, ends[key.fileobj], data))
                    if not data:
                        selector.unregister(key.fileobj)
                while waiting and waiting[0][0] <= time.monotonic():
                    _, to, data = waiting.pop(0)
                    with contextlib.suppress(OSError):
                        to.sendall(data) if data else to.shutdown(socket.SHUT_WR)
                if not waiting and not selector.get_map():
                    return

    def _count(self, from_client, data):
        if not data:
            return
        if from_client:
            self.flights += self.last == "down"
            self.up, self.last = self.up + len(data), "up"
        else:
            self.down, self.last = self.down + len(data), "down"


class Device:
    """A telehub device by hand, so that it decides what goes in one flight."""

    def __init__(self, proxy, token, context):
        self.raw = socket.create_connection(("127.0.0.1", proxy.port))
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(self.raw, server_hostname="localhost") if context else self.raw
        self.stream, self.buffer = self.socket, b""
        self.request = (
            f"GET /v1/devices/{TOKEN_ID} HTTP/1.1\r\nHost: hub.local:8787\r\n"
            f"Authorization: Bearer {token}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        # As the C kit says it.
        self.hello = self.frame({"hello": {"stream": os.urandom(8).hex(), "next": 1, "clock": "none"}})

    @staticmethod
    def frame(message, opcode=2):
        body = message if isinstance(message, bytes) else encoded(message)
        length = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        mask = os.urandom(4)
        return bytes([0x80 | opcode]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(body))

    def data(self, seq, readings=1):
        return self.frame({"data": {"seq": seq, "age": 0, "pack": pack_of(readings)}})

    def send(self, *parts):
        self.socket.sendall(b"".join(parts))

    def more(self):
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("the hub has hung up")
        self.buffer += got

    def upgraded(self):
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101"), head

    def take(self):
        """The next frame: its opcode and its body."""
        while True:
            if len(self.buffer) >= 4:
                size, at = self.buffer[1], 2
                if size == 126:
                    size, at = int.from_bytes(self.buffer[2:4], "big"), 4
                if len(self.buffer) >= at + size:
                    opcode, body = self.buffer[0] & 15, self.buffer[at : at + size]
                    self.buffer = self.buffer[at + size :]
                    return opcode, body
            self.more()

    def until(self, kind):
        while True:
            opcode, body = self.take()
            if opcode == 9:
                self.send(self.frame(body, 10))
            elif opcode == 2:
                message = cbor2.loads(body)
                assert "reject" not in message, message
                if kind in message:
                    return message[kind]

    def bye(self):
        self.send(self.frame({"bye": {"sleep": 600}}))
        with contextlib.suppress(OSError):
            while self.socket.recv(4096):
                pass
        self.socket.close()


def telehub_step_by_step(proxy, token, context):
    device = Device(proxy, token, context)
    device.send(device.request)
    device.upgraded()
    device.send(device.hello)
    device.until("welcome")
    device.send(device.data(1))
    device.until("ack")
    flights = proxy.flights
    device.bye()
    return flights


def telehub_in_one_flight(proxy, token, context):
    device = Device(proxy, token, context)
    device.send(device.request, device.hello, device.data(1))
    device.upgraded()
    device.until("ack")
    flights = proxy.flights
    device.bye()
    return flights


def telehub_post(proxy, token, context):
    device = Device(proxy, token, context)
    body = encoded(READING)
    device.send(
        f"POST /v1/devices/{TOKEN_ID}/data?stream={os.urandom(8).hex()}&seq=1 HTTP/1.1\r\nHost: hub.local:8787\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/senml+cbor\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    )
    while b"\r\n\r\n" not in device.buffer:
        device.more()
    assert device.buffer.startswith(b"HTTP/1.1 204"), device.buffer
    flights = proxy.flights
    device.socket.close()
    return flights


TOPIC = f"telehub/barn/{TOKEN_ID}/data"


def mqtt_client(proxy, token, context):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=TOKEN_ID)
    client.username_pw_set(TOKEN_ID, token)
    if context:
        client.tls_set_context(context)
    ready = threading.Event()
    client.on_connect = lambda *_: ready.set()
    client.connect("localhost", proxy.port)
    client.loop_start()
    assert ready.wait(10)
    return client


def mqtt_paho(proxy, token, context):
    client = mqtt_client(proxy, token, context)
    client.publish(TOPIC, encoded(READING), qos=1).wait_for_publish(10)
    flights = proxy.flights
    client.disconnect()
    client.loop_stop()
    return flights


def mqtt_in_one_flight(proxy, token, context):
    text = lambda value: len(value).to_bytes(2, "big") + value
    packet = lambda kind, body: bytes([kind, *([len(body)] if len(body) < 128 else
                                               [len(body) % 128 | 128, len(body) // 128])]) + body
    device = Device(proxy, token, context)
    name = TOKEN_ID.encode()
    connect = packet(0x10, text(b"MQTT") + b"\x04\xc2\x00\x3c" + text(name) + text(name) + text(token.encode()))
    publish = packet(0x32, text(TOPIC.encode()) + b"\x00\x01" + encoded(READING))
    device.send(connect, publish)
    while len(device.buffer) < 8:
        device.more()
    assert device.buffer == b"\x20\x02\x00\x00\x40\x02\x00\x01", device.buffer
    flights = proxy.flights
    device.send(b"\xe0\x00")
    device.socket.close()
    return flights


WAKES = [
    ("telehub, step by step", telehub_step_by_step),
    ("telehub, in one flight", telehub_in_one_flight),
    ("telehub, `POST`", telehub_post),
    ("MQTT QoS 1, paho", mqtt_paho),
    ("MQTT QoS 1, in one flight", mqtt_in_one_flight),
]


def telehub_stays(proxy, token, context, readings, batches, pause):
    device = Device(proxy, token, context)
    device.send(device.request, device.hello)
    device.upgraded()
    device.until("welcome")
    proxy.reset()
    for seq in range(1, batches + 1):
        device.send(device.data(seq, readings))
        device.until("ack")
        time.sleep(pause)
    counted = proxy.up, proxy.down
    device.bye()
    return counted


def mqtt_stays(proxy, token, context, readings, batches, pause):
    client = mqtt_client(proxy, token, context)
    proxy.reset()
    for _ in range(batches):
        client.publish(TOPIC, encoded(pack_of(readings)), qos=1).wait_for_publish(10)
        time.sleep(pause)
    counted = proxy.up, proxy.down
    client.disconnect()
    client.loop_stop()
    return counted


def certificates(directory):
    """A CA, and a certificate for localhost, both on P-256."""
    run = lambda *words: subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "30")
    run("req", *curve, "-keyout", "hub.key", "-out", "hub.csr", "-subj", "/CN=localhost")
    (directory / "san").write_text("subjectAltName=DNS:localhost\n")
    run("x509", "-req", "-in", "hub.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "hub.pem", "-days", "30", "-extfile", "san")


class Servers:
    """A hub and a mosquitto of the same token and certificate; the hub forwards to the mosquitto."""

    def __init__(self, directory, telehub, tls):
        directory.mkdir()
        self.dir, self.processes = directory, []
        self.broker, self.hub = free_port(), free_port()
        inner, admin = free_port(), free_port()
        registry = directory / "devices.toml"
        said = subprocess.run(
            [telehub, "device", "add", TOKEN_ID, "--registry", registry], check=True, capture_output=True, text=True
        )
        self.token = said.stdout.strip().splitlines()[-1]
        passwords = directory / "passwords"
        words = ["mosquitto_passwd", "-c", "-b", passwords, TOKEN_ID, self.token]
        subprocess.run(words, check=True, capture_output=True)
        listener = f"cafile {directory}/../ca.pem\ncertfile {directory}/../hub.pem\nkeyfile {directory}/../hub.key\n"
        (directory / "mosquitto.conf").write_text(
            f"per_listener_settings true\nuser root\nlistener {inner} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.broker} 127.0.0.1\npassword_file {passwords}\n" + (listener if tls else "")
        )
        section = f'[devices.tls]\ncert = "{directory}/../hub.pem"\nkey = "{directory}/../hub.key"\n'
        (directory / "telehub.toml").write_text(
            f'[hub]\nid = "barn"\n[devices]\nlisten = "127.0.0.1:{self.hub}"\nregistry = "{registry}"\n'
            f'[spool]\npath = "{directory}/spool"\nmin_free = "0MiB"\n[uplink]\nurl = "mqtt://127.0.0.1:{inner}"\n'
            f'[admin]\nlisten = "127.0.0.1:{admin}"\n' + (section if tls else "")
        )
        self.start(program("mosquitto"), "-c", directory / "mosquitto.conf")
        self.start(telehub, "run", "--config", directory / "telehub.toml")
        for port in (self.broker, self.hub, inner):
            until("a server", lambda: self.listens(port))
        connected = b'"state":"connected"'
        until("the uplink", lambda: connected in self.status(admin))

    @staticmethod
    def listens(port):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    @staticmethod
    def status(admin):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", admin), 2) as asking:
            asking.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: asking.recv(65536), b""))
        return b""

    def start(self, *command):
        with open(self.dir / "log", "ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def end(self):
        for process in self.processes:
            process.terminate()
            process.wait(20)


def main():
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        certificates(directory)
        context = ssl.create_default_context(cafile=directory / "ca.pem")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        rows, stays = {}, []
        for tls in (False, True):
            servers = Servers(directory / ("tls" if tls else "plain"), sys.argv[1], tls)
            try:
                for label, wake in WAKES:
                    proxy = Proxy(servers.hub if label.startswith("telehub") else servers.broker)
                    # TCP's own round trip comes before the first byte.
                    flights = 1 + wake(proxy, servers.token, context if tls else None)
                    time.sleep(4 * DELAY)
                    rows.setdefault(label, []).extend([flights, proxy.up, proxy.down])
                for label, stay, port in (("telehub", telehub_stays, servers.hub), ("MQTT QoS 1", mqtt_stays, servers.broker)):
                    one = stay(Proxy(port), servers.token, context if tls else None, 1, STAYS_S, 1)
                    ten = stay(Proxy(port), servers.token, context if tls else None, 10, 10, 0)
                    stays.append((f"{label}{', TLS' if tls else ''}", one, ten))
            finally:
                servers.end()
    print("| wake, send one reading, sleep | plain: round trips | sent | received | TLS 1.3: round trips | sent | received |")
    print("|---|---|---|---|---|---|---|")
    for label, numbers in rows.items():
        print(f"| {label} | " + " | ".join(map(str, numbers)) + " |")
    print("\n| connection that stays | bytes a reading, one a second: sent | received | in tens: sent | received |")
    print("|---|---|---|---|---|")
    for label, one, ten in stays:
        cells = [one[0] / STAYS_S, one[1] / STAYS_S, ten[0] / 100, ten[1] / 100]
        print(f"| {label} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
