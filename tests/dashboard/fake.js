// Stands in the page before its own scripts: the events come from the test instead of a hub, and
// may say what no hub says.
(() => {
  const sources = new Set();
  class FakeSource {
    constructor(url) {
      this.url = url;
      this.readyState = 1;
      this.on = {};
      sources.add(this);
      const { hello, status, devices } = fake;
      queueMicrotask(() => {
        this.tell("hello", hello);
        this.tell("status", status);
        for (const device of devices) this.tell("device", device);
      });
    }
    addEventListener(name, listener) {
      this.on[name] = listener;
    }
    tell(name, data) {
      if (this.readyState === 1) this.on[name]({ data: JSON.stringify(data) });
    }
    close() {
      this.readyState = 2;
      sources.delete(this);
    }
  }
  FakeSource.CLOSED = 2;
  FakeSource.OPEN = 1;
  const now = Date.now() / 1000;
  const fake = {
    hello: { hub: "barn", version: "0", started: now - 100 },
    status: {
      hub: "barn", version: "0", uptime: 100,
      uplink: { state: "connected", since: now - 90, in_flight: 1, published: 10, acknowledged: 9, last_error: null },
      spool: { state: "ok", batches: 0, readings: 0, disk_bytes: 0, max_size: 1 << 30, oldest: null, written_bytes: 0, dropped_batches: 0, drain_eta: 0 },
      devices: { connected: 1, known: 1, evicted: 0 },
      live: { batches: 0, readings: 0 },
    },
    devices: [],
    page: { history: [], last: [] },
    device(id, more) {
      return {
        id, state: "online", since: now - 80, reason: "connected", last_seen: now, last_reading: now, usual: 1, expect: null, silent: false, lost: false, acknowledged: false, registered: false, refused: null, remote: "127.0.0.1:5", rtt_ms: 1.5,
        stream: "s", seq: 1, batches: 1, readings: 1, rejected: 0, model: null, firmware: null, ...more,
      };
    },
    tell(name, data) {
      for (const source of sources) source.tell(name, data);
    },
  };
  window.fake = fake;
  window.EventSource = FakeSource;
  const real = window.fetch;
  window.fetch = (url, options) => {
    if (/^\.\/api\/devices\/[^/]+\/readings$/.test(url)) {
      return Promise.resolve(new Response(JSON.stringify(fake.readings ?? []), { status: 200 }));
    }
    const id = /^\.\/api\/devices\/([^/]+)$/.exec(url);
    if (!id) return real(url, options);
    const device = fake.devices.find((device) => device.id === decodeURIComponent(id[1]));
    return Promise.resolve(new Response(JSON.stringify({ ...fake.page, device }), { status: 200 }));
  };
})();
