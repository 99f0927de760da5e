# A device of a telehub in MicroPython: one file. Copy it to the board. Comments stand where docstrings
# would, since a board holds those in its heap while it compiles.
#
# `Core` is the protocol without a network: bytes go in, bytes and events come out; times are
# milliseconds by a clock of the caller's that only grows. `Device` puts it on a socket. CPython runs
# both too, which is how they are tested. docs/kits.md has the rules that this follows.

import gc
import hashlib
import os
import struct
import time
from binascii import b2a_base64, hexlify

# Milliseconds.
WELCOME_TIMEOUT = 30000
ACK_TIMEOUT = 60000
SETTLED = 60000
LINGER = 2000

# Bytes of one message of the hub; said in `hello`. It is held in memory while it is read.
MAX_MESSAGE = 2048
# Bytes that wait to be sent while pings are answered; batches wait in the queue long before.
MAX_OUT = 4096
MAX_HEAD = 4096
MAX_DEPTH = 12
MAX_RESULTS = 8
ALONE = 2
RENUMBERED = 3


# CBOR.


def _head(out, major, value):
    if value < 24:
        out.append(major << 5 | value)
        return
    info = 0
    while value >> (8 << info):
        info += 1
    if info > 3:
        raise ValueError("a number of more than 64 bits")
    out.append(major << 5 | 24 + info)
    out.extend(value.to_bytes(1 << info, "big"))


def _item(out, value, depth=0):
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if value is None:
        out.append(0xF6)
    elif value is True or value is False:
        out.append(0xF5 if value else 0xF4)
    elif isinstance(value, int):
        if value < 0:
            _head(out, 1, -1 - value)
        else:
            _head(out, 0, value)
    elif isinstance(value, float):
        # Boards have single precision; what is more exact than that is sent as it is.
        single = struct.pack(">f", value) if abs(value) < 3e38 else b""
        if single and struct.unpack(">f", single)[0] == value:
            out.append(0xFA)
            out.extend(single)
        else:
            out.append(0xFB)
            out.extend(struct.pack(">d", value))
    elif isinstance(value, str):
        value = value.encode()
        _head(out, 3, len(value))
        out.extend(value)
    elif isinstance(value, (bytes, bytearray)):
        _head(out, 2, len(value))
        out.extend(value)
    elif isinstance(value, (list, tuple)):
        _head(out, 4, len(value))
        for item in value:
            _item(out, item, depth + 1)
    elif isinstance(value, dict):
        _head(out, 5, len(value))
        for key in value:
            _item(out, key, depth + 1)
            _item(out, value[key], depth + 1)
    else:
        raise ValueError("cannot be encoded")


def dumps(value):
    # A value in CBOR. Raises ValueError.
    out = bytearray()
    _item(out, value)
    return bytes(out)


def _half(bits):
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 31:
        value = float("nan") if fraction else float("inf")
    elif exponent:
        value = (fraction + 1024) * 2.0 ** (exponent - 25)
    else:
        value = fraction * 2.0**-24
    return -value if bits & 0x8000 else value


class _Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        at = self.at
        if count > len(self.data) - at:
            raise ValueError("cut short")
        self.at = at + count
        return self.data[at : at + count]

    def item(self, depth=0):
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info > 27:
            raise ValueError("indefinite length")
        argument = info
        if info > 23:
            raw = self.take(1 << (info - 24))
            argument = 0
            for byte in raw:
                argument = argument << 8 | byte
        if major == 0:
            return argument
        if major == 1:
            return -1 - argument
        if major == 2:
            return bytes(self.take(argument))
        if major == 3:
            return bytes(self.take(argument)).decode()
        if major == 4:
            if argument > len(self.data):
                raise ValueError("cut short")
            return [self.item(depth + 1) for _ in range(argument)]
        if major == 5:
            if argument > len(self.data):
                raise ValueError("cut short")
            out = {}
            for _ in range(argument):
                key = self.item(depth + 1)
                if isinstance(key, (list, dict)):
                    raise ValueError("a key that is none")
                out[key] = self.item(depth + 1)
            return out
        if major == 6:
            return self.item(depth + 1)
        if info == 25:
            return _half(argument)
        if info == 26:
            return struct.unpack(">f", raw)[0]
        if info == 27:
            return struct.unpack(">d", raw)[0]
        return {20: False, 21: True}.get(info)


