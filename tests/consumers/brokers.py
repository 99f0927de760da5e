"""The hub against real brokers: what arrives, what a consumer that was away gets, what is corrected,
what is said of a refusal. Each scenario has a broker, a hub and a directory of its own.

Started by tests/brokers.sh. Exit status: 0 as expected; 1 a broker did something else.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt
from broker_servers import MAKERS, free_port, until
from telehub_consumer import Consumer
from verify import Report

PROGRAMS = argparse.Namespace()


class Hub:
    """One hub with its spool; takes any device."""

    def __init__(self, directory, broker_port, settings=""):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True)
        self.port, self.admin = free_port(), free_port()
        self.process = None
        (self.dir / "telehub.toml").write_text(
            f"""
            [hub]
            id = "barn"
            [devices]
            listen = "127.0.0.1:{self.port}"
            auth = "open"
            [spool]
            path = "{self.dir}/spool"
            min_free = "0MiB"
            [uplink]
            url = "mqtt://127.0.0.1:{broker_port}"
            ack_timeout = "3s"
            {settings}
            [admin]
            listen = "127.0.0.1:{self.admin}"
            """
        )

    def start(self):
        with open(self.dir / "log", "ab") as log:
            command = [PROGRAMS.telehub, "run", "--config", self.dir / "telehub.toml"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until("the hub to be ready", lambda: self.answers("/readyz"))

    def answers(self, path):
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
                return answer.read()
        return None

    def uplink(self):
        return json.loads(self.answers("/api/status") or b'{"uplink": {"state": "gone"}}')["uplink"]

    def connected(self):
        until("the uplink", lambda: self.uplink()["state"] == "connected", 120)

    def end(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)

    def swarm(self, devices, batches, rate, readings=2, prefix="cow"):
        """Devices that send and wait for their acks. Their report comes from `.result()`."""
        command = [PROGRAMS.devices, "swarm", "--hub", f"ws://127.0.0.1:{self.port}"]
        command += ["--devices", str(devices), "--batches", str(batches), "--rate", str(rate)]
        command += ["--batch", str(readings), "--prefix", prefix, "--keep", "100000"]
        command += ["--drain-timeout", "90s", "--report-json", "--quiet"]
        return Swarm(command)

    def post(self, device, seq, readings=1):
        """One batch by HTTP: the status of the answer."""
        pack = [{"n": f"value-{at}", "v": at} for at in range(readings)]
        url = f"http://127.0.0.1:{self.port}/v1/devices/{device}/data?stream=post&seq={seq}"
        headers = {"content-type": "application/senml+json"}
        request = urllib.request.Request(url, json.dumps(pack).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def log(self, *words):
        lines = (self.dir / "log").read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in words)]


class Swarm:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def result(self):
        said, _ = self.process.communicate(timeout=180)
        return json.loads(said.splitlines()[-1])

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Watch:
    """A consumer with a session that outlives its connection, on a thread of its own."""

    def __init__(self, port, mqtt5, name="watch"):
        self.report, self.lock = Report(), threading.Lock()
        url, self.stopping = f"mqtt://127.0.0.1:{port}", False
        self.consumer = Consumer(url, name, self._store, mqtt5=mqtt5)
        self.subscribed = threading.Event()
        self.consumer.client.on_subscribe = self._subscribed
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.subscribed.wait(30), "the consumer is not subscribed"

    def _subscribed(self, _client, _data, _mid, reasons, _properties):
        if any(reason.is_failure for reason in reasons):
            self.consumer.refused = "the broker refused the subscription"
        else:
            self.subscribed.set()

    def _store(self, portion):
        with self.lock:
            self.report.take([pair for pair in portion if pair[0].device != "_probe"])

    def _run(self):
        up = False
        while not self.stopping:
            try:
                if not up:
                    self.consumer.connect()
                up = self.consumer.step()
            except OSError:
                # A broker that is just starting refuses; that is no reason to give it up.
                up, self.consumer.refused = False, None
                time.sleep(0.2)
        # An orderly end: the session stays, because it has an expiry.
        self.consumer.client.disconnect()
        self.consumer.client.loop(0.2)

    def end(self):
        self.stopping = True
        self.thread.join()

    def count(self):
        with self.lock:
            return self.report.batches

    def of(self, device):
        with self.lock:
            streams = self.report.streams.items()
            ranges = [one.seen.ranges for (_, id, _), one in streams if id == device]
            return sum(last - first + 1 for all_ in ranges for first, last in all_)

    def summary(self):
        with self.lock:
            return self.report.summary()


class Statuses:
    """What is said on the status topics: to a subscriber that is there, and what is retained."""

    def __init__(self, port, *topics):
        self.messages = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="")
        self.client.on_message = lambda _c, _d, message: self.messages.append(message)
        self.client.connect("127.0.0.1", port)
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.subscribe([(topic, 1) for topic in topics])
        self.client.loop_start()
        assert ready.wait(30), "no SUBACK for the statuses"

    def states(self, topic):
        found = [m.payload for m in self.messages if m.topic == topic and m.payload]
        return [json.loads(payload)["state"] for payload in found]

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


# Seconds in which nothing new came, until what is missing counts as lost.
QUIET = 45


def retained(port, topic):
    """The state that somebody who subscribes now to this very topic is told."""
    statuses = Statuses(port, topic)
    with contextlib.suppress(AssertionError):
        until("a retained message", lambda: statuses.states(topic), 2)
    statuses.end()
    return (statuses.states(topic) or [None])[-1]


def arrived(watch, expected, timeout=180):
    """All of the batches, or what is missing after a while in which nothing came."""
    heard, before, end = time.monotonic(), -1, time.monotonic() + timeout
    while watch.count() < expected and time.monotonic() < end:
        if watch.count() != before:
            before, heard = watch.count(), time.monotonic()
        if time.monotonic() - heard > QUIET:
            break
        time.sleep(0.1)
    summary = watch.summary()
    for hole in summary["holes"]:
        print(f"    hole: {hole}", file=sys.stderr)
    return {
        "missing": expected - summary["batches"],
        "holes": len(summary["holes"]),
        "duplicates": summary["duplicates"],
        "out of order": summary["out_of_order"],
    }


# ---- Scenarios: each returns what was seen, as a map ----


def live(rig):
    """Five devices, a consumer that is there."""
    rig.broker.start()
    watch = rig.watch()
    hub = rig.hub()
    hub.connected()
    sent = hub.swarm(5, 200, 50).result()
    version = hub.uplink()["mqtt"]
    return {"acked": sent["acked"], "mqtt": version} | arrived(watch, sent["made"])


def outage(rig, how=signal.SIGTERM):
    """The broker is stopped in the middle, and comes back with its data."""
    rig.broker.start()
    watch = rig.watch()
    hub = rig.hub()
    hub.connected()
    swarm = rig.keep(hub.swarm(5, 300, 30))
    until("the first batches", lambda: watch.count() > 200)
    rig.broker.end(how)
    until("the outage to be noticed", lambda: hub.uplink()["state"] != "connected")
    time.sleep(2)
    rig.broker.start()
    # Its next attempt may be half a minute away.
    hub.connected()
    sent = swarm.result()
    return {"acked": sent["acked"]} | arrived(watch, sent["made"])


def killed(rig):
    """The same, by SIGKILL: what the broker had acknowledged may not be on its disk."""
    return outage(rig, signal.SIGKILL)


def absent(rig):
    """A consumer with a session goes; a thousand batches come; it returns."""
    rig.broker.start()
    rig.watch().end()
    hub = rig.hub()
    hub.connected()
    sent = hub.swarm(5, 200, 100).result()
    time.sleep(1)
    return {"acked": sent["acked"]} | arrived(rig.watch(), sent["made"])


def restarted(rig):
    """The same, and the broker is restarted before the consumer returns."""
    rig.broker.start()
    rig.watch().end()
    hub = rig.hub()
    hub.connected()
    sent = hub.swarm(5, 100, 100).result()
    time.sleep(2)
    rig.broker.end()
    rig.broker.start()
    return {"acked": sent["acked"]} | arrived(rig.watch(), sent["made"])


def statuses(rig):
    """Each connection of a device is published as online once; a stop says offline."""
    rig.broker.start()
    hub = rig.hub()
    hub.connected()
    topic = "telehub/barn/cow-0/status"
    seen = rig.keep(Statuses(rig.broker.port, topic))
    hub.swarm(1, 3, 10).result()
    until("the status offline", lambda: "offline" in seen.states(topic))
    said = " ".join(seen.states(topic))
    hub.end()
    return {"said": said, "retained": retained(rig.broker.port, topic),
            "hub": retained(rig.broker.port, "telehub/barn/status")}


def will(rig):
    """The hub is killed: its last will, and after its return the device that has gone meanwhile."""
    rig.broker.start()
    hub = rig.hub()
    hub.connected()
    device, own = "telehub/barn/cow-0/status", "telehub/barn/status"
    swarm = rig.keep(hub.swarm(1, 100000, 2))
    until("the device online", lambda: retained(rig.broker.port, device) == "online")
    hub.end(signal.SIGKILL)
    swarm.end()
    with contextlib.suppress(AssertionError):
        until("the will", lambda: retained(rig.broker.port, own) == "offline", 20)
    willed = retained(rig.broker.port, own)
    hub.start()
    hub.connected()
    with contextlib.suppress(AssertionError):
        until("the correction", lambda: retained(rig.broker.port, device) == "offline", 15)
    return {"will": willed, "hub": retained(rig.broker.port, own),
            "device after return": retained(rig.broker.port, device)}


def denied(rig):
    """The broker forbids one device's data. Others go on, and the hub says so."""
    rig.broker.configure(denied=["telehub/barn/bad/data", "telehub/barn/bad/history"])
    rig.broker.start()
    watch = rig.watch()
    hub = rig.hub()
    hub.connected()
    hub.post("good", 1)
    answers = [hub.post("bad", 1)]
    for seq in range(2, 12):
        answers.append(hub.post("good", seq))
    with contextlib.suppress(AssertionError):
        until("the good ones", lambda: watch.count() >= 11 and hub.uplink()["refused"], 45)
    with contextlib.suppress(AssertionError):
        until("the uplink", lambda: hub.uplink()["state"] == "connected", 20)
    uplink = hub.uplink()
    return {
        "good arrived": watch.of("good"),
        "answers": " ".join(sorted({str(code) for code in answers})),
        "state": uplink["state"],
        "refused": " ".join(one["topic"] for one in uplink["refused"]),
        "probe": uplink["probe"],
    }


