// A device on foreign libraries alone, `ws` and `cbor-x`, written from docs/protocol.md: the third
// witness of the conformance test. TELEHUB_MODULES names the folder where they are installed.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const env = process.env;
const require = createRequire(env.TELEHUB_MODULES ? `${env.TELEHUB_MODULES}/` : import.meta.url);
const { WebSocket } = require("ws");
const { Decoder, Encoder } = require("cbor-x");

const scale = Number(env.TELEHUB_TIME_SCALE) * 1000;
const [first, count, interval, capacity] =
  ["FIRST", "COUNT", "INTERVAL", "QUEUE"].map((name) => Number(env[`TELEHUB_${name}`]));
const encoder = new Encoder({ useRecords: false, mapsAsObjects: false, variableMapSize: true });
// Without the last, an integer of eight bytes is a BigInt, however small it is.
const decoder = new Decoder({ mapsAsObjects: true, useRecords: false, int64AsNumber: true });
const now = () => performance.now() / scale;
const between = (least, most) => least + (most - least) * Math.random();

/** Objects as maps, for the encoder keeps the order and the kind of keys of a Map. */
function pack(value) {
  const map = (value) =>
    value && value.constructor === Object
      ? new Map(Object.entries(value).map(([key, inner]) => [key, map(inner)]))
      : Array.isArray(value) ? value.map(map) : value;
  return encoder.encode(map(value));
}

const stream = Array.from({ length: 4 }, () => Math.random().toString(36).slice(2, 6)).join("");
const started = now();
let held = [];
let [made, last, used, failures, poisoned] = [0, 0, 0, 0, 0];
let [careful, done] = [false, false];
const results = new Map();

const say = (...words) => console.log(...words);

/** Makes what is due; the oldest goes when the queue is full. */
function make() {
  while (made < count) {
    if (interval && now() - started < made * interval) return;
    if (held.length === capacity) {
      if (!interval) return;
      const gone = held.shift();
      say("drop", gone.value, gone.value);
    }
    held.push({ seq: ++last, value: first + made++ });
  }
}

// Readings are made whether or not there is a connection.
setInterval(make, 10);

function usual() {
  return Math.min(2 ** Math.min(failures, 10), 60) * between(0.5, 1);
}

function afterClose(code, inFlight) {
  if (code === 4002) {
    say("stopped");
    process.exit(0);
  }
  if (code === 4001) return between(60, 75);
  if (code === 1007 || code === 1009) {
    if (inFlight.length === 1 && ++poisoned === 2) {
      const gone = held.find(({ seq }) => seq === inFlight[0]);
      held = held.filter((batch) => batch !== gone);
      say("drop", gone.value, gone.value);
      poisoned = 0;
    }
    careful = true;
  }
  if (code === 1001 || code === 1009 || code === 1013) return between(1, 5);
  if ([1002, 1003, 1007, 1008, 4003].includes(code)) return 60 * between(1, 1.2);
  return usual();
}

function afterRefusal(status, wish) {
  if (wish) return Math.max(Number(wish) * between(1, 1.1), usual());
  if (status === 429 || status < 400 || status >= 500) return usual();
  return 3600 * between(1, 1.2);
}

