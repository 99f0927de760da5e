// The protocol of a device without input or output: messages, ends and the time go in; messages,
// events and times come out. Every time is in seconds, by one clock of the caller's that only grows.

import { Encoded, decode, encode } from "./cbor.js";
import * as policy from "./policy.js";

/** A hub that does not answer `hello` by then is not one. */
const WELCOME_TIMEOUT = 30;
/** With batches unacked and no ack for so long, the connection is of no use: try another. */
const ACK_TIMEOUT = 60;
/** A connection that held this long after its welcome was good: the backoff begins anew. */
const SETTLED = 60;
/** Bytes of one message that this device takes; said in `hello`. */
export const MAX_MESSAGE = 65536;
/** Results that wait for their ack; a hub sends one command at a time. */
const MAX_RESULTS = 64;
/** Ends that speak of a fault with one batch alone in flight, until that batch is given up. */
const ALONE = 2;
/** New numbers for one batch after `bad-seq`, until it is given up. */
const RENUMBERED = 3;

/** A stream whose numbers begin above this might run out of those that are exact. */
const LARGEST_MARK = 2 ** 52;

const isUint = (value) => Number.isSafeInteger(value) && value >= 0;
const seconds = (value, otherwise) =>
  typeof value === "number" && value >= 0.001 && value <= 86400 ? value : otherwise;
/** The beginning of a text; what is none has no text of its own that could be trusted to end. */
const textOf = (value, longest) =>
  typeof value === "string" ? value.slice(0, longest) : value === undefined ? "" : `(${typeof value})`;

/** JSON nested no deeper than CBOR may be: the parser itself has no stack to lose. */
function read(message) {
  const value = typeof message === "string" ? JSON.parse(message) : decode(message);
  const pairs = value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : [];
  if (pairs.length !== 1) throw new TypeError("a message that is not a map with one key");
  return pairs[0];
}

export class Core {
  constructor(queue, { model, firmware, clock, random = Math.random } = {}) {
    this.queue = queue;
    this.hello = { model, firmware, clock, max_message: MAX_MESSAGE };
    this.random = random;
    this.pending = [];
    this.results = new Map();
    this.answered = new Map();
    this.running = new Set();
    this.unsent = [];
    this.renumbered = new Map();
    this.careful = false;
    this.suspect = { seq: 0, times: 0 };
    this.suspects = [];
    this.leaving = null;
    this.failures = 0;
    this.retryAt = 0;
    this.stopped = null;
    this.offline();
  }

  offline() {
    this.online = this.welcomed = this.sayHello = this.byeSaid = this.wantsPing = false;
    this.mustClose = null;
    this.inFlight = [];
    this.sent = 0;
  }

  // From the application.

  /** Takes a batch, an array of SenML records; when the queue is full the oldest goes. */
  put(pack, now, tag) {
    while (this.queue.length >= this.queue.capacity) {
      const oldest = this.queue.oldest();
      this.giveUp(oldest.seq);
      this.event({ type: "dropped", seq: oldest.seq, tag: oldest.tag });
    }
    return this.queue.push(encode(pack), now, tag);
  }

  /** The end of a command. */
  result(id, ok, { name, value, error } = {}) {
    this.running.delete(id);
    this.results.set(id, { id, name, ok, value, error: error && String(error).slice(0, 200) });
    this.unsent.push(id);
  }

  /** Says `bye` and closes once nothing is left to be acked. */
  leave(sleep) {
    this.leaving = sleep === undefined ? {} : { sleep };
  }

  /** Nothing is held that is not safe, and no result is owed. */
  get idle() {
    return !this.queue.length && !this.results.size && !this.running.size;
  }

  /** What has happened since the last call. */
  events() {
    return this.pending.splice(0);
  }

  event(event) {
    this.pending.push(event);
  }

  fault(what) {
    this.event({ type: "fault", what });
  }

  // From the network.

  connected(now) {
    this.offline();
    this.online = this.sayHello = true;
    this.since = this.heardAt = this.ackAt = now;
  }

  /** Any frame came, a ping or a pong too. */
  heard(now) {
    this.heardAt = now;
    this.wantsPing = false;
  }

  received(message, now) {
    this.heard(now);
    let kind, body;
    try {
      [kind, body] = read(message);
    } catch (error) {
      return this.fault(`the hub sent what cannot be read: ${error.message}`);
    }
    // Kinds of a later version are none of this one's business.
    if (!body || typeof body !== "object") return;
    if (kind === "welcome") this.welcome(body, now);
    else if (kind === "ack") this.ack(body, now);
    else if (kind === "reject") this.reject(body, now);
    else if (kind === "command") this.command(body);
    else if (kind === "note") {
      this.event({ type: "note", code: textOf(body.code, 64), detail: textOf(body.detail, 400) });
    }
  }

