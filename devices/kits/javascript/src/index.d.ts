/** A record of a SenML pack (RFC 8428), with text labels. */
export interface SenmlRecord {
  bn?: string; bt?: number; bu?: string; bv?: number; bs?: number; bver?: number;
  n?: string; u?: string; t?: number; ut?: number; s?: number;
  v?: number; vs?: string; vb?: boolean; vd?: Uint8Array;
}

export interface Command {
  type: "command";
  id: string;
  name: string;
  args?: unknown;
  /** Seconds left. */
  timeout: number;
}

export type DeviceEvent<Tag = unknown> =
  | { type: "welcome"; body: Record<string, unknown> }
  /** The queue was full: this batch is gone. */
  | { type: "dropped"; seq: number; tag?: Tag }
  /** The hub will never take this batch; without `seq` it could not tell which. */
  | { type: "rejected"; seq?: number; tag?: Tag; code: string; detail: string }
  /** The hub knows more of the stream: everything held has new numbers. */
  | { type: "renumbered"; above: number }
  | { type: "note"; code: string; detail: string }
  | { type: "fault"; what: string }
  /** Credentials revoked: the device does not come back by itself. */
  | { type: "stopped"; why: string }
  | Command;

export interface Entry<Tag = unknown> {
  seq: number;
  made: number;
  pack: Uint8Array;
  tag?: Tag;
}

export declare class MemoryQueue {
  constructor(capacity?: number);
  readonly capacity: number;
  readonly length: number;
  /** The last number used, plus one. */
  readonly next: number;
  readonly stream: string;
  /** Resolves once everything that was changed is written down. */
  flush(): Promise<void>;
}

export declare class IndexedDbQueue extends MemoryQueue {
  static open(name: string, capacity?: number, factory?: IDBFactory): Promise<IndexedDbQueue>;
}

export declare class CommandFailed extends Error {}

export interface DeviceOptions {
  token?: string;
  /** A private CA in PEM; only with the WebSocket of `ws`. */
  ca?: string | Uint8Array;
  /** The WebSocket of the package `ws`; else the platform's. */
  WebSocket?: unknown;
  queue?: MemoryQueue;
  clock?: "none" | "unsure" | "synced";
  model?: string;
  firmware?: string;
  onEvent?(event: DeviceEvent): void;
  /** Returns the value of the result, or throws. */
  onCommand?(command: Command): unknown;
  /** Real seconds of a protocol second; for tests. */
  timeScale?: number;
}

export declare class Device {
  constructor(url: string, id: string, options?: DeviceOptions);
  start(): this;
  /** Takes a batch. Never waits; a full queue pushes out its oldest. */
  put(records: SenmlRecord[], options?: { timeOf?: number; tag?: unknown }): void;
  /** Resolves once the queue has room. */
  room(): Promise<void>;
  /** Resolves once everything is safe or given up. */
  drain(): Promise<void>;
  /** Waits until everything is safe, says `bye` and hangs up. */
  leave(sleep?: number): Promise<void>;
  /** Ends it at once. */
  stop(): void;
}

/** The protocol without a network: see core.js. */
export declare class Core {
  constructor(queue: MemoryQueue, options?: Pick<DeviceOptions, "model" | "firmware" | "clock"> & {
    random?: () => number;
  });
  put(pack: unknown[], now: number, tag?: unknown): Entry;
  result(id: string, ok: boolean, rest?: { name?: string; value?: unknown; error?: unknown }): void;
  leave(sleep?: number): void;
  readonly idle: boolean;
  events(): DeviceEvent[];
  connected(now: number): void;
  heard(now: number): void;
  received(message: string | Uint8Array, now: number): void;
  closed(code: number | null, now: number): void;
  refused(status: number, retryAfter: number | null, now: number): void;
  lost(why: string, now: number): void;
  tick(now: number): void;
  wakeAt(now: number): number;
  outgoing(now: number): Uint8Array | undefined;
  mustClose: number | null;
  wantsPing: boolean;
  retryAt: number;
  stopped: string | null;
}

export declare function encode(value: unknown): Uint8Array;
export declare function decode(bytes: Uint8Array): unknown;