function attempt() {
  const socket = new WebSocket(`${env.TELEHUB_URL}/v1/devices/${env.TELEHUB_ID}`, ["telehub.v1"], {
    headers: { Authorization: `Bearer ${env.TELEHUB_TOKEN}` },
    ca: env.TELEHUB_CA && readFileSync(env.TELEHUB_CA),
    perMessageDeflate: false,
    maxPayload: 65536,
    handshakeTimeout: 30 * scale,
  });
  let inFlight = [];
  let [window, rate, allowed, sent, heard, acked, silence] = [0, 1000, 0, 0, now(), now(), 30];
  let over = false;

  const end = (pause) => {
    if (over) return;
    over = true;
    clearInterval(timer);
    socket.on("error", () => {});
    socket.terminate();
    if (done) {
      say("done");
      process.exit(0);
    }
    failures += 1;
    setTimeout(attempt, pause * scale);
  };

  const send = (message) => socket.send(message);

  const turn = () => {
    make();
    if (socket.readyState !== WebSocket.OPEN || over) return;
    if (now() - heard > silence) return end(usual());
    if (!window) return;
    if (inFlight.length && now() - acked > 60) return end(usual());
    while (inFlight.length < (careful ? 1 : window) && now() >= allowed) {
      const batch = held.find(({ seq }) => seq > sent);
      if (!batch) break;
      if (!inFlight.length) acked = now();
      sent = batch.seq;
      used = Math.max(used, sent);
      inFlight.push(sent);
      send(pack({ data: { seq: sent, pack: [new Map([[0, "count"], [2, batch.value]])] } }));
      allowed = Math.max(allowed, now() - 1) + 1 / rate;
    }
    if (made === count && !held.length && !results.size && !done) {
      done = true;
      send(pack({ bye: {} }));
      socket.close(1000);
      setTimeout(() => end(0), 2 * scale);
    }
  };
  const timer = setInterval(turn, 5);

  const welcome = (body) => {
    if (window || body.stream !== stream || !Number.isInteger(body.seq)) return;
    if (body.seq <= used) held = held.filter(({ seq }) => seq > body.seq);
    else {
      held.forEach((batch, index) => (batch.seq = body.seq + 1 + index));
      last = body.seq + held.length;
      used = body.seq;
    }
    sent = body.seq;
    window = body.window;
    rate = body.max_rate || 1000;
    silence = 1.25 * body.ping_interval + body.ping_timeout;
    for (const result of results.values()) send(result);
  };

  const reject = (seq, code) => {
    if (seq === undefined && code !== "unknown-kind") {
      if (inFlight.length === 1) [seq] = inFlight;
      else careful = true;
    }
    if (!inFlight.includes(seq)) return;
    const batch = held.find((batch) => batch.seq === seq);
    inFlight = inFlight.filter((number) => number !== seq);
    held = held.filter((other) => other !== batch);
    if (code === "bad-seq") held.push({ seq: ++last, value: batch.value });
  };

  const command = ({ id, name, args }) => {
    if (typeof id !== "string" || results.has(id) || results.size >= 64) return;
    const ok = name === "echo";
    if (ok) say("command", id, name);
    let message = pack({ result: ok ? { id, name, ok, value: args } : { id, name, ok, error: "no such command" } });
    // The smallest hub takes more than the short answer.
    if (message.length > 128) message = pack({ result: { id, name, ok, error: "too-large" } });
    results.set(id, message);
    send(message);
  };

  const ack = ({ seq, result }) => {
    results.delete(result);
    if (!Number.isInteger(seq) || seq < 0) return;
    if (seq > sent) return end(usual());
    held = held.filter((batch) => batch.seq > seq);
    if (inFlight[0] <= seq) {
      acked = now();
      failures = poisoned = 0;
      careful = false;
    }
    inFlight = inFlight.filter((number) => number > seq);
  };

  socket.on("open", () => {
    heard = now();
    send(pack({ hello: { stream, next: used + 1, model: "foreign" } }));
  });
  socket.on("ping", () => (heard = now()));
  socket.on("message", (data, binary) => {
    heard = now();
    let message;
    try {
      message = binary ? decoder.decode(data) : {};
    } catch {
      return;
    }
    if (!message || typeof message !== "object") return;
    const [kind] = Object.keys(message);
    const body = message[kind];
    if (!body || typeof body !== "object") return;
    if (kind === "welcome") welcome(body);
    else if (kind === "ack") ack(body);
    else if (kind === "command") command(body);
    else if (kind === "reject" && !results.delete(body.result)) reject(body.seq, body.code);
    turn();
  });
  socket.on("unexpected-response", (request, response) => {
    request.destroy();
    end(afterRefusal(response.statusCode, response.headers["retry-after"]));
  });
  socket.on("error", () => end(usual()));
  // 1005 and 1006 are the library's words for no code.
  socket.on("close", (code) => end(code === 1005 || code === 1006 ? usual() : afterClose(code, inFlight)));
}

attempt();