  /** The connection has ended; `code` as the hub sent it, or `null`. */
  closed(code, now) {
    this.ended(now);
    if (code === 1007 || code === 1009) this.blame(`close ${code}`);
    this.pause(policy.afterClose(code, this.failures, this.random), now, `close ${code}`);
  }

  /** An HTTP answer came in place of the upgrade. */
  refused(status, retryAfter, now) {
    this.fault(`the hub answered ${status}`);
    this.pause(policy.afterRefusal(status, retryAfter, this.failures, this.random), now, "");
  }

  /** No connection, or it broke, or it was given up here. */
  lost(why, now) {
    this.fault(why);
    this.ended(now);
    this.pause(policy.afterClose(null, this.failures, this.random), now, why);
  }

  ended(now) {
    if (this.welcomed && now - this.since >= SETTLED) this.failures = 0;
    this.suspects = this.inFlight;
    this.offline();
  }

  pause(pause, now, why) {
    if (pause === null) {
      this.stopped = `the hub revoked this device's credentials (${why})`;
      this.event({ type: "stopped", why: this.stopped });
    } else {
      this.failures += 1;
      this.retryAt = now + pause;
    }
  }

  // Blame needs proof: a batch is given up only when it was alone in flight, more than once.

  blame(why) {
    if (this.suspects.length !== 1) {
      this.careful = true;
      return;
    }
    const [seq] = this.suspects;
    this.suspect = { seq, times: this.suspect.seq === seq ? this.suspect.times + 1 : 1 };
    if (this.suspect.times >= ALONE) {
      const entry = this.giveUp(seq);
      if (entry) this.rejected(entry, "too-often", why);
    }
  }

  rejected(entry, code, detail) {
    this.event({ type: "rejected", seq: entry?.seq, tag: entry?.tag, code, detail });
  }

  giveUp(seq) {
    this.inFlight = this.inFlight.filter((number) => number !== seq);
    this.renumbered.delete(seq);
    return this.queue.remove(seq);
  }

  // Messages.

  fail(what) {
    this.fault(what);
    this.mustClose = 1002;
  }

  welcome(body, now) {
    if (this.welcomed || !isUint(body.seq) || body.seq > LARGEST_MARK) return this.fault("a welcome that makes no sense");
    if (body.stream !== this.queue.stream) return this.fail("the hub welcomed another stream");
    if (body.seq < this.queue.next) {
      this.queue.safe(body.seq);
    } else {
      // The counter was lost: nothing that is held has been taken.
      this.queue.renumber(body.seq);
      this.event({ type: "renumbered", above: body.seq });
    }
    this.sent = body.seq;
    this.window = isUint(body.window) ? Math.max(body.window, 1) : 1;
    this.maxMessage = isUint(body.max_message) ? body.max_message : MAX_MESSAGE;
    this.rate = this.tokens = isUint(body.max_rate) ? body.max_rate : 0;
    this.tokensAt = now;
    const interval = seconds(body.ping_interval, 20);
    this.probeAfter = 1.25 * interval;
    this.silence = this.probeAfter + seconds(body.ping_timeout, interval / 2);
    this.unsent = [...this.results.keys()];
    this.welcomed = true;
    this.since = this.ackAt = now;
    this.event({ type: "welcome", body });
  }

  ack(body, now) {
    this.settled(body.result);
    if (!isUint(body.seq) || !this.welcomed) return;
    if (body.seq > this.sent) {
      return this.fail(`the hub acked ${body.seq}, and only ${this.sent} was sent`);
    }
    this.queue.safe(body.seq);
    while (this.inFlight.length && this.inFlight[0] <= body.seq) {
      this.renumbered.delete(this.inFlight.shift());
      this.ackAt = now;
      this.careful = false;
      this.failures = 0;
    }
  }

  reject(body, now) {
    const [code, detail] = [textOf(body.code, 64), textOf(body.detail, 200)];
    if ("result" in body) return this.settled(body.result);
    let { seq } = body;
    if (!isUint(seq) && code !== "unknown-kind") {
      if (this.inFlight.length === 1) seq = this.inFlight[0];
      else if (this.inFlight.length) this.careful = true;
    }
    if (!this.inFlight.includes(seq)) return this.rejected(null, code, detail);
    this.ackAt = now;
    const times = this.renumbered.get(seq) ?? 0;
    if (code === "bad-seq" && times < RENUMBERED) {
      this.inFlight = this.inFlight.filter((number) => number !== seq);
      this.renumbered.delete(seq);
      this.renumbered.set(this.queue.again(seq).seq, times + 1);
    } else {
      this.rejected(this.giveUp(seq), code, detail);
    }
  }

