// Where batches wait until they are safe. Each has its number from the moment it is put in; a number
// is *used* once it has been sent. No number is ever used for other content.

// Node 18 has it in a module only.
const random = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

function randomStream() {
  const bytes = random.getRandomValues(new Uint8Array(8));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Holds batches in memory. Its stream is new with every queue, so its counter may begin at 1. */
export class MemoryQueue {
  constructor(capacity = 1000) {
    if (!(capacity >= 1)) throw new RangeError("capacity: expected at least 1 batch");
    this.capacity = capacity;
    this.stream = randomStream();
    this.used = 0;
    this.last = 0;
    this.entries = [];
    this.persistent = false;
  }

  get length() {
    return this.entries.length;
  }

  /** The last number used, plus one. */
  get next() {
    return this.used + 1;
  }

  push(pack, made, tag) {
    const entry = { seq: ++this.last, made, pack, tag };
    this.entries.push(entry);
    this.changed({ put: [entry] });
    return entry;
  }

  /** The index of the first batch above a number; entries are in order. */
  indexAfter(seq) {
    let [low, high] = [0, this.entries.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.entries[middle].seq <= seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  after(seq) {
    return this.entries[this.indexAfter(seq)];
  }

  oldest() {
    return this.entries[0];
  }

  /** The number is about to be sent. */
  use(seq) {
    if (seq > this.used) {
      this.used = seq;
      this.changed({});
    }
  }

  /** Everything up to the number is safe: forget it. */
  safe(seq) {
    const gone = this.entries.splice(0, this.indexAfter(seq));
    if (gone.length) this.changed({ gone });
  }

  /** Takes one batch out; returns it, or nothing. */
  remove(seq) {
    const index = this.indexAfter(seq - 1);
    if (this.entries[index]?.seq !== seq) return undefined;
    const gone = this.entries.splice(index, 1);
    this.changed({ gone });
    return gone[0];
  }

  /** Gives everything that is held new numbers above this one, in order. */
  renumber(above) {
    const gone = this.entries;
    this.entries = gone.map((entry, index) => ({ ...entry, seq: above + 1 + index }));
    this.last = above + this.entries.length;
    this.used = Math.max(this.used, above);
    this.changed({ gone, put: this.entries });
  }

  /** Gives one batch a new number, behind all others. */
  again(seq) {
    const entry = this.remove(seq);
    return entry && this.push(entry.pack, entry.made, entry.tag);
  }

  /** For a queue that writes things down. */
  changed() {}

  /** Resolves once everything that was changed is written down. */
  async flush() {}
}

/** Numbers are noted as used this far ahead, so that not every send costs a write. */
const RESERVE = 32;

/**
 * Holds batches in IndexedDB too, over reloads, with the stream and the counter. `await
 * IndexedDbQueue.open("barn-1")`. A batch is written a moment after `put`; `await queue.flush()`
 * waits for it. A number goes out only once it is noted as used.
 */
export class IndexedDbQueue extends MemoryQueue {
  static async open(name, capacity = 10_000, factory = globalThis.indexedDB) {
    const request = factory.open(`telehub-${name}`, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("batches", { keyPath: "seq" });
      request.result.createObjectStore("stream");
    };
    const db = await finished(request);
    const queue = new IndexedDbQueue(capacity);
    const reading = db.transaction(["batches", "stream"]);
    const [batches, kept] = await Promise.all([
      finished(reading.objectStore("batches").getAll()),
      finished(reading.objectStore("stream").get("stream")),
    ]);
    queue.db = db;
    queue.persistent = true;
    queue.entries = batches;
    // What `used` was noted as: after a reload, numbers up to it may have been sent.
    if (kept) [queue.stream, queue.last, queue.used] = [kept.stream, kept.last, kept.used];
    queue.last = Math.max(queue.last, queue.used);
    queue.noted = queue.used;
    queue.changed({});
    await queue.flush();
    return queue;
  }

  /** Whether this number may be sent now: it is noted as used, and its batch is written. */
  ready(seq) {
    return seq <= this.noted;
  }

  use(seq) {
    this.used = Math.max(this.used, seq);
  }

  /** Asks for numbers up to this one to be noted as used; `moved` is called when they are. */
  reserve(seq, moved) {
    if (this.reserving >= seq) return;
    this.reserving = Math.min(seq + RESERVE - 1, Math.max(this.last, seq));
    const upTo = this.reserving;
    this.changed({ used: upTo });
    this.flush().then(() => {
      this.noted = Math.max(this.noted, upTo);
      moved();
    }, () => {
      this.reserving = 0;
    });
  }

  changed({ gone = [], put = [], used = 0 }) {
    if (!this.db) return;
    const writing = this.db.transaction(["batches", "stream"], "readwrite");
    const batches = writing.objectStore("batches");
    for (const entry of gone) batches.delete(entry.seq);
    for (const entry of put) batches.put(entry);
    this.notedAs = Math.max(this.notedAs ?? 0, this.used, used);
    writing.objectStore("stream").put(
      { stream: this.stream, last: this.last, used: this.notedAs }, "stream");
    this.writing = new Promise((done, failed) => {
      writing.oncomplete = done;
      writing.onabort = () => failed(writing.error ?? new Error("IndexedDB gave up"));
    });
    this.writing.catch(() => {});
  }

  async flush() {
    await this.writing;
  }
}

function finished(request) {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}
