"""Measures what a device costs on the wire: figures.py [HUB_BINARY]

Wakes, sends one reading, waits until it is safe, sleeps: over telehub and over MQTT QoS 1, plain and
with TLS 1.3, through a proxy that counts bytes and turns of direction. Then bytes per reading of a
device that stays connected. Everything runs on loopback; needs mosquitto and openssl.
"""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "micropython"))
import telehub  # noqa: E402: the kit whose core makes the bytes

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class Proxy:
    """Counts what passes: bytes each way, and flights: bursts of one direction."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()
        self.reset()

    def reset(self):
        self.up = self.down = 0
        self.turns = []

    def serve(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for a, b, up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self.pump, args=(a, b, up), daemon=True).start()

    def pump(self, source, sink, up):
        try:
            while data := source.recv(65536):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                if not self.turns or self.turns[-1] is not up:
                    self.turns.append(up)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def until_open(port):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def certificates(path):
    def run(*arguments):
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    run("req", *curve, "-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=localhost")
    with open(os.path.join(path, "san"), "w") as file:
        file.write("subjectAltName=DNS:localhost\n")
    run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "cert.pem", "-days", "2", "-extfile", "san")


def dial(proxy, context):
    sock = socket.create_connection(("localhost", proxy.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(sock, server_hostname="localhost") if context else sock


def talk(core, sock, done, ahead=b""):
    """Moves bytes of the core until `done`, or until it hangs up."""
    core.connected(0)
    now = 0
    while True:
        todo = core.tick(now)
        if core.out:
            out, core.out = core.out, bytearray()
            sock.sendall(bytes(out) + ahead)
            ahead = b""
        if todo == "hang up" or done(core):
            return
        core.input(sock.recv(4096), now)
        now += 100


def over_telehub(proxy, context):
    core = telehub.Core(f"localhost:{proxy.port}", "meter-1", "x" * 43)
    core.put([{0: "temperature", 1: "Cel", 2: 21.5}], 0)
    core.leave(600)
    with dial(proxy, context) as sock:
        talk(core, sock, lambda core: False)


def in_one_flight(proxy, context):
    """Request, hello and data in one flight, before any answer; then the ack."""
    core = telehub.Core(f"localhost:{proxy.port}", "meter-2", "x" * 43)
    core.connected(0)
    request, core.out = bytes(core.out), bytearray()
    core._send({"hello": {"stream": core.stream, "next": 1, "clock": "none"}})
    core._send({"data": {"seq": 1, "age": 0, "pack": [{0: "temperature", 1: "Cel", 2: 21.5}]}})
    with dial(proxy, context) as sock:
        sock.sendall(request + bytes(core.out))
        heard = b""
        while b"\x63ack" not in heard:
            got = sock.recv(4096)
            if not got:
                raise SystemExit(f"the hub hung up: {heard}")
            heard += got


def over_mqtt(proxy, context, version):
    def text(value):
        return len(value).to_bytes(2, "big") + value

    five = b"\x00" if version == 5 else b""
    connect = text(b"MQTT") + bytes([version, 0xC2, 0, 60]) + five
    connect += text(b"meter-1") + text(b"meter-1") + text(b"x" * 43)
    payload = b'{"n":"temperature","u":"Cel","v":21.5}'
    publish = text(b"sensors/meter-1/data") + b"\0\x01" + five + payload
    with dial(proxy, context) as sock:
        sock.sendall(bytes([0x10, len(connect)]) + connect)
        sock.recv(64)
        sock.sendall(bytes([0x32, len(publish)]) + publish)
        sock.recv(64)
        sock.sendall(b"\xe0\0")


def measure(name, proxy, context, work):
    proxy.reset()
    work(proxy, context)
    time.sleep(0.3)
    turns = sum(1 for up in proxy.turns if not up)
    print(f"| {name} | {proxy.up} | {proxy.down} | {proxy.up + proxy.down} | {turns} |")


def steady(proxy, count, each):
    """Bytes a reading, with so many readings in a batch."""
    core = telehub.Core(f"localhost:{proxy.port}", "meter-3", "x" * 43, capacity=1000)
    with dial(proxy, None) as sock:
        talk(core, sock, lambda core: core.phase == 3)
        time.sleep(0.2)
        proxy.reset()
        for batch in range(count):
            records = [{-2: "barn/", 0: "temperature", 1: "Cel", 2: 21.5, 6: -each + 1}]
            records += [{0: "temperature", 1: "Cel", 2: 21.5, 6: at + 1 - each} for at in range(1, each)]
            core.put(records, 100000)
            core.tick(100000 + 1000 * batch)
            out, core.out = core.out, bytearray()
            sock.sendall(out)
            while core.held:
                core.input(sock.recv(4096), 100000 + 1000 * batch)
        time.sleep(0.2)
        total = count * each
        print(f"| {each} a batch | {proxy.up / total:.1f} | {proxy.down / total:.1f} |")


def main():
    hub = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "target/debug/telehub")
    processes = []
    with tempfile.TemporaryDirectory() as path:
        certificates(path)
        plain, secure = free_port(), free_port()
        with open(f"{path}/mosquitto.conf", "w") as file:
            file.write(f"allow_anonymous true\nlistener {plain} 127.0.0.1\nlistener {secure} 127.0.0.1\n"
                       f"certfile {path}/cert.pem\nkeyfile {path}/key.pem\n")
        mosquitto = next(p for p in ("/usr/sbin/mosquitto", "/usr/bin/mosquitto") if os.path.exists(p))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen([mosquitto, "-c", f"{path}/mosquitto.conf"], **quiet))
        until_open(plain)
        ports = []
        for name, tls in (("plain", ""), ("secure", f'[devices.tls]\ncert = "{path}/cert.pem"\nkey = "{path}/key.pem"\n')):
            port = free_port()
            ports.append(port)
            with open(f"{path}/{name}.toml", "w") as file:
                file.write(f'[hub]\nid = "{name}"\n[devices]\nlisten = "127.0.0.1:{port}"\nauth = "open"\n{tls}'
                           f'[spool]\npath = "{path}/{name}"\nmin_free = "1MiB"\n[uplink]\nurl = "mqtt://127.0.0.1:{plain}"\n')
            processes.append(subprocess.Popen([hub, "run", "--config", f"{path}/{name}.toml"], **quiet))
            until_open(port)
        time.sleep(1)
        try:
            context = ssl.create_default_context(cafile=f"{path}/ca.pem")
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            print("| wake, send one reading, wait until it is safe, sleep | bytes up | down | both | answers waited for |")
            print("|---|---|---|---|---|")
            for label, over, hub_port, mqtt_port in (("plain", None, ports[0], plain), ("TLS 1.3", context, ports[1], secure)):
                proxy, broker = Proxy(hub_port), Proxy(mqtt_port)
                measure(f"telehub, {label}", proxy, over, over_telehub)
                measure(f"telehub in one flight, {label}", proxy, over, in_one_flight)
                measure(f"MQTT 3.1.1 QoS 1, {label}", broker, over, lambda p, c: over_mqtt(p, c, 4))
                measure(f"MQTT 5 QoS 1, {label}", broker, over, lambda p, c: over_mqtt(p, c, 5))
            print("\n| a device that stays, plain | bytes up a reading | down |\n|---|---|---|")
            proxy = Proxy(ports[0])
            steady(proxy, 50, 1)
            steady(proxy, 50, 10)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


main()