  command({ id, name, args, timeout }) {
    if (typeof id !== "string" || typeof name !== "string" || !id || id.length > 64) {
      return this.fault("a command that makes no sense was ignored");
    }
    if (this.running.has(id)) return;
    if (this.results.has(id) || this.answered.has(id)) {
      // It was carried out already; only the answer is wanted again.
      if (!this.results.has(id)) this.results.set(id, this.answered.get(id));
      if (!this.unsent.includes(id)) this.unsent.push(id);
      return;
    }
    if (this.results.size + this.running.size >= MAX_RESULTS) {
      return this.fault("too many commands at once: one was ignored");
    }
    this.running.add(id);
    this.event({ type: "command", id, name, args, timeout: seconds(timeout, 30) });
  }

  settled(id) {
    const body = this.results.get(id);
    if (!body) return;
    this.results.delete(id);
    this.answered.set(id, body);
    if (this.answered.size > MAX_RESULTS) this.answered.delete(this.answered.keys().next().value);
  }

  // To the network.

  /** Looks at the clock: may set `mustClose` (a code, or 0: just drop it) and `wantsPing`. */
  tick(now) {
    if (!this.online || this.mustClose !== null) return;
    const silent = now - this.heardAt;
    const giveUp = (why) => {
      this.fault(why);
      this.mustClose = 0;
    };
    if (!this.welcomed) {
      if (now - this.since >= WELCOME_TIMEOUT) giveUp("the hub does not answer hello");
    } else if (silent >= this.silence && !this.deaf) giveUp("the hub is silent");
    else if (this.inFlight.length && now - this.ackAt >= ACK_TIMEOUT) giveUp("no ack for a minute");
    else this.wantsPing = silent >= this.probeAfter;
  }

  /** When to call `tick` or `outgoing` next, if nothing happens before. */
  wakeAt(now) {
    if (!this.online) return this.retryAt;
    if (!this.welcomed) return this.since + WELCOME_TIMEOUT;
    const times = [this.heardAt + this.probeAfter, this.heardAt + this.silence];
    if (this.inFlight.length) times.push(this.ackAt + ACK_TIMEOUT);
    if (this.rate && this.tokens < 1) times.push(this.tokensAt + (1 - this.tokens) / this.rate);
    return Math.min(...times.filter((time) => time > now), now + 60);
  }

  /** The next message to send now, or nothing. A message is handed out once. */
  outgoing(now) {
    if (!this.online || this.mustClose !== null) return undefined;
    if (this.sayHello) {
      this.sayHello = false;
      const { stream, next } = this.queue;
      return encode({ hello: { stream, next, ...this.hello } });
    }
    if (!this.welcomed || this.byeSaid || !this.allowed(now)) return undefined;
    let message = this.nextResult() ?? this.nextBatch(now);
    if (!message && this.leaving && this.idle) {
      message = encode({ bye: this.leaving });
      this.byeSaid = true;
      this.mustClose = 1000;
    }
    if (message) this.tokens -= 1;
    return message;
  }

  allowed(now) {
    if (!this.rate) this.tokens = 1;
    else {
      this.tokens = Math.min(this.tokens + (now - this.tokensAt) * this.rate, this.rate);
      this.tokensAt = now;
    }
    // Not quite 1: a timer that ends a rounding error early must not wait again.
    return this.tokens >= 0.999;
  }

  nextResult() {
    while (this.unsent.length) {
      const body = this.results.get(this.unsent.shift());
      if (!body) continue;
      const { id, name, ok } = body;
      let message;
      try {
        message = encode({ result: body });
      } catch {
        message = encode({ result: { id, name, ok: false, error: "the value cannot be encoded" } });
      }
      if (message.length <= this.maxMessage) return message;
      return encode({ result: { id, name, ok, error: "too-large" } });
    }
    return undefined;
  }

  nextBatch(now) {
    const window = this.careful ? 1 : this.window;
    while (this.inFlight.length < window) {
      const entry = this.queue.after(this.sent);
      if (!entry) return undefined;
      if (this.queue.ready && !this.queue.ready(entry.seq)) {
        this.queue.reserve(entry.seq, () => this.moved?.());
        return undefined;
      }
      const message = this.data(entry, now);
      if (message.length > this.maxMessage) {
        this.queue.remove(entry.seq);
        this.rejected(entry, "too-large", `${message.length} bytes, the hub takes ${this.maxMessage}`);
        continue;
      }
      this.queue.use(entry.seq);
      if (!this.inFlight.length) this.ackAt = now;
      this.inFlight.push(entry.seq);
      this.sent = entry.seq;
      return message;
    }
    return undefined;
  }

  data({ seq, made, pack }, now) {
    // With a clock its times are absolute, and need no age.
    const hasTimes = this.hello.clock === "synced" || this.hello.clock === "unsure";
    const age = hasTimes ? undefined : Math.floor(Math.max(now - made, 0));
    return encode({ data: { seq, age, pack: new Encoded(pack) } });
  }
}
