// The core, its CBOR and its queues, without a network.

import assert from "node:assert/strict";
import test from "node:test";
import { Core } from "../src/core.js";
import { decode, encode } from "../src/cbor.js";
import * as policy from "../src/policy.js";
import { IndexedDbQueue, MemoryQueue } from "../src/queue.js";
import { FakeIndexedDb } from "./indexeddb.js";

const plain = (value) => JSON.parse(JSON.stringify(value));

function coreWith(count, queue = new MemoryQueue(100)) {
  const core = new Core(queue, { random: () => 0.5 });
  for (let value = 1; value <= count; value++) core.put([{ n: "x", v: value }], 0, value);
  core.connected(0);
  core.outgoing(0);
  return core;
}

function welcome(core, seq = 0, now = 0) {
  const body = { stream: core.queue.stream, seq, ping_interval: 20, window: 4, max_message: 65536 };
  core.received(encode({ welcome: body }), now);
}

function sent(core, now = 0) {
  const out = [];
  for (let message; (message = core.outgoing(now)) !== undefined; ) {
    const { data } = decode(message);
    if (data) out.push([data.seq, data.pack[0].v]);
  }
  return out;
}

function lose(core) {
  core.lost("cut", 1);
  core.connected(2);
  return decode(core.outgoing(2)).hello.next;
}

test("CBOR goes there and back, numbers in their shortest exact form", () => {
  const value = { a: [0, 23, 24, 255, 256, 65536, 2 ** 40, -1, -257, 1.5, 0.1, true, null, "\u2603"] };
  assert.deepEqual(plain(decode(encode(value))), value);
  assert.deepEqual([...encode(1.5)], [0xfa, 0x3f, 0xc0, 0, 0]);
  assert.deepEqual([...encode(new Map([[0, "n"], [2, 1]]))], [0xa2, 0, 0x61, 0x6e, 2, 1]);
  assert.equal(decode(Uint8Array.of(0xf9, 0x56, 0x40)), 100);
});

test("what is no CBOR is an error and costs nothing", () => {
  const deep = new Uint8Array(50000).fill(0x81);
  for (const bytes of [[], [0xff], [0x9f], [0x61], [0xa1, 0], [0, 0], [0xbb, 255, 255, 255, 255, 255, 255, 255, 255]]) {
    assert.throws(() => decode(Uint8Array.from(bytes)));
  }
  assert.throws(() => decode(deep), /nested/);
});

test("below next, what is not safe comes again under its old number", () => {
  const core = coreWith(6);
  welcome(core);
  assert.equal(sent(core).length, 4);
  assert.equal(lose(core), 5);
  welcome(core, 2);
  assert.deepEqual(sent(core, 2), [[3, 3], [4, 4], [5, 5], [6, 6]]);
});

test("a lower mark than what was acked uses no number again", () => {
  const core = coreWith(3);
  welcome(core);
  sent(core);
  core.received(encode({ ack: { seq: 3 } }), 0);
  assert.ok(core.idle);
  assert.equal(lose(core), 4);
  welcome(core, 0);
  core.put([{ n: "x", v: 9 }], 2);
  assert.deepEqual(sent(core, 2), [[4, 9]]);
});

test("at or above next, everything held is renumbered", () => {
  for (const mark of [4, 1000]) {
    const core = coreWith(3);
    welcome(core);
    sent(core);
    lose(core);
    welcome(core, mark);
    assert.deepEqual(sent(core, 2), [[mark + 1, 1], [mark + 2, 2], [mark + 3, 3]]);
  }
});

test("bad-seq gives the content a new number", () => {
  const core = coreWith(2);
  welcome(core);
  sent(core);
  core.received(encode({ reject: { seq: 1, code: "bad-seq", detail: "" } }), 0);
  assert.deepEqual(sent(core), [[3, 1]]);
});

test("a batch is given up only after it was alone in flight twice", () => {
  const core = coreWith(3);
  let gone = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    welcome(core);
    assert.equal(sent(core).length, attempt === 0 ? 3 : 1);
    core.events();
    core.closed(1007, 0);
    gone = core.events().filter((event) => event.type === "rejected");
    assert.equal(gone.length, attempt === 2 ? 1 : 0);
    core.connected(0);
    core.outgoing(0);
  }
  assert.equal(gone[0].tag, 1);
});

test("nonsense from the hub is ignored", () => {
  const core = coreWith(1);
  for (const message of [new Uint8Array(), Uint8Array.of(255), "[".repeat(9000), "{}", "[1]", encode({ ack: { seq: -1 } }), encode({ ack: 5 })]) {
    core.received(message, 0);
  }
  assert.equal(core.queue.length, 1);
  assert.equal(core.mustClose, null);
});