def loads(data):
    # A value from CBOR. Raises ValueError.
    reader = _Reader(data)
    try:
        value = reader.item()
    except UnicodeError:
        raise ValueError("text that is not UTF-8")
    if reader.at != len(data):
        raise ValueError("more bytes after the item")
    return value


# The protocol.


def _sha1(data):
    # SHA-1 for boards whose hashlib lacks it; up to 119 bytes.
    if hasattr(hashlib, "sha1"):
        return hashlib.sha1(data).digest()
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0]
    padded = data + b"\x80" + bytes(-(len(data) + 9) % 64) + struct.pack(">Q", 8 * len(data))
    for block in range(0, len(padded), 64):
        w = list(struct.unpack(">16I", padded[block : block + 64]))
        a, b, c, d, e = state
        for t in range(80):
            if t >= 16:
                word = w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16]
                w.append((word << 1 | word >> 31) & 0xFFFFFFFF)
            f = (b & c | ~b & d, b ^ c ^ d, b & c | b & d | c & d, b ^ c ^ d)[t // 20]
            k = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)[t // 20]
            f = ((a << 5 | a >> 27) + f + e + k + w[t]) & 0xFFFFFFFF
            a, b, c, d, e = f, a, (b << 30 | b >> 2) & 0xFFFFFFFF, c, d
        state = [(x + y) & 0xFFFFFFFF for x, y in zip(state, (a, b, c, d, e))]
    return struct.pack(">5I", *state)


def _bytes(count):
    try:
        return os.urandom(count)
    except AttributeError:
        import random

        return bytes(random.getrandbits(8) for _ in range(count))


def _below(limit):
    # A random number from 0 up to, but not, the limit.
    return int.from_bytes(_bytes(4), "big") % limit


def _uint(value):
    if isinstance(value, float) and 0 <= value < 1 << 24 and value == int(value):
        value = int(value)
    # Every language holds integers up to this exactly; a hub has no use for larger ones.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 53:
        return value
    return None


def _ms(value, otherwise):
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value <= 86400
    return int(value * 1000) if good else otherwise


def pause_after(code, failures, wish=None):
    # Milliseconds until the next attempt, by how the last one ended: a close code, an HTTP status
    # (below 1000), or 0. As much again as the span is jitter. None: do not come back.
    if code == 4002:
        return None
    span, doubled = 450, 6
    if code in (1001, 1009, 1013):
        span, doubled = 2000, 0
    elif code in (1002, 1003, 1007, 1008, 4001, 4003):
        span, doubled = 60000, 3
    elif wish:
        span, doubled = min(wish, 3600) * 1000, 0
    elif 400 <= code < 500 and code != 429:
        span, doubled = 3600000, 0
    span <<= min(failures, doubled)
    return span + _below(span)


class Core:
    # One device. Batches wait in memory, `capacity` of them; `stream` is new at every boot, unless
    # `restore` brings one back.

    def __init__(self, host, id, token="", capacity=64, clock="none", on_event=None, on_command=None):
        self.host, self.id, self.token = host, id, token
        self.capacity, self.clock = capacity, clock
        self.on_event = on_event or (lambda *_: None)
        self.on_command = on_command
        self.stream = hexlify(_bytes(8)).decode()
        self.last = self.used = 0
        self.held = []  # [number, made, pack, tag, times renumbered]
        self.results = {}
        self.failures = self.alone = 0
        self.careful = self.stopped = False
        self.leaving = None
        self.retry = 0
        self._offline()

    def _offline(self):
        self.phase = 0  # 1: upgrading, 2: upgraded, 3: welcomed
        self.hang_up = False
        self.out = bytearray()
        self.rx = bytearray()
        self.message = None
        self.in_flight = []
        self.unsent = []
        self.sent = 0
        self.code, self.wish = 0, None

    # From the application.

    def put(self, records, now, tag=None):
        # Takes a batch: a list of records, each a map with SenML's integer labels, such as
        # `{0: "temp", 1: "Cel", 2: 21.5}` (name, unit, value).
        pack = dumps(records)
        while len(self.held) >= self.capacity:
            gone = self.held.pop(0)
            if gone[0] in self.in_flight:
                self.in_flight.remove(gone[0])
            self.on_event("dropped", gone[3])
        self.last += 1
        self.held.append([self.last, now, pack, tag, 0])

    def leave(self, sleep=None):
        # Says bye once everything is safe.
        self.leaving = {} if sleep is None else {"sleep": sleep}

    def idle(self):
        # Everything is safe, and no result is owed.
        return not self.held and not self.results

    def save(self, now):
        # Everything that is to survive deep sleep, for `machine.RTC().memory`.
        # In parts, so that only the whole needs memory in one piece.
        head = bytearray(b"\x84")
        for value in (self.stream, self.last, self.used):
            _item(head, value)
        _head(head, 4, len(self.held))
        parts = [head]
        for number, made, pack, tag, _ in self.held:
            head = bytearray(b"\x84")
            _item(head, number)
            _item(head, max(now - made, 0))
            _head(head, 2, len(pack))
            parts.extend((head, pack, dumps(tag)))
        gc.collect()
        return b"".join(parts)

    def restore(self, data, now, slept=0):
        # Takes back what `save` gave, after `slept` milliseconds; False when it is not that.
        try:
            stream, last, used, held = loads(data)
            held = [[b[0], now - b[1] - slept, b[2], b[3], 0] for b in held]
            if not isinstance(stream, str) or not isinstance(last + used, int):
                return False
        except (ValueError, TypeError, IndexError):
            return False
        self.stream, self.last, self.used, self.held = stream, last, used, held
        return True

    # From the network.

    def connected(self, now):
        # The connection is up: the request is in `out`.
        self._offline()
        gc.collect()
        self.phase = 1
        self.since = self.heard = self.acked = self.allowed = now
        self.silence = WELCOME_TIMEOUT
        key = b2a_base64(_bytes(16)).strip()
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.proof = b2a_base64(_sha1(key + guid)).strip()
        bearer = "Authorization: Bearer %s\r\n" % self.token if self.token else ""
        request = (
            "GET /v1/devices/%s HTTP/1.1\r\nHost: %s\r\n%sUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: telehub.v1\r\nSec-WebSocket-Key: %s\r\n\r\n"
        )
        self.out.extend((request % (self.id, self.host, bearer, key.decode())).encode())

    def disconnected(self, now):
        # The connection has ended, or could not be made.
        if self.phase == 3 and now - self.since >= SETTLED:
            self.failures = 0
        if self.code in (1007, 1009):
            self._blame()
        pause = pause_after(self.code, self.failures, self.wish)
        self._offline()
        self.failures = min(self.failures + 1, 20)
        if pause is None:
            self.stopped = True
            self.on_event("stopped", None)
        else:
            self.retry = now + pause

    def _blame(self):
        # Blame needs proof: a batch is given up only when it was alone in flight, twice.
        if len(self.in_flight) != 1:
            self.careful, self.alone = True, 0
            return
        self.alone += 1
        if self.alone >= ALONE:
            self.alone = 0
            self._give_up(self.in_flight[0])

    def _find(self, seq):
        for batch in self.held:
            if batch[0] == seq:
                return batch
        return None

    def _give_up(self, seq):
        batch = self._find(seq)
        if seq in self.in_flight:
            self.in_flight.remove(seq)
        if batch:
            self.held.remove(batch)
            self.on_event("rejected", batch[3])

    def _leave(self, code, why=None):
        if self.hang_up:
            return
        if why:
            self.on_event("fault", why)
        self.hang_up = True
        if code and self.phase >= 2:
            self._frame(8, struct.pack(">H", code))

    def input(self, data, now):
        # Bytes came.
        self.heard = now
        if self.hang_up:
            return
        self.rx.extend(data)
        while not self.hang_up and (self._http() if self.phase == 1 else self._frame_in(now)):
            pass

    def _http(self):
        end = self.rx.find(b"\r\n\r\n")
        if end < 0:
            if len(self.rx) > MAX_HEAD:
                self._leave(0, "an endless answer")
            return False
        lines = bytes(self.rx[:end]).split(b"\r\n")
        self.rx = self.rx[end + 4 :]
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        status = lines[0].split(b" ")
        code = 0
        if status[0].startswith(b"HTTP/1.") and len(status) > 1 and status[1].isdigit():
            code = int(status[1])
        if code == 101 and fields.get(b"sec-websocket-accept") == self.proof:
            self.phase = 2
            hello = {"stream": self.stream, "next": self.used + 1, "max_message": MAX_MESSAGE,
                     "clock": self.clock}
            self._send({"hello": hello})
            return True
        self.code = code if 300 <= code < 600 else 0
        wish = fields.get(b"retry-after", b"")
        self.wish = int(wish) if wish.isdigit() else None
        self._leave(0, "the hub answered %d" % code)
        return False

    def _frame_in(self, now):
        rx = self.rx
        if len(rx) < 2:
            return False
        first, size = rx[0], rx[1]
        op, fin, at = first & 15, first & 128, 2
        if size == 126 or size == 127:
            wide = 2 if size == 126 else 8
            if len(rx) < 2 + wide:
                return False
            size = 0
            for byte in rx[2 : 2 + wide]:
                size = size << 8 | byte
            at += wide
        begun = self.message is not None
        wrong = first & 0x70 or rx[1] & 0x80 or op in (3, 4, 5, 6, 7) or op > 10
        if op >= 8:
            wrong = wrong or not fin or size > 125
        else:
            wrong = wrong or (op == 0) != begun
        if wrong:
            self._leave(1002, "a frame against the rules")
            return False
        if op < 8 and size + (len(self.message) if begun else 0) > MAX_MESSAGE:
            self._leave(1009, "a message too large")
            return False
        if len(rx) < at + size:
            return False
        body = bytes(rx[at : at + size])
        self.rx = rx[at + size :]
        if op == 9:
            # Who does not read the answers gets no more of them.
            if len(self.out) < MAX_OUT:
                self._frame(10, body)
        elif op == 8:
            self.code = struct.unpack(">H", body[:2])[0] if size >= 2 else 1000
            self._leave(self.code)
        elif op < 8:
            if not begun:
                self.message, self.text = bytearray(), op == 1
            self.message.extend(body)
            if fin:
                message, self.message = self.message, None
                if not self.text:
                    self._received(bytes(message), now)
        return True

    def _received(self, message, now):
        try:
            value = loads(message)
        except (ValueError, RuntimeError, MemoryError):
            return self.on_event("fault", "a message that cannot be read")
        if not isinstance(value, dict) or len(value) != 1:
            return
        kind = list(value)[0]
        body = value[kind]
        if not isinstance(body, dict):
            return
        if kind == "welcome":
            self._welcome(body, now)
        elif kind == "ack":
            self._settled(body.get("result"))
            self._ack(body, now)
        elif kind == "reject":
            if "result" in body:
                self._settled(body["result"])
            else:
                self._reject(body, now)
        elif kind == "note":
            self.on_event("note", body.get("detail"))
        elif kind == "command":
            self._command(body)

    def _welcome(self, body, now):
        seq = _uint(body.get("seq"))
        # A stream whose numbers begin above that might run out of them.
        if self.phase != 2 or seq is None or seq > 1 << 52:
            return
        if body.get("stream") != self.stream:
            return self._leave(1002, "another stream")
        if seq <= self.used:
            self.held = [batch for batch in self.held if batch[0] > seq]
        else:
            # The counter was lost: nothing that is held has been taken.
            self.last = self.used = seq
            for batch in self.held:
                self.last += 1
                batch[0] = self.last
            self.on_event("renumbered", seq)
        self.sent = seq
        self.window = _uint(body.get("window")) or 1
        self.max_message = _uint(body.get("max_message")) or 65536
        self.spacing = 1000 // max(_uint(body.get("max_rate")) or 1000, 1)
        interval = _ms(body.get("ping_interval"), 20000)
        self.silence = interval * 5 // 4 + _ms(body.get("ping_timeout"), interval)
        self.unsent = list(self.results)
        self.phase = 3
        self.since = self.acked = self.allowed = now
        self.on_event("welcome", body)

    def _ack(self, body, now):
        seq = _uint(body.get("seq"))
        if seq is None or self.phase != 3:
            return
        if seq > self.sent:
            return self._leave(1002, "an ack of what was never sent")
        self.held = [batch for batch in self.held if batch[0] > seq]
        while self.in_flight and self.in_flight[0] <= seq:
            self.in_flight.pop(0)
            self.acked, self.failures, self.alone, self.careful = now, 0, 0, False

    def _settled(self, id):
        if isinstance(id, str):
            self.results.pop(id, None)

    def _reject(self, body, now):
        seq, code = _uint(body.get("seq")), body.get("code")
        if seq is None and code != "unknown-kind":
            if len(self.in_flight) == 1:
                seq = self.in_flight[0]
            elif self.in_flight:
                self.careful = True
        if seq not in self.in_flight:
            return
        self.acked = now
        batch = self._find(seq)
        if code == "bad-seq" and batch and batch[4] < RENUMBERED:
            self.in_flight.remove(seq)
            self.held.remove(batch)
            self.last += 1
            self.held.append([self.last, batch[1], batch[2], batch[3], batch[4] + 1])
        else:
            self._give_up(seq)

    def _command(self, body):
        id, name = body.get("id"), body.get("name")
        if not isinstance(id, str) or not isinstance(name, str) or not 1 <= len(id) <= 64:
            return
        if id in self.results:
            if id not in self.unsent:
                self.unsent.append(id)
            return
        if len(self.results) >= MAX_RESULTS:
            return self.on_event("fault", "too many commands at once")
        result = {"id": id, "name": name, "ok": False}
        try:
            if not self.on_command:
                raise ValueError("this device takes no commands")
            value = self.on_command(id, name, body.get("args"))
            result["ok"] = True
            if value is not None:
                result["value"] = value
        except Exception as error:  # Whoever sent the command shall know.
            result["error"] = str(error)[:100] or "failed"
        self.results[id] = result
        self.unsent.append(id)

    # To the network.

    def tick(self, now):
        # What to do now: "wait" (`pause` ms), "connect", "talk", "hang up", "stop".
        if not self.phase:
            if self.stopped:
                return "stop"
            return "wait" if now < self.retry else "connect"
        if not self.hang_up:
            if now - self.heard >= self.silence:
                self._leave(0, "the hub is silent")
            elif self.phase < 3 and now - self.since >= WELCOME_TIMEOUT:
                self._leave(0, "no welcome")
            elif self.in_flight and now - self.acked >= ACK_TIMEOUT:
                self._leave(0, "no ack for a minute")
            elif self.phase == 3:
                self._fill(now)
        return "hang up" if self.hang_up else "talk"

    def pause(self, now):
        # Milliseconds until the next attempt.
        return max(self.retry - now, 0)

    def _frame(self, op, payload):
        size = len(payload)
        out = self.out
        out.append(0x80 | op)
        if size < 126:
            out.append(0x80 | size)
        else:
            out.append(0x80 | 126)
            out.extend(struct.pack(">H", size))
        mask = _bytes(4)
        out.extend(mask)
        for index in range(size):
            out.append(payload[index] ^ mask[index & 3])

    def _send(self, message):
        self._frame(2, dumps(message))

    def _fill(self, now):
        # Puts what may be sent now into `out`, while that is short.
        while len(self.out) < 1024 and now >= self.allowed and not self.hang_up:
            if self.unsent:
                self._send_result()
            elif not self._send_batch(now):
                if self.leaving is not None and self.idle():
                    self._send({"bye": self.leaving})
                    self.stopped = True
                    self._leave(1000)
                return
            self.allowed = max(self.allowed, now - 1000) + self.spacing

    def _send_result(self):
        result = self.results.get(self.unsent.pop(0))
        if result is None:
            return
        try:
            message = dumps({"result": result})
        except ValueError:
            result = {"id": result["id"], "name": result["name"], "ok": False, "error": "no CBOR"}
            message = dumps({"result": result})
        if len(message) > self.max_message:
            short = {"id": result["id"], "name": result["name"], "ok": result["ok"]}
            short["error"] = "too-large"
            message = dumps({"result": short})
        self._frame(2, message)

    def _send_batch(self, now):
        if len(self.in_flight) >= (1 if self.careful else self.window):
            return False
        for batch in self.held:
            if batch[0] > self.sent:
                break
        else:
            return False
        message = bytearray(b"\xa1\x64data\xa3\x63seq")
        _head(message, 0, batch[0])
        message.extend(b"\x63age")
        _head(message, 0, max(now - batch[1], 0) // 1000)
        message.extend(b"\x64pack")
        message.extend(batch[2])
        if len(message) > self.max_message:
            self._give_up(batch[0])
            return True
        if not self.in_flight:
            self.acked = now
        self.sent = batch[0]
        self.used = max(self.used, self.sent)
        self.in_flight.append(self.sent)
        self._frame(2, message)
        return True


# The network.


def _ticks():
    return time.ticks_ms() if hasattr(time, "ticks_ms") else int(time.monotonic() * 1000)


def _ticks_diff(a, b):
    return time.ticks_diff(a, b) if hasattr(time, "ticks_diff") else a - b


class Device:
    # A device on a socket. `ca` is the hub's CA in DER: with it the connection is TLS. Call `step`
    # often, or `finish` before sleep.

    def __init__(self, host, port, id, token="", ca=None, scale=1.0, **options):
        self.host, self.port, self.ca, self.scale = host, port, ca, scale
        self.core = Core("%s:%d" % (host, port), id, token, **options)
        self._socket = self._poll = None
        self._ticked, self._now = _ticks(), 0

    def now(self):
        # Milliseconds since the start, by a counter that does not wrap.
        ticks = _ticks()
        self._now += _ticks_diff(ticks, self._ticked) / self.scale
        self._ticked = ticks
        return int(self._now)

    def put(self, records, tag=None):
        # As `Core.put`, taken now.
        self.core.put(records, self.now(), tag)

    def finish(self, timeout, sleep=None):
        # Waits until everything is safe, says bye and hangs up; False when that took longer than
        # `timeout` milliseconds. Then `core.save` keeps what is left.
        self.core.leave(sleep)
        end = self.now() + timeout
        while self.step(20):
            if self.now() > end:
                self._close()
                return False
        return self.core.idle()

    def step(self, wait=0):
        # Does what there is to do and waits for the network for at most `wait` milliseconds. False
        # when the device has stopped.
        now = self.now()
        todo = self.core.tick(now)
        if todo == "stop":
            return False
        if todo == "wait":
            time.sleep(min(wait, self.core.pause(now) * self.scale + 1) / 1000)
        elif todo == "connect":
            self._connect()
        elif not self._talk(wait) or (todo == "hang up" and not self.core.out):
            if todo == "hang up":
                self._linger()
            self._close()
            self.core.disconnected(self.now())
        return True

    def _connect(self):
        import select
        import socket

        sock = None
        try:
            address = socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM)[0]
            sock = socket.socket(address[0], socket.SOCK_STREAM)
            sock.settimeout(WELCOME_TIMEOUT * self.scale / 1000)
            sock.connect(address[-1])
            if self.ca:
                sock = self._secure(sock)
            sock.setblocking(False)
        except (OSError, ValueError) as error:
            self.core.on_event("fault", "no connection: %r" % (error,))
            if sock:
                sock.close()
            self.core.disconnected(self.now())
            return
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._in, self._both = select.POLLIN, select.POLLIN | select.POLLOUT
        self.core.connected(self.now())

    def _secure(self, sock):
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.ca)
        return context.wrap_socket(sock, server_hostname=self.host)

    def _again(self, error):
        # EAGAIN, and what CPython's TLS says in its place.
        return error.args and (error.args[0] in (11, 35) or type(error).__name__.startswith("SSLWant"))

    def _read(self):
        # Bytes, b"" at the end, None when there are none yet.
        try:
            if hasattr(self._socket, "recv"):
                return self._socket.recv(512)
            return self._socket.read(512)
        except OSError as error:
            return None if self._again(error) else b""

    def _talk(self, wait):
        # Moves bytes both ways. False when the connection is gone.
        core = self.core
        self._poll.modify(self._socket, self._both if core.out else self._in)
        pending = hasattr(self._socket, "pending") and self._socket.pending()
        self._poll.poll(0 if pending else wait)
        while True:
            data = self._read()
            if data is None:
                break
            if not data:
                return False
            core.input(data, self.now())
            core.tick(self.now())
            if not self._write():
                return False
            if len(data) < 512 and not pending:
                break
        return self._write()

    def _write(self):
        out = self.core.out
        while out:
            try:
                sent = self._socket.write(out) if hasattr(self._socket, "write") else self._socket.send(out)
            except OSError as error:
                return bool(self._again(error))
            if not sent:
                return True
            # What was added meanwhile stays: the core appends to this very array.
            self.core.out = out = out[sent:]
        return True

    def _linger(self):
        # Throws away what still comes until the hub hangs up, so that what was sent arrives.
        end = self.now() + LINGER
        try:
            if hasattr(self._socket, "shutdown"):
                import socket

                self._socket.shutdown(getattr(socket, "SHUT_WR", 1))
        except OSError:
            return
        while self.now() < end:
            data = self._read()
            if data == b"":
                return
            if data is None:
                time.sleep(0.01 * self.scale)

    def _close(self):
        if self._socket:
            self._socket.close()
        self._socket = self._poll = None
