"""The blocking face: the same device on a thread of its own."""

import asyncio
import threading

from .client import Device


class BlockingDevice:
    """`with BlockingDevice(url, id, token=…) as device: device.put([...]); device.drain(30)`

    Takes what `Device` takes. `on_event` and `on_command` are called on the device's thread.
    """

    def __init__(self, *args, **options):
        self._args, self._options = args, options
        self._ready = threading.Event()
        self._device = self._loop = self._failed = None
        self._thread = threading.Thread(target=self._main, name="telehub", daemon=True)

    def _main(self):
        try:
            asyncio.run(self._live())
        finally:
            self._ready.set()

    async def _live(self):
        try:
            self._device = Device(*self._args, **self._options)
        except Exception as error:
            self._failed = error
            return
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._device:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self):
        self._thread.start()
        self._ready.wait()
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _call(self, coroutine, timeout=None):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def put(self, records, time_of=None, tag=None):
        """As `Device.put`."""

        async def put():
            self._device.put(records, time_of, tag)

        self._call(put())

    def room(self, timeout=None):
        """Waits until the queue has room. Raises TimeoutError."""
        self._wait(self._device.room(), timeout)

    def drain(self, timeout=None):
        """Waits until everything is safe or given up. Raises TimeoutError."""
        self._wait(self._device.drain(), timeout)

    def leave(self, sleep=None, timeout=None):
        """As `Device.leave`. Raises TimeoutError."""
        self._wait(self._device.leave(sleep), timeout)

    def _wait(self, coroutine, timeout):
        async def limited():
            try:
                await asyncio.wait_for(coroutine, timeout)
            except asyncio.TimeoutError:
                raise TimeoutError("the device did not get it done in time") from None

        self._call(limited())
