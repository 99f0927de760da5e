"""The protocol of a device without input or output: messages, ends and the time go in; messages,
events and times come out. Every time is in seconds, by one clock of the caller's that only grows.
"""

import json
import math
import random
from collections import OrderedDict, deque
from dataclasses import dataclass

import cbor2

from . import policy

WELCOME_TIMEOUT = 30.0
"""A hub that does not answer `hello` by then is not one."""
ACK_TIMEOUT = 60.0
"""With batches unacked and no ack for so long, the connection is of no use: try another."""
SETTLED = 60.0
"""A connection that held this long after its welcome was good: the backoff begins anew."""
MAX_MESSAGE = 65536
"""Bytes of one message that this device takes; said in `hello`."""
MAX_RESULTS = 64
"""Results that wait for their ack; a hub sends one command at a time."""
MAX_DEPTH = 64
"""Nesting of a message that is read at all; cheap to check, and no stack is at risk."""
ALONE = 2
"""Ends that speak of a fault with one batch alone in flight, until that batch is given up."""
RENUMBERED = 3
"""New numbers for one batch after `bad-seq`, until it is given up."""
LARGEST = 1 << 53
"""Every language holds integers up to this exactly; a hub has no use for larger ones."""
LARGEST_MARK = 1 << 52
"""A stream whose numbers begin above this might run out of them."""


@dataclass
class Welcome:
    """The hub has answered; `body` is all that it said."""

    body: dict


@dataclass
class Dropped:
    """The queue was full: this batch is gone."""

    seq: int
    tag: object


@dataclass
class Rejected:
    """This batch was not taken and never will be. `seq` and `tag` are `None` where the hub could
    not tell which."""

    seq: object
    tag: object
    code: str
    detail: str


@dataclass
class Renumbered:
    """The hub knows more of the stream than this device: everything held has new numbers."""

    above: int


@dataclass
class Note:
    """The hub has something to say to the device's author."""

    code: str
    detail: str


@dataclass
class Command:
    """To be carried out, and answered with `Core.result`."""

    id: str
    name: str
    args: object
    timeout: float


@dataclass
class Fault:
    """Something went wrong with the connection; the core deals with it."""

    what: str


@dataclass
class Stopped:
    """The device will not come back by itself."""

    why: str


def _too_deep(message):
    """Whether CBOR nests too deeply, without recursion. Malformed input ends the walk."""
    at, open_items, left = 0, [], 1
    while at < len(message):
        first = message[at]
        major, info = first >> 5, first & 31
        at += 1
        if info < 24:
            argument = info
        elif info <= 27:
            size = 1 << (info - 24)
            argument = int.from_bytes(message[at : at + size], "big")
            at += size
        elif info == 31:
            # Nothing of indefinite length comes from a hub.
            return True
        else:
            return False
        left -= 1
        if major in (2, 3):
            at += argument
        elif major in (4, 5, 6):
            count = {4: 1, 5: 2, 6: 0}[major] * argument or (major == 6)
            open_items.append(left)
            left = count
            if len(open_items) > MAX_DEPTH:
                return True
        while not left and open_items:
            left = open_items.pop()
        if not left:
            return False
    return False


def decode(message):
    """A message of the hub: its kind and body. Raises ValueError."""
    try:
        if isinstance(message, str):
            value = json.loads(message)
        elif _too_deep(message):
            raise ValueError("nested too deeply")
        else:
            value = cbor2.loads(message)
    except Exception as error:  # noqa: BLE001: what a tag means may fail in any way
        raise ValueError(f"the hub sent what cannot be read: {error}") from None
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("the hub sent a message that is not a map with one key")
    ((kind, body),) = value.items()
    return kind, body


def _uint(value):
    """An unsigned integer, or an exact float, up to LARGEST; else `None`."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= LARGEST else None


def _text(value, longest):
    """The beginning of a text, and of anything else that it was none: its text may be without end."""
    if isinstance(value, str):
        return value[:longest]
    return "" if value is None else f"({type(value).__name__})"


def _seconds(value, default):
    """A sensible number of seconds, or the default."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    return float(value) if 0.001 <= value <= 86400 else default


