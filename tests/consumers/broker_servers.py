"""Brokers of one's own: on the loopback, with ports and data of their own, ended by pid."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

# RabbitMQ starts a virtual machine and a cluster of one: tens of seconds on a loaded machine.
START_TIMEOUT = 120


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(what, condition, timeout=60):
    """Waits for a condition and returns what it gave; a sentence when it never came true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout} s in vain for {what}")


def program(name):
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise SystemExit(f"brokers: {name} is not installed; apt-get install it")
    return found


def version(*command):
    said = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr).group()


class Server:
    """A broker that can be ended, killed and started again on the same port and data."""

    name, mqtt5, hub_settings = "", False, ""
    # Seconds until what is too large for it is found out.
    patience = 60

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True)
        self.port, self.process = free_port(), None
        self.denied, self.limit = [], 0

    def configure(self, denied=(), limit=0):
        """Topics that the hub may not publish on, and the largest message; before a start."""
        self.denied, self.limit = list(denied), limit

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def ready(self):
        """The MQTT port answers a CONNECT: a listening port alone says little of RabbitMQ."""
        connect = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06tester"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as probe:
                probe.settimeout(5)
                probe.sendall(connect)
                return probe.recv(4) == b"\x20\x02\x00\x00"
        except OSError:
            return False

    def start(self):
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment(),
                start_new_session=True,
            )

        def up():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended: see {self.dir / 'log'}")
            return self.ready()

        until(f"{self.name} to answer", up, START_TIMEOUT)

    def end(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    def stop(self):
        """For good, with all that it has started."""
        self.end()

    def log(self):
        return (self.dir / "log").read_text(errors="replace")


class Mosquitto(Server):
    name = "mosquitto"

    def __init__(self, directory, mqtt5):
        super().__init__(directory)
        self.mqtt5 = mqtt5
        self.name = "mosquitto, MQTT 5" if mqtt5 else "mosquitto, MQTT 3.1.1"
        self.hub_settings = "" if mqtt5 else 'version = "3.1.1"'

    def command(self):
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "user root",
            "persistence true",
            f"persistence_location {self.dir}/",
            # Without it the database is written every half an hour, and a kill loses it.
            "autosave_on_changes true",
            "autosave_interval 1",
            # What waits for a consumer that is away; 1,000 by default.
            "max_queued_messages 100000",
        ]
        if self.limit:
            lines.append(f"message_size_limit {self.limit}")
        if self.denied:
            rules = [f"topic deny {topic}" for topic in self.denied]
            (self.dir / "acl").write_text("\n".join(["topic readwrite #", *rules]) + "\n")
            lines.append(f"acl_file {self.dir}/acl")
        (self.dir / "conf").write_text("\n".join(lines) + "\n")
        return [program("mosquitto"), "-c", str(self.dir / "conf")]

    def version(self):
        return version(program("mosquitto"), "-h")


class RabbitMq(Server):
    name = "RabbitMQ"
    # It falls silent and does not hang up: each attempt takes the hub's ack_timeout several times.
    patience = 300
    home = pathlib.Path("/usr/lib/rabbitmq/lib")

    def __init__(self, directory):
        super().__init__(directory)
        self.sbin = sorted(self.home.glob("rabbitmq_server-*/sbin"))[-1]
        self.dist, self.epmd = free_port(), free_port()

    def environment(self):
        return {
            # The cookie of its own lies there, not root's.
            "HOME": str(self.dir),
            "ERL_EPMD_PORT": str(self.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"telehub{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.dist),
            "RABBITMQ_MNESIA_BASE": str(self.dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.dir / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.dir / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.dir / "none"),
        }

    def command(self):
        lines = [
            "listeners.tcp = none",
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}",
            "mqtt.allow_anonymous = true",
            "mqtt.default_user = guest",
            "mqtt.default_pass = guest",
            # Retained messages are on disk only with this store.
            "mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_dets",
            "disk_free_limit.absolute = 50MB",
        ]
        if self.limit:
            lines.append(f"max_message_size = {self.limit}")
        (self.dir / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.dir / "plugins").write_text("[rabbitmq_mqtt].\n")
        return [str(self.sbin / "rabbitmq-server")]

    def start(self):
        # The name daemon is its own, so that it can be ended by pid; -daemon would detach it.
        if not getattr(self, "names", None):
            erts = sorted(pathlib.Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))[-1]
            self.names = subprocess.Popen(
                [str(erts), "-port", str(self.epmd), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        super().start()
        rules = "|".join(re.escape(topic.replace("/", ".")) for topic in self.denied)
        if rules:
            self.control("set_topic_permissions", "guest", "amq.topic", f"^(?!({rules})$).*$", ".*")

    def control(self, *arguments):
        command = [str(self.sbin / "rabbitmqctl"), *arguments]
        subprocess.run(
            command, check=True, capture_output=True, env=os.environ | self.environment()
        )

    def end(self, how=signal.SIGTERM):
        # The script waits for the virtual machine, which is what has to get the signal.
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, how)
            self.process.wait(60)

    def stop(self):
        super().stop()
        self.names.terminate()
        self.names.wait(10)

    def version(self):
        return self.sbin.parent.name.split("-")[-1]


class Nats(Server):
    name = "NATS JetStream"

    def command(self):
        denied = ", ".join(f'"{topic.replace("/", ".")}"' for topic in self.denied)
        permissions = f"permissions {{ publish {{ deny: [{denied}] }} }}" if denied else ""
        (self.dir / "conf").write_text(
            f"""
            server_name: telehub-test
            listen: "127.0.0.1:{free_port()}"
            {f"max_payload: {self.limit}" if self.limit else ""}
            jetstream {{ store_dir: "{self.dir}/store" }}
            mqtt {{ listen: "127.0.0.1:{self.port}" }}
            authorization {{ users: [ {{ user: hub, password: hub, {permissions} }} ] }}
            no_auth_user: hub
            """
        )
        return [program("nats-server"), "-c", str(self.dir / "conf")]

    def version(self):
        return version(program("nats-server"), "--version")


MAKERS = {
    "mosquitto-5": lambda directory: Mosquitto(directory, True),
    "mosquitto-3.1.1": lambda directory: Mosquitto(directory, False),
    "rabbitmq": RabbitMq,
    "nats": Nats,
}