test("pauses stay within their bounds", () => {
  for (const random of [() => 0, () => 0.999]) {
    for (const failures of [0, 1, 7, 1000]) {
      assert.ok(policy.backoff(failures, random) <= 60);
      assert.ok(policy.afterClose(4001, failures, random) >= 60);
      assert.ok(policy.afterClose(1001, failures, random) >= 1);
      assert.ok(policy.afterRefusal(401, null, failures, random) >= 3600);
      assert.ok(policy.afterRefusal(503, 1e9, failures, random) <= 3960);
    }
  }
  assert.equal(policy.afterClose(4002, 0, Math.random), null);
});

test("a queue in IndexedDB keeps batches, numbers and stream over a reload", async () => {
  const factory = new FakeIndexedDb();
  const queue = await IndexedDbQueue.open("x", 100, factory);
  const core = new Core(queue, { clock: "synced", random: () => 0.5 });
  let moved = 0;
  core.moved = () => moved++;
  for (let value = 1; value <= 5; value++) core.put([{ n: "x", v: value }], 0, value);
  core.connected(0);
  core.outgoing(0);
  welcome(core);
  assert.deepEqual(sent(core), [], "no number goes out before it is noted as used");
  await queue.flush();
  await new Promise((done) => setTimeout(done, 0));
  assert.equal(moved, 1);
  assert.deepEqual(sent(core).map(([seq]) => seq), [1, 2, 3, 4]);
  core.received(encode({ ack: { seq: 2 } }), 0);
  await queue.flush();

  const again = await IndexedDbQueue.open("x", 100, factory);
  assert.equal(again.stream, queue.stream);
  assert.deepEqual(again.entries.map(({ seq, tag }) => [seq, tag]), [[3, 3], [4, 4], [5, 5]]);
  assert.ok(again.next > 4, "what may have been sent counts as used");
  assert.equal(again.push(encode([]), 0).seq, 6);
});

test("no value of a known field throws, whatever the hub puts there", () => {
  const kinds = {
    welcome: ["seq", "stream", "window", "max_message", "max_rate", "ping_interval", "ping_timeout"],
    ack: ["seq", "result"],
    reject: ["seq", "result", "code", "detail"],
    note: ["code", "detail", "seq"],
    command: ["id", "name", "args", "timeout"],
  };
  const odd = [null, true, -1, 2 ** 64, 1e300, NaN, -Infinity, "x".repeat(60000), "5", Uint8Array.of(1), [], [5], {}, [[]]];
  for (const [kind, fields] of Object.entries(kinds)) {
    for (const field of fields) {
      for (const value of odd) {
        const core = coreWith(1);
        const good = { stream: core.queue.stream, seq: 0, id: "1", name: "a", code: "malformed" };
        for (const body of [{ [field]: value }, { ...good, [field]: value }]) {
          core.received(encode({ [kind]: body }), 0);
          while (core.outgoing(1) !== undefined);
          core.tick(2);
          assert.ok(Number.isFinite(core.wakeAt(2)));
        }
      }
    }
  }
});

test("what a hub sends in JSON throws no more than CBOR does", () => {
  const core = coreWith(1);
  welcome(core);
  for (const message of ["", "[", "null", "[]", '{"note":{"code":{"toString":1}}}', '{"note":{"__proto__":null}}',
    '{"__proto__":{"seq":1}}', `{"note":{"detail":${"[".repeat(30000)}${"]".repeat(30000)}}}`]) {
    core.received(message, 0);
  }
  core.received(encode({ note: { code: "good" } }), 0);
  assert.equal(core.events().at(-1).code, "good");
});

test("a mark above what numbers can be is no welcome", () => {
  for (const seq of [2 ** 52 + 1, Number.MAX_SAFE_INTEGER, 2 ** 64]) {
    const core = coreWith(1);
    core.received(encode({ welcome: { stream: core.queue.stream, seq } }), 0);
    assert.equal(core.welcomed, false);
  }
});

test("the same command a thousand times is answered once", () => {
  const core = coreWith(0);
  welcome(core);
  const command = encode({ command: { id: "1", name: "echo", timeout: 5 } });
  core.received(command, 0);
  core.result("1", true, { name: "echo" });
  for (let times = 0; times < 1000; times++) core.received(command, 0);
  assert.equal(core.unsent.length, 1);
});

test("a second welcome changes nothing", () => {
  const core = coreWith(1);
  welcome(core);
  sent(core);
  welcome(core, 900);
  assert.deepEqual([core.sent, core.queue.length], [1, 1]);
});
