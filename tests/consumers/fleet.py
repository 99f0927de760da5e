"""Three hubs, three hundred devices that go from hub to hub, a cluster of three RabbitMQ nodes with quorum
queues, a consumer: each of them killed in turn. Counts what was lost, what came twice, and what came out of order.

    tests/fleet.sh [--devices 300] [--pause 15] [--rate 0.5]

Exit status: 0 nothing was lost, 1 something was.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from broker_servers import RabbitMq, free_port, until
from telehub_consumer import Consumer, address, decode
from verify import Report

ROOT = pathlib.Path(__file__).resolve().parents[2]
HUBS = ["north", "middle", "south"]


class Node(RabbitMq):
    """One of a cluster: with the others it shares the directory of names and the cookie."""

    def __init__(self, directory, number, cluster):
        super().__init__(directory)
        self.number, self.cluster = number, cluster
        self.name = f"RabbitMQ node {number}"

    def nodename(self):
        return f"fleet{self.number}@localhost"

    def environment(self):
        return super().environment() | {
            "HOME": str(self.cluster.dir),
            "ERL_EPMD_PORT": str(self.cluster.epmd),
            "RABBITMQ_NODENAME": self.nodename(),
        }

    def command(self):
        command = super().command()
        nodes = enumerate(self.cluster.nodes, 1)
        lines = [
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{at} = {node.nodename()}" for at, node in nodes),
            "mqtt.durable_queue_type = quorum",
        ]
        with open(self.dir / "rabbitmq.conf", "a") as conf:
            conf.write("\n".join(lines) + "\n")
        return command

    def rabbitmqctl(self, *arguments):
        command = [str(self.sbin / "rabbitmqctl"), *arguments]
        said = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.environment()
        )
        return said.stdout


class Cluster:
    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir()
        self.epmd = free_port()
        erts = sorted(pathlib.Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))[-1]
        self.names = subprocess.Popen(
            [str(erts), "-port", str(self.epmd), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.nodes = []
        self.nodes += [Node(self.dir / str(number), number, self) for number in (1, 2, 3)]
        for node in self.nodes:
            node.names = self.names

    def start(self):
        for node in self.nodes:
            node.start()
        until("three nodes in one cluster", self.is_whole, 120)

    def is_whole(self):
        said = self.nodes[0].rabbitmqctl("cluster_status", "--formatter", "json")
        return said and len(json.loads(said)["running_nodes"]) == 3

    def stop(self):
        for node in self.nodes:
            node.end(signal.SIGKILL)
        self.names.terminate()
        self.names.wait(10)


class Hub:
    def __init__(self, directory, name, program, urls):
        self.dir = pathlib.Path(directory) / name
        self.dir.mkdir()
        self.name, self.program, self.process = name, program, None
        self.port, self.admin = free_port(), free_port()
        (self.dir / "telehub.toml").write_text(
            f"""
            [hub]
            id = "{name}"
            [devices]
            listen = "127.0.0.1:{self.port}"
            auth = "open"
            [spool]
            path = "{self.dir}/spool"
            min_free = "1MiB"
            [admin]
            listen = "127.0.0.1:{self.admin}"
            [uplink]
            url = {json.dumps(urls)}
            return_after = "20s"
            """
        )

    def start(self):
        log = open(self.dir / "log", "ab")
        command = [self.program, "run", "--config", str(self.dir / "telehub.toml")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def status(self):
        command = [self.program, "status", "--admin", f"http://127.0.0.1:{self.admin}", "--json"]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        try:
            report = json.loads(said)
        except ValueError:
            return None
        return report.get("status", report)

    def is_drained(self):
        status = self.status()
        return status and status["spool"]["batches"] == 0 and status["live"]["batches"] == 0

    def kill(self):
        self.process.kill()
        self.process.wait()


def consume(urls, file):
    """Writes every message down before it is acknowledged, wherever in the cluster it can be had."""
    out = open(file, "ab")

    def store(portion):
        for where, what in portion:
            topic = "/".join([where.prefix, where.hub, where.device, where.kind])
            out.write(json.dumps([topic, what]).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())

    at = 0
    while True:
        consumer = Consumer(urls[at % len(urls)], "fleet-consumer", store, mqtt5=False)
        try:
            consumer.connect()
            while consumer.step():
                pass
        except OSError:
            pass
        at += 1
        time.sleep(0.5)


class Keeper:
    """The consumer as a process of its own."""

    def __init__(self, urls, file):
        self.urls, self.file, self.process = urls, file, None

    def start(self):
        command = [sys.executable, __file__, "--consume", str(self.file), *self.urls]
        errors = open(str(self.file) + ".log", "ab")
        self.process = subprocess.Popen(command, stderr=errors)

    def has_subscribed(self):
        return "subscribed" in pathlib.Path(str(self.file) + ".log").read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()


def troubles(cluster, hubs, keeper):
    """What is killed, and how it comes back, in turn."""
    for at in range(3):
        yield cluster.nodes[at].name, lambda at=at: cluster.nodes[at].end(signal.SIGKILL), cluster.nodes[at].start
        yield f"hub {hubs[at].name}", hubs[at].kill, hubs[at].start
        yield "the consumer", keeper.kill, keeper.start


def judge(file):
    """Over a file of messages: the report, and how many copies of a batch came through another hub."""
    report, first, elsewhere = Report(fleet=True), {}, 0
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            topic, what = json.loads(line)
            where = address(topic, "telehub")
            report.take([(where, what)])
            if where.kind != "gap":
                key = (what["device"], what["stream"], what["seq"])
                elsewhere += first.setdefault(key, where.hub) != where.hub
    return report, elsewhere


def play(args, directory):
    telehub, devices = (str(ROOT / "target/debug" / name) for name in ("telehub", "devices"))
    cluster = Cluster(directory / "cluster")
    started, swarm = [], None
    try:
        cluster.start()
        urls = [f"mqtt://127.0.0.1:{node.port}" for node in cluster.nodes]
        turned = lambda at: urls[at:] + urls[:at]
        hubs = [Hub(directory, name, telehub, turned(at)) for at, name in enumerate(HUBS)]
        keeper = Keeper(turned(1), directory / "messages")
        for one in [keeper, *hubs]:
            one.start()
            started.append(one)
        until("the consumer's subscription", keeper.has_subscribed)
        until("the hubs", lambda: all(hub.status() for hub in hubs))
        queues = cluster.nodes[0].rabbitmqctl("list_queues", "-q", "name", "type")
        print("queues:", " ".join(re.findall(r"(quorum|classic)", queues)) or "none", flush=True)
        swarm = subprocess.Popen(
            [devices, "swarm", "--quiet", "--report-json", "--devices", str(args.devices)]
            + ["--rate", str(args.rate), "--batch", "5"]
            + ["--drain-timeout", "300s", "--keep", "10000"]
            + ["--hub", ",".join(f"ws://127.0.0.1:{hub.port}" for hub in hubs)],
            stdout=subprocess.PIPE,
            # A line for each connection that a killed hub cost.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        began = time.monotonic()
        for name, kill, start in troubles(cluster, hubs, keeper):
            time.sleep(args.pause)
            kill()
            print(f"{time.monotonic() - began:6.1f} s: {name} was killed", flush=True)
            time.sleep(args.pause)
            start()
            print(f"{time.monotonic() - began:6.1f} s: {name} is back", flush=True)
        time.sleep(args.pause)
        # The devices measure no more, and wait for their acks.
        swarm.send_signal(signal.SIGINT)
        sent = json.loads(swarm.communicate()[0])
        print(f"{time.monotonic() - began:6.1f} s: the devices have ended", flush=True)
        until("the spools to drain", lambda: all(hub.is_drained() for hub in hubs), 300)
        size = -1
        while size != (size := keeper.file.stat().st_size):
            time.sleep(10)
        report, elsewhere = judge(keeper.file)
        return sent, report.summary(), elsewhere
    finally:
        if swarm:
            swarm.kill()
        for one in started:
            one.kill()
        cluster.stop()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--pause", type=float, default=15, help="seconds before and after each kill")
    parser.add_argument("--rate", type=float, default=0.5, help="batches a second and device")
    parser.add_argument("--keep", help="leave the files in this directory, which must not exist")
    parser.add_argument("--consume", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.consume:
        return consume(args.consume[1:], args.consume[0])
    with tempfile.TemporaryDirectory(prefix="telehub-fleet-") as temporary:
        directory = pathlib.Path(args.keep or temporary)
        directory.mkdir(exist_ok=not args.keep)
        sent, summary, elsewhere = play(args, directory)
    holes = sum(hole["to"] - hole["from"] + 1 for hole in summary["holes"])
    lost = max(holes, sent["acked"] - summary["batches"])
    print(f"batches acked to the devices     {sent['acked']}")
    print(f"different batches consumed       {summary['batches']}")
    print(f"lost                             {lost}")
    print(f"duplicates, recognised           {summary['duplicates']}, of them through another hub {elsewhere}")
    print(f"out of order, per hub and lane   {summary['out_of_order']}")
    print(f"connections lost by devices      {sent['lost_connections']}")
    return 1 if lost or summary["gap_records"] else 0


if __name__ == "__main__":
    sys.exit(main())