def large(rig):
    """A batch above the broker's limit among small ones."""
    rig.broker.configure(limit=8192)
    rig.broker.start()
    watch = rig.watch()
    hub = rig.hub()
    hub.connected()
    for seq in range(1, 6):
        hub.post("cow", seq)
    answer = hub.post("cow", 6, readings=900)
    for seq in range(7, 12):
        hub.post("cow", seq)
    with contextlib.suppress(AssertionError):
        until("the small ones and the gap", lambda: watch.count() >= 10 and watch.report.gaps, rig.broker.patience)
    uplink, summary = hub.uplink(), watch.summary()
    return {"small ones": watch.count(), "large": answer, "gap records": summary["gap_records"],
            "unexplained": len(summary["holes"]), "state": uplink["state"]}


def dots(rig):
    """A device whose id has a dot."""
    rig.broker.start()
    watch = rig.watch()
    hub = rig.hub()
    hub.connected()
    sent = hub.swarm(2, 20, 20, prefix="v1.2").result()
    result = {"acked": sent["acked"]} | arrived(watch, sent["made"], 30)
    devices = {device for (_, device, _) in watch.report.streams}
    return result | {"state": hub.uplink()["state"], "seen as": " ".join(sorted(devices))}


# What a broker should come to, by scenario.
ARRIVES = {"missing": 0, "holes": 0, "out of order": 0}
GOOD = {
    "live": ARRIVES | {"duplicates": 0},
    "outage": ARRIVES,
    "killed": ARRIVES,
    "absent": ARRIVES | {"duplicates": 0},
    "restarted": ARRIVES,
    "statuses": {"said": "online offline", "retained": "offline", "hub": "offline"},
    "will": {"will": "offline", "hub": "online", "device after return": "offline"},
    "denied": {"good arrived": 11, "refused": "telehub/barn/bad/data", "state": "connected"},
    # A gap record that had no PUBACK before a reconnect comes twice.
    "large": {"small ones": 10, "gap records": (1, 2), "unexplained": 0},
    "dots": ARRIVES,
}
# Where one of them does otherwise, as docs/brokers.md says; the rest of the scenario has to be good.
KNOWN = {
    # 3.1.1 cannot refuse: they acknowledge and drop.
    ("mosquitto-3.1.1", "denied"): {"refused": ""},
    ("mosquitto-3.1.1", "large"): {"gap records": 0, "unexplained": 1},
    ("nats", "denied"): {"refused": ""},
    # Its max_payload is not for MQTT: the large one arrives.
    ("nats", "large"): {"small ones": 11, "gap records": 0},
    ("nats", "dots"): {"missing": 40},
    # What it has acknowledged is not on its disk yet: a kill loses up to a second of 150 batches.
    ("mosquitto-5", "killed"): {"missing": range(151), "holes": range(151)},
    ("mosquitto-3.1.1", "killed"): {"missing": range(151), "holes": range(151)},
    # It acknowledges in the moment of its stop what it does not store.
    ("nats", "outage"): {"missing": (0, 1, 2, 3), "holes": (0, 1, 2, 3)},
    # It hangs up; POST waits for the PUBACK until the batch goes to the spool.
    ("rabbitmq", "denied"): {"refused": "telehub/barn/bad/history"},
    ("rabbitmq", "will"): {"device after return": "online"},
    ("rabbitmq", "dots"): {"missing": 40},
}

