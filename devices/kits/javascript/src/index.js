// The face for Node and browsers: the core, a WebSocket, and the clock.

import { Core, MAX_MESSAGE } from "./core.js";
import { MemoryQueue } from "./queue.js";

export { Core } from "./core.js";
export { IndexedDbQueue, MemoryQueue } from "./queue.js";
export { decode, encode } from "./cbor.js";

/** Seconds for TCP, TLS and the upgrade together. */
const CONNECT_TIMEOUT = 30;
/** Seconds for the answer to a close frame. */
const CLOSE_TIMEOUT = 5;
/** setTimeout takes 31 bits of milliseconds. */
const LONGEST_TIMER = 0x7fffffff;

export class CommandFailed extends Error {}

/**
 * A device of a telehub. `new Device("wss://hub:8787", "barn-1", { token }).start()`.
 *
 * In a browser the token travels as a subprotocol, and pings are the browser's. In Node pass the
 * `WebSocket` of the package `ws`: with it come a private CA (`ca`), the header for the token, the
 * status of a refusal, and pings. Without it Node 22's own WebSocket is used.
 */
export class Device {
  constructor(url, id, options = {}) {
    if (!/^wss?:\/\//.test(url)) throw new TypeError(`${url}: expected ws://HOST:PORT or wss://HOST:PORT`);
    const { token, ca, queue, clock = "synced", model, firmware } = options;
    if (!["none", "unsure", "synced"].includes(clock)) {
      throw new TypeError(`clock ${clock}: expected none, unsure or synced`);
    }
    this.url = `${url.replace(/\/$/, "")}/v1/devices/${id}`;
    this.options = options;
    this.token = token;
    this.ca = ca;
    this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.WebSocket) throw new TypeError("no WebSocket here: pass that of the package ws");
    // The one of `ws` has events of Node's kind, the others have none of them.
    this.hasPings = typeof this.WebSocket.prototype.ping === "function";
    this.core = new Core(queue ?? new MemoryQueue(), { model, firmware, clock });
    if (this.core.queue.persistent && clock === "none") {
      throw new TypeError("a queue on disk needs a clock: ages do not survive a restart");
    }
    this.core.deaf = !this.hasPings;
    this.core.moved = () => this.turn();
    this.clock = clock;
    // Tests shorten every wait by this; one second of the protocol lasts so many real ones.
    const set = globalThis.process?.env?.TELEHUB_TIME_SCALE;
    this.scale = options.timeScale ?? (Number(set) || 1);
    this.waiting = [];
    this.started = this.left = false;
  }

  now() {
    return performance.now() / 1000 / this.scale;
  }

  /** Begins to connect. */
  start() {
    if (!this.started) {
      this.started = true;
      this.turn();
    }
    return this;
  }

  /** Takes a batch: an array of SenML records, such as `[{ n: "temp", u: "Cel", v: 21.5 }]`. Without
   *  `timeOf` (Unix seconds) it was taken now. Never waits. */
  put(records, { timeOf, tag } = {}) {
    if (!records.length) throw new TypeError("a pack without records");
    const [first, ...rest] = records;
    if (this.clock === "none") {
      if (timeOf !== undefined) throw new TypeError("clock none: only ages can be given, not times");
      this.core.put(records, this.now(), tag);
    } else {
      this.core.put([{ bt: timeOf ?? Date.now() / 1000, ...first }, ...rest], this.now(), tag);
    }
    this.turn();
  }

  /** Resolves once the queue has room, for a source that can wait. */
  async room() {
    await this.until(() => this.core.queue.length < this.core.queue.capacity);
  }

  /** Resolves once everything is safe or given up. */
  async drain() {
    await this.until(() => this.core.idle);
  }

  /** Waits until everything is safe, says `bye` (back in `sleep` seconds) and hangs up. */
  async leave(sleep) {
    this.core.leave(sleep);
    this.turn();
    await this.until(() => this.left);
  }

  /** Ends it at once; what is not safe stays in the queue. */
  stop() {
    this.left = true;
    clearTimeout(this.timer);
    this.kill();
    this.settle();
  }

  until(condition) {
    return new Promise((done) => {
      this.waiting.push({ condition, done });
      this.settle();
    });
  }

  settle() {
    this.waiting = this.waiting.filter(({ condition, done }) => {
      if (!condition() && !this.core.stopped) return true;
      done();
      return false;
    });
  }

  // What happens next.

