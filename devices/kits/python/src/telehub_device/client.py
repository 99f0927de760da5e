"""The asyncio face: the core, a WebSocket of `websockets`, and the clock."""

import asyncio
import inspect
import math
import os
import ssl as tls
import time
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .core import MAX_MESSAGE, Command, Core, Stopped
from .queue import MemoryQueue

CONNECT_TIMEOUT = 30.0
"""Seconds for TCP, TLS and the upgrade together."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the answer to a close frame."""
MAX_UNREAD = 1 << 20
"""Bytes that the hub may leave unread: pings are answered whether it reads the answers or not."""
LOOK = 1.0
"""Real seconds between two looks at that."""


class CommandFailed(Exception):
    """Raised by a command handler: its text is the `error` of the result."""


class _Connect(connect):
    def process_redirect(self, exc):
        # A device has one hub: it does not carry its token elsewhere.
        return exc


class Device:
    """A device of a telehub.

    `async with Device("wss://hub.local:8787", "barn-1", token="…", ca="ca.pem") as device:`

    `put` takes a batch and never waits; what the full queue pushes out is told to `on_event` as
    `Dropped`. `on_command(command)` returns the value of the result, or raises `CommandFailed`;
    it may be a coroutine.
    """

    def __init__(
        self,
        url,
        id,
        token=None,
        *,
        ca=None,
        ssl=None,
        queue=None,
        clock="synced",
        model=None,
        firmware=None,
        on_command=None,
        on_event=None,
        time_scale=None,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url}: expected ws://HOST:PORT or wss://HOST:PORT")
        if clock not in ("none", "unsure", "synced"):
            raise ValueError(f"clock {clock}: expected none, unsure or synced")
        self._url = f"{url.rstrip('/')}/v1/devices/{id}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ssl = None
        if parts.scheme == "wss":
            self._ssl = ssl or tls.create_default_context(cafile=ca)
        queue = queue if queue is not None else MemoryQueue()
        if queue.persistent and clock == "none":
            raise ValueError("a queue on disk needs a clock: ages do not survive a restart")
        self._clock = clock
        self.core = Core(queue, model=model, firmware=firmware, clock=clock)
        self._on_command = on_command
        self._on_event = on_event
        # Tests shorten every wait by this; one second of the protocol lasts so many real ones.
        self._scale = float(time_scale or os.environ.get("TELEHUB_TIME_SCALE") or 1.0)
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._tasks = set()
        self._runner = None
        self._left = False

    def _now(self):
        return time.monotonic() / self._scale

    # The application's side.

    def put(self, records, time_of=None, tag=None):
        """Takes a batch: a list of SenML records with text labels, such as
        `[{"n": "temp", "u": "Cel", "v": 21.5}]`. Without `time_of` (Unix seconds) it was taken
        now. Raises ValueError for what the hub would refuse."""
        pack = [dict(record) for record in records]
        if not pack:
            raise ValueError("a pack without records")
        if self._clock != "none" and "bt" not in pack[0]:
            pack[0]["bt"] = time.time() if time_of is None else time_of
        elif time_of is not None:
            raise ValueError("clock none: only ages can be given, not times")
        self.core.put(pack, self._now(), tag)
        self._stirred()

    async def room(self):
        """Waits until the queue has room, for a source that can wait."""
        while len(self.core.queue) >= self.core.queue.capacity and not self.core.stopped:
            self._moved.clear()
            await self._moved.wait()

    async def drain(self):
        """Waits until everything is safe or given up. For a limit use `asyncio.wait_for`."""
        while not self.core.idle and not self.core.stopped:
            self._moved.clear()
            await self._moved.wait()

    async def leave(self, sleep=None):
        """Waits until everything is safe, says `bye` (back in `sleep` seconds) and hangs up."""
        self.core.leave(sleep)
        self._stirred()
        if self._runner:
            await self._runner

    async def __aenter__(self):
        self._runner = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_):
        self._runner.cancel()
        await asyncio.gather(self._runner, *self._tasks, return_exceptions=True)

    def _stirred(self):
        self._wake.set()
        self._moved.set()

    # The network's side.

    async def run(self):
        """Connects, and connects again, until `leave` is done or the hub has revoked the token."""
        while not self.core.stopped and not self._left:
            await self._attempt()
            self._tell()
            self._stirred()
            while not self.core.stopped and not self._left:
                pause = self.core.retry_at - self._now()
                if pause <= 0:
                    break
                await asyncio.sleep(pause * self._scale)
                self._tell()

    async def _attempt(self):
        options = {"ssl": self._ssl} if self._ssl else {}
        opening = _Connect(
            self._url,
            additional_headers=self._headers,
            subprotocols=["telehub.v1"],
            compression=None,
            max_size=MAX_MESSAGE,
            ping_interval=None,
            open_timeout=CONNECT_TIMEOUT * self._scale,
            close_timeout=CLOSE_TIMEOUT * self._scale,
            proxy=None,
            **options,
        )
        try:
            socket = await opening
        except InvalidStatus as refusal:
            response = refusal.response
            retry_after = _retry_after(response.headers.get("Retry-After"))
            return self.core.refused(response.status_code, retry_after, self._now())
        except Exception as error:  # noqa: BLE001: whatever it was, there is no connection
            return self.core.lost(f"no connection: {error or type(error).__name__}", self._now())
        try:
            await self._converse(socket)
        finally:
            if socket.transport is not None:
                socket.transport.abort()

    async def _converse(self, socket):
        core = self.core
        core.connected(self._now())
        receiving = asyncio.ensure_future(socket.recv())
        sending = waking = None
        try:
            while True:
                now = self._now()
                core.tick(now)
                if socket.transport.get_write_buffer_size() > MAX_UNREAD:
                    return core.lost("the hub does not read", now)
                self._tell()
                if sending is None:
                    message = core.outgoing(now)
                    if message is not None:
                        sending = asyncio.ensure_future(socket.send(message))
                if core.must_close is not None and sending is None:
                    return await self._hang_up(socket, core.must_close)
                if core.wants_ping:
                    core.wants_ping = False
                    self._spawn(self._probe(socket))
                waking = waking or asyncio.ensure_future(self._wake.wait())
                waiting = [task for task in (receiving, sending, waking) if task]
                timeout = min(max(core.wake_at(now) - now, 0.01) * self._scale, LOOK)
                await asyncio.wait(
                    waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if waking.done():
                    waking = None
                    self._wake.clear()
                if sending and sending.done():
                    sending.result()
                    sending = None
                if receiving.done():
                    core.received(receiving.result(), self._now())
                    receiving = asyncio.ensure_future(socket.recv())
                    self._moved.set()
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            if closed.rcvd is None:
                core.lost(f"connection lost: {closed}", self._now())
            else:
                core.closed(code, self._now())
        except OSError as error:
            core.lost(f"connection lost: {error}", self._now())
        finally:
            for task in (receiving, sending, waking):
                if task:
                    task.cancel()
            await asyncio.gather(
                *(task for task in (receiving, sending, waking) if task), return_exceptions=True
            )

    async def _hang_up(self, socket, code):
        leaving = code == 1000
        if code:
            try:
                await socket.close(code)
            except Exception:  # noqa: BLE001: it is gone either way
                pass
        if leaving:
            self._left = True
            self.core.closed(1000, self._now())
        else:
            self.core.lost("left the hub", self._now())

    async def _probe(self, socket):
        try:
            await (await socket.ping())
            self.core.heard(self._now())
        except (ConnectionClosed, OSError):
            pass

    def _spawn(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Events.

    def _tell(self):
        for event in self.core.events():
            if isinstance(event, Command):
                self._spawn(self._carry_out(event))
            if isinstance(event, Stopped):
                self._stirred()
            if self._on_event:
                self._on_event(event)

    async def _carry_out(self, command):
        try:
            if self._on_command is None:
                raise CommandFailed("this device takes no commands")
            value = self._on_command(command)
            if inspect.isawaitable(value):
                value = await asyncio.wait_for(value, command.timeout * self._scale)
            self.core.result(command.id, True, name=command.name, value=value)
        except Exception as error:  # noqa: BLE001: whoever sent the command shall know
            what = str(error) or type(error).__name__
            self.core.result(command.id, False, name=command.name, error=what[:200])
        self._stirred()


def _retry_after(text):
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None