SCENARIOS = [live, outage, killed, absent, restarted, statuses, will, denied, large, dots]


class Rig:
    """One scenario's broker, hub and clients, all of which end with it."""

    def __init__(self, name, directory):
        self.broker = MAKERS[name](directory / "broker")
        self.dir, self.things = directory, []

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def hub(self):
        hub = self.keep(Hub(self.dir / "hub", self.broker.port, self.broker.hub_settings))
        hub.start()
        return hub

    def watch(self):
        return self.keep(Watch(self.broker.port, self.broker.mqtt5))

    def end(self):
        for thing in reversed(self.things):
            with contextlib.suppress(Exception):
                thing.end()
        self.broker.stop()


def run(name, scenario, directory):
    rig = Rig(name, directory)
    try:
        return scenario(rig)
    except Exception:
        (directory / "failed").write_text(traceback.format_exc())
        return {"failed": traceback.format_exc().strip().splitlines()[-1]}
    finally:
        rig.end()


def judged(name, scenario, seen):
    """Whether that is what was expected, and a remark for its line."""
    known = KNOWN.get((name, scenario), {})
    expected = GOOD[scenario] | known
    fits = lambda is_, wanted: is_ in wanted if isinstance(wanted, (tuple, range)) else is_ == wanted
    wrong = [f"{key}: {value}" for key, value in expected.items() if not fits(seen.get(key), value)]
    if wrong:
        return False, f"\n    EXPECTED {', '.join(wrong)}"
    return True, "  (known)" if known else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--telehub", required=True)
    parser.add_argument("--devices", required=True)
    parser.add_argument("--broker", action="append", choices=list(MAKERS))
    names = [scenario.__name__ for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names)
    parser.add_argument("--keep", metavar="DIR", help="leave logs and data there")
    parser.parse_args(namespace=PROGRAMS)
    root, surprises = pathlib.Path(PROGRAMS.keep or tempfile.mkdtemp(prefix="brokers-")), 0
    for name in PROGRAMS.broker or MAKERS:
        maker = MAKERS[name](root / name / "version")
        print(f"{maker.name} {maker.version()}", flush=True)
        for scenario in SCENARIOS:
            if PROGRAMS.scenario and scenario.__name__ not in PROGRAMS.scenario:
                continue
            seen = run(name, scenario, root / name / scenario.__name__)
            words = ", ".join(f"{key}: {value}" for key, value in seen.items())
            good, remark = judged(name, scenario.__name__, seen)
            print(f"  {scenario.__name__:10} {words}{remark}", flush=True)
            surprises += not good
    if not PROGRAMS.keep:
        shutil.rmtree(root)
    print(f"{surprises} not as docs/brokers.md has it")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