  turn() {
    if (this.left) return;
    const { core } = this;
    const now = this.now();
    core.tick(now);
    this.pump(now);
    this.tell();
    this.settle();
    if (core.stopped || this.left) return;
    if (!this.socket && this.started && now >= core.retryAt) this.dial();
    clearTimeout(this.timer);
    const at = this.socket && !core.online ? this.dialled + CONNECT_TIMEOUT : core.wakeAt(now);
    const pause = Math.max((at - now) * this.scale * 1000, 1);
    this.timer = setTimeout(() => this.turn(), Math.min(pause, LONGEST_TIMER));
    if (this.socket && !core.online && now - this.dialled >= CONNECT_TIMEOUT) {
      this.over(() => core.lost("no answer to the upgrade", now));
    }
  }

  pump(now) {
    const { core, socket } = this;
    if (!socket || !core.online) return;
    let message;
    while ((message = core.outgoing(now)) !== undefined) socket.send(message);
    if (core.wantsPing && this.hasPings) {
      core.wantsPing = false;
      socket.ping();
    }
    if (core.mustClose !== null) this.hangUp(core.mustClose);
  }

  hangUp(code) {
    const leaving = code === 1000;
    const { socket, core } = this;
    if (leaving) {
      // What was sent before the close frame arrives before it.
      this.forget();
      socket.onclose = () => this.gone();
      setTimeout(() => this.gone(), CLOSE_TIMEOUT * this.scale * 1000);
      socket.close(1000);
      core.closed(1000, this.now());
      return;
    }
    // A page may close with 1000 and codes of its own only.
    this.over(() => core.lost("left the hub", this.now()), code && this.hasPings ? code : 0);
  }

  gone() {
    this.left = true;
    clearTimeout(this.timer);
    this.settle();
  }

  dial() {
    const protocols = ["telehub.v1"];
    this.dialled = this.now();
    try {
      this.socket = this.hasPings ? this.nodeSocket(protocols) : this.webSocket(protocols);
    } catch (error) {
      this.socket = null;
      this.core.lost(`no connection: ${error.message}`, this.now());
      return;
    }
    const { socket, core } = this;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      core.connected(this.now());
      this.turn();
    };
    socket.onmessage = ({ data }) => {
      const message = typeof data === "string" ? data : new Uint8Array(data);
      const size = message.length;
      if (size > MAX_MESSAGE) {
        core.fault(`the hub sent a message of ${size} bytes`);
        core.mustClose = 1009;
      } else core.received(message, this.now());
      this.turn();
    };
    socket.onerror = () => {};
    socket.onclose = ({ code }) => {
      // 1005 and 1006 are the library's words for no code.
      const sent = code === 1006 ? null : code === 1005 ? 1000 : code;
      this.over(() => {
        if (core.online && sent !== null) core.closed(sent, this.now());
        else core.lost("the connection ended", this.now());
      });
    };
  }

  /** With `ws`: headers, a CA, the status of a refusal, pings. */
  nodeSocket(protocols) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const options = { headers, maxPayload: MAX_MESSAGE, perMessageDeflate: false, followRedirects: false };
    if (this.ca) options.ca = this.ca;
    const socket = new this.WebSocket(this.url, protocols, options);
    socket.on("unexpected-response", (request, response) => {
      const wish = Number.parseFloat(response.headers["retry-after"]);
      request.destroy();
      this.over(() => this.core.refused(response.statusCode, Number.isNaN(wish) ? null : wish, this.now()));
    });
    for (const heard of ["ping", "pong"]) {
      socket.on(heard, () => {
        this.core.heard(this.now());
        this.turn();
      });
    }
    return socket;
  }

  webSocket(protocols) {
    if (this.token) protocols.push(`telehub.bearer.${this.token}`);
    return new this.WebSocket(this.url, protocols);
  }

  /** The connection is over: nothing of it is heard any more. */
  over(tell, code = 0) {
    if (!this.socket) return;
    this.kill(code);
    tell();
    this.turn();
  }

  forget() {
    const { socket } = this;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
  }

  kill(code = 0) {
    const { socket } = this;
    this.forget();
    if (!socket) return;
    try {
      if (code) socket.close(code);
      if (socket.terminate) setTimeout(() => socket.terminate(), code ? 100 : 0);
      else socket.close();
    } catch {
      // It was gone already.
    }
  }

  tell() {
    for (const event of this.core.events()) {
      if (event.type === "command") this.carryOut(event);
      this.options.onEvent?.(event);
    }
  }

  async carryOut(command) {
    const { id, name } = command;
    try {
      if (!this.options.onCommand) throw new CommandFailed("this device takes no commands");
      const value = await this.options.onCommand(command);
      this.core.result(id, true, { name, value });
    } catch (error) {
      this.core.result(id, false, { name, error: error.message || "failed" });
    }
    this.turn();
  }
}
