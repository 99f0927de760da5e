// CBOR (RFC 8949), as much of it as the protocol needs. Maps are plain objects; `Map` is written
// with its keys as they are, which is how SenML's integer labels come about.

/** Nesting that is read: no hub sends deeper, and no stack is at risk. */
const MAX_DEPTH = 64;

const text = new TextEncoder();
const untext = new TextDecoder("utf-8", { fatal: true });

class Writer {
  constructor() {
    this.bytes = new Uint8Array(128);
    this.view = new DataView(this.bytes.buffer);
    this.at = 0;
  }

  room(more) {
    if (this.at + more <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(this.bytes.length * 2, this.at + more));
    grown.set(this.bytes);
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  raw(bytes) {
    this.room(bytes.length);
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }

  head(major, value) {
    this.room(9);
    const put = (info) => (this.bytes[this.at++] = (major << 5) | info);
    if (value < 24) put(value);
    else if (value < 0x100) {
      put(24);
      this.bytes[this.at++] = value;
    } else if (value < 0x10000) {
      put(25);
      this.view.setUint16(this.at, value);
      this.at += 2;
    } else if (value < 0x100000000) {
      put(26);
      this.view.setUint32(this.at, value);
      this.at += 4;
    } else {
      put(27);
      this.view.setBigUint64(this.at, BigInt(value));
      this.at += 8;
    }
  }

  number(value) {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
      if (value >= 0) this.head(0, value);
      else this.head(1, -1 - value);
      return;
    }
    this.room(9);
    if (Object.is(Math.fround(value), value)) {
      this.bytes[this.at++] = 0xfa;
      this.view.setFloat32(this.at, value);
      this.at += 4;
    } else {
      this.bytes[this.at++] = 0xfb;
      this.view.setFloat64(this.at, value);
      this.at += 8;
    }
  }

  item(value, depth) {
    if (depth > MAX_DEPTH) throw new RangeError("a value is nested too deeply");
    if (value === null || value === undefined) this.raw([0xf6]);
    else if (typeof value === "boolean") this.raw([value ? 0xf5 : 0xf4]);
    else if (typeof value === "number") this.number(value);
    else if (typeof value === "string") {
      const bytes = text.encode(value);
      this.head(3, bytes.length);
      this.raw(bytes);
    } else if (value instanceof Uint8Array) {
      this.head(2, value.length);
      this.raw(value);
    } else if (Array.isArray(value)) {
      this.head(4, value.length);
      for (const item of value) this.item(item, depth + 1);
    } else if (value instanceof Encoded) this.raw(value.bytes);
    else if (value instanceof Map) this.pairs([...value], depth);
    else if (typeof value === "object") {
      this.pairs(Object.entries(value).filter((pair) => pair[1] !== undefined), depth);
    } else throw new TypeError(`a ${typeof value} cannot be encoded`);
  }

  pairs(pairs, depth) {
    this.head(5, pairs.length);
    for (const [key, value] of pairs) {
      this.item(key, depth + 1);
      this.item(value, depth + 1);
    }
  }
}

/** Bytes that are CBOR already: written as they are. */
export class Encoded {
  constructor(bytes) {
    this.bytes = bytes;
  }
}

/** One item as bytes. Throws for what has no place in CBOR. */
export function encode(value) {
  const writer = new Writer();
  writer.item(value, 0);
  return writer.bytes.slice(0, writer.at);
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  take(count) {
    if (count > this.bytes.length - this.at) throw new RangeError("the message is cut short");
    const at = this.at;
    this.at += count;
    return at;
  }

  argument(info) {
    if (info < 24) return info;
    if (info === 24) return this.view.getUint8(this.take(1));
    if (info === 25) return this.view.getUint16(this.take(2));
    if (info === 26) return this.view.getUint32(this.take(4));
    if (info === 27) return Number(this.view.getBigUint64(this.take(8)));
    throw new RangeError("an indefinite or reserved length");
  }

  item(depth) {
    if (depth > MAX_DEPTH) throw new RangeError("nested too deeply");
    const first = this.view.getUint8(this.take(1));
    const major = first >> 5;
    const info = first & 31;
    if (major === 7) return this.simple(info);
    const argument = this.argument(info);
    if (major === 0) return argument;
    if (major === 1) return -1 - argument;
    if (major === 2 || major === 3) {
      const at = this.take(argument);
      const bytes = this.bytes.subarray(at, at + argument);
      return major === 2 ? bytes.slice() : untext.decode(bytes);
    }
    if (major === 4) {
      // Grows with what is there, not with what the head claims.
      const items = [];
      for (let index = 0; index < argument; index++) items.push(this.item(depth + 1));
      return items;
    }
    if (major === 5) {
      const map = Object.create(null);
      for (let index = 0; index < argument; index++) {
        const key = this.item(depth + 1);
        map[String(key)] = this.item(depth + 1);
      }
      return map;
    }
    return this.item(depth + 1); // A tag adds nothing here.
  }

  simple(info) {
    if (info === 20 || info === 21) return info === 21;
    if (info === 22 || info === 23) return null;
    if (info === 25) return half(this.view.getUint16(this.take(2)));
    if (info === 26) return this.view.getFloat32(this.take(4));
    if (info === 27) return this.view.getFloat64(this.take(8));
    throw new RangeError("a simple value without meaning here");
  }
}

function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  let value = (fraction + 1024) * 2 ** (exponent - 25);
  if (exponent === 0) value = fraction * 2 ** -24;
  if (exponent === 31) value = fraction ? NaN : Infinity;
  return bits & 0x8000 ? -value : value;
}

/** Exactly one item. Throws for anything else. */
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.item(0);
  if (reader.at !== bytes.length) throw new RangeError("more bytes after the message");
  return value;
}