class Core:
    """One device. `connected`, `received`, `heard`, `closed`, `refused` and `lost` go in;
    `outgoing`, `events`, `wants_ping`, `must_close` and `retry_at` come out."""

    def __init__(self, queue, *, model=None, firmware=None, clock=None, rng=None):
        self.queue = queue
        self._hello = {"max_message": MAX_MESSAGE}
        for key, value in (("model", model), ("firmware", firmware), ("clock", clock)):
            if value is not None:
                self._hello[key] = value
        self._rng = rng or random.Random()
        self._events = deque()
        self._results = OrderedDict()
        self._answered = OrderedDict()
        self._running = set()
        self._unsent_results = deque()
        self._renumbered = {}
        self._careful = False
        self._alone = (0, 0)
        self._leaving = None
        self.failures = 0
        self.retry_at = 0.0
        self.stopped = None
        self._offline()

    def _offline(self):
        self.online = False
        self.welcomed = False
        self.must_close = None
        self.wants_ping = False
        self._say_hello = False
        self._in_flight = deque()
        self._sent = 0
        self._bye_said = False

    # From the application.

    def put(self, pack, now, tag=None):
        """Takes a batch, a list of SenML records; when the queue is full the oldest goes."""
        while len(self.queue) >= self.queue.capacity:
            oldest = self.queue.oldest()
            self._give_up(oldest.seq)
            self._event(Dropped(oldest.seq, oldest.tag))
        return self.queue.push(cbor2.dumps(pack), now, tag)

    def result(self, id, ok, *, name=None, value=None, error=None):
        """The end of a command."""
        self._running.discard(id)
        body = {"id": id, "ok": bool(ok)}
        if name is not None:
            body["name"] = name
        if value is not None:
            body["value"] = value
        if error is not None:
            body["error"] = str(error)
        self._results[id] = body
        self._unsent_results.append(id)

    def leave(self, sleep=None):
        """Says `bye` and closes once nothing is left to be acked."""
        self._leaving = {} if sleep is None else {"sleep": sleep}

    @property
    def idle(self):
        """Nothing is held that is not safe, and no result is owed."""
        return not len(self.queue) and not self._results and not self._running

    def events(self):
        """What has happened since the last call."""
        events, self._events = self._events, deque()
        return events

    def _event(self, event):
        self._events.append(event)

    # From the network.

    def connected(self, now):
        """The upgrade succeeded."""
        self._offline()
        self.online = True
        self._say_hello = True
        self._since = self._heard = self._ack_at = now

    def heard(self, now):
        """Any frame came, a ping or a pong too."""
        self._heard = now
        self.wants_ping = False

    def received(self, message, now):
        """A message came."""
        self.heard(now)
        try:
            kind, body = decode(message)
        except ValueError as error:
            return self._event(Fault(str(error)))
        handler = {
            "welcome": self._welcome,
            "ack": self._ack,
            "reject": self._reject,
            "note": self._note,
            "command": self._command,
        }.get(kind if isinstance(kind, str) else None)
        # Kinds of a later version are none of this one's business.
        if handler and isinstance(body, dict):
            handler(body, now)

    def closed(self, code, now):
        """The connection has ended; `code` as the hub sent it, or `None`."""
        self._ended(now)
        if code in (1007, 1009):
            self._blame(f"close {code}")
        self._pause(policy.after_close(code, self.failures, self._rng), now, f"close {code}")

    def refused(self, status, retry_after, now):
        """An HTTP answer came in place of the upgrade."""
        pause = policy.after_refusal(status, retry_after, self.failures, self._rng)
        self._event(Fault(f"the hub answered {status}"))
        self._pause(pause, now, f"HTTP {status}")

    def lost(self, why, now):
        """No connection, or it broke, or it was given up here."""
        self._event(Fault(why))
        self._ended(now)
        self._pause(policy.after_close(None, self.failures, self._rng), now, why)

    def _ended(self, now):
        if self.welcomed and now - self._since >= SETTLED:
            self.failures = 0
        self._suspects = list(self._in_flight)
        self._offline()

    def _pause(self, pause, now, why):
        if pause is policy.STOP:
            self.stopped = f"the hub revoked this device's credentials ({why})"
            self._event(Stopped(self.stopped))
        else:
            self.failures += 1
            self.retry_at = now + pause

    # Blame needs proof: a batch is given up only when it was alone in flight, more than once.

    def _blame(self, why):
        if len(self._suspects) != 1:
            self._careful = True
            return
        seq = self._suspects[0]
        before, times = self._alone
        self._alone = (seq, times + 1 if before == seq else 1)
        if self._alone[1] >= ALONE:
            entry = self._give_up(seq)
            if entry:
                self._event(Rejected(seq, entry.tag, "too-often", why))

    def _give_up(self, seq):
        if seq in self._in_flight:
            self._in_flight.remove(seq)
        self._renumbered.pop(seq, None)
        return self.queue.remove(seq)

    # Messages.

    def _fail(self, what):
        """The hub breaks the protocol: leave it."""
        self._event(Fault(what))
        self.must_close = 1002

    def _welcome(self, body, now):
        seq = _uint(body.get("seq"))
        if self.welcomed or seq is None or seq > LARGEST_MARK:
            return self._event(Fault("a welcome that makes no sense was ignored"))
        if body.get("stream") != self.queue.stream:
            return self._fail("the hub welcomed another stream")
        if seq < self.queue.next:
            self.queue.safe(seq)
        else:
            # The counter was lost: nothing that is held has been taken.
            self.queue.renumber(seq)
            self._event(Renumbered(seq))
        self._sent = seq
        self._window = max(_uint(body.get("window")) or 1, 1)
        self._max_message = _uint(body.get("max_message")) or MAX_MESSAGE
        self._rate = float(_uint(body.get("max_rate")) or 0)
        self._tokens, self._tokens_at = self._rate, now
        interval = _seconds(body.get("ping_interval"), 20.0)
        self._probe_after = 1.25 * interval
        self._silence = self._probe_after + _seconds(body.get("ping_timeout"), interval / 2)
        self._unsent_results = deque(self._results)
        self.welcomed, self._since, self._ack_at = True, now, now
        self._event(Welcome(body))

    def _ack(self, body, now):
        if isinstance(body.get("result"), str):
            self._settled(body["result"])
        seq = _uint(body.get("seq"))
        if seq is None or not self.welcomed:
            return
        if seq > self._sent:
            return self._fail(f"the hub acked {seq}, and only {self._sent} was sent")
        self.queue.safe(seq)
        while self._in_flight and self._in_flight[0] <= seq:
            self._renumbered.pop(self._in_flight.popleft(), None)
            self._ack_at = now
            self._careful = False
            self.failures = 0

    def _reject(self, body, now):
        code, detail = _text(body.get("code"), 64), _text(body.get("detail"), 200)
        if "result" in body:
            return self._settled(body["result"])
        seq = _uint(body.get("seq"))
        if seq is None:
            if code != "unknown-kind" and len(self._in_flight) == 1:
                seq = self._in_flight[0]
            elif self._in_flight:
                self._careful = True
        if seq is not None and seq in self._in_flight:
            self._ack_at = now
            times = self._renumbered.get(seq, 0)
            if code == "bad-seq" and times < RENUMBERED:
                self._in_flight.remove(seq)
                self._renumbered.pop(seq, None)
                entry = self.queue.again(seq)
                self._renumbered[entry.seq] = times + 1
                return
            entry = self._give_up(seq)
            return self._event(Rejected(seq, entry and entry.tag, code, detail))
        self._event(Rejected(None, None, code, detail))

    def _note(self, body, _now):
        self._event(Note(_text(body.get("code"), 64), _text(body.get("detail"), 400)))

    def _command(self, body, _now):
        id, name = body.get("id"), body.get("name")
        if not isinstance(id, str) or not isinstance(name, str) or not 1 <= len(id) <= 64:
            return self._event(Fault("a command that makes no sense was ignored"))
        if id in self._running:
            return
        if id in self._results or id in self._answered:
            # It was carried out already; only the answer is wanted again.
            self._results.setdefault(id, self._answered.get(id))
            if id not in self._unsent_results:
                self._unsent_results.append(id)
            return
        if len(self._results) + len(self._running) >= MAX_RESULTS:
            return self._event(Fault(f"too many commands at once: {id[:64]} was ignored"))
        self._running.add(id)
        self._event(Command(id, name, body.get("args"), _seconds(body.get("timeout"), 30.0)))

    def _settled(self, id):
        body = self._results.pop(id, None) if isinstance(id, str) else None
        if body is not None:
            self._answered[id] = body
            while len(self._answered) > MAX_RESULTS:
                self._answered.popitem(last=False)

    # To the network.

    def tick(self, now):
        """Looks at the clock: may set `must_close` (code or 0: just drop it) and `wants_ping`."""
        if not self.online or self.must_close is not None:
            return
        silent = now - self._heard
        if not self.welcomed:
            if now - self._since >= WELCOME_TIMEOUT:
                self._event(Fault("the hub does not answer hello"))
                self.must_close = 0
        elif silent >= self._silence:
            self._event(Fault("the hub is silent"))
            self.must_close = 0
        elif self._in_flight and now - self._ack_at >= ACK_TIMEOUT:
            self._event(Fault("no ack for a minute"))
            self.must_close = 0
        else:
            self.wants_ping = silent >= self._probe_after

    def wake_at(self, now):
        """When to call `tick` or `outgoing` next, if nothing happens before."""
        if not self.online:
            return self.retry_at
        if not self.welcomed:
            return self._since + WELCOME_TIMEOUT
        times = [self._heard + self._probe_after, self._heard + self._silence]
        if self._in_flight:
            times.append(self._ack_at + ACK_TIMEOUT)
        if self._rate and self._tokens < 1.0:
            times.append(self._tokens_at + (1.0 - self._tokens) / self._rate)
        return min(time for time in times if time > now) if max(times) > now else now

    def outgoing(self, now):
        """The next message to send now, or `None`. A message is handed out once."""
        if not self.online or self.must_close is not None:
            return None
        if self._say_hello:
            self._say_hello = False
            hello = {"stream": self.queue.stream, "next": self.queue.next, **self._hello}
            return cbor2.dumps({"hello": hello})
        if not self.welcomed or self._bye_said or not self._allowed(now):
            return None
        message = self._next_result() or self._next_batch(now)
        if message is None and self._leaving is not None and self.idle:
            message = cbor2.dumps({"bye": self._leaving})
            self._bye_said = True
            self.must_close = 1000
        if message is not None:
            self._tokens -= 1.0
        return message

    def _allowed(self, now):
        if not self._rate:
            self._tokens = 1.0
            return True
        gained = (now - self._tokens_at) * self._rate
        self._tokens, self._tokens_at = min(self._tokens + gained, self._rate), now
        # Not quite 1: a timer that ends a rounding error early must not wait again.
        return self._tokens >= 0.999

    def _next_result(self):
        while self._unsent_results:
            body = self._results.get(self._unsent_results.popleft())
            if body is None:
                continue
            try:
                message = cbor2.dumps({"result": body})
            except (ValueError, TypeError, cbor2.CBOREncodeError):
                short = {key: body[key] for key in ("id", "name") if key in body}
                body = {**short, "ok": False, "error": "the value cannot be encoded"}
                message = cbor2.dumps({"result": body})
            if len(message) > self._max_message:
                short = {key: body[key] for key in ("id", "name", "ok") if key in body}
                message = cbor2.dumps({"result": {**short, "error": "too-large"}})
            return message
        return None

    def _next_batch(self, now):
        window = 1 if self._careful else self._window
        while len(self._in_flight) < window:
            entry = self.queue.after(self._sent)
            if entry is None:
                return None
            message = self._data(entry, now)
            if len(message) > self._max_message:
                self.queue.remove(entry.seq)
                detail = f"{len(message)} bytes, and the hub takes {self._max_message}"
                self._event(Rejected(entry.seq, entry.tag, "too-large", detail))
                continue
            self.queue.use(entry.seq)
            if not self._in_flight:
                self._ack_at = now
            self._in_flight.append(entry.seq)
            self._sent = entry.seq
            return message
        return None

    def _data(self, entry, now):
        # The pack is CBOR already: everything around it is written by hand.
        head = b"\xa1\x64data\xa3\x63seq" + cbor2.dumps(entry.seq)
        age = cbor2.dumps(int(max(now - entry.made, 0.0)))
        if self._hello.get("clock") in ("synced", "unsure"):
            # Its times are absolute, and need no age.
            return b"\xa1\x64data\xa2\x63seq" + cbor2.dumps(entry.seq) + b"\x64pack" + entry.pack
        return head + b"\x63age" + age + b"\x64pack" + entry.pack
