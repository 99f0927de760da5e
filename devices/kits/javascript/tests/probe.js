// The program under test of the conformance test: see docs/kits.md, "The test contract".
// TELEHUB_WS names the file of the package `ws`.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { CommandFailed, Device, MemoryQueue } from "../src/index.js";

const env = process.env;
const { WebSocket } = await import(env.TELEHUB_WS ? pathToFileURL(env.TELEHUB_WS) : "ws");
const scale = Number(env.TELEHUB_TIME_SCALE);
const first = Number(env.TELEHUB_FIRST);
const count = Number(env.TELEHUB_COUNT);
const interval = Number(env.TELEHUB_INTERVAL);
const local = ["too-large", "too-often", "bad-seq"];

const device = new Device(env.TELEHUB_URL, env.TELEHUB_ID, {
  WebSocket,
  token: env.TELEHUB_TOKEN,
  ca: env.TELEHUB_CA && readFileSync(env.TELEHUB_CA),
  queue: new MemoryQueue(Number(env.TELEHUB_QUEUE)),
  model: "probe",
  onEvent(event) {
    if (event.type === "dropped" || (event.type === "rejected" && local.includes(event.code))) {
      console.log("drop", event.tag, event.tag);
    } else console.error(JSON.stringify(event));
  },
  onCommand({ id, name, args }) {
    if (name !== "echo") throw new CommandFailed("no such command");
    console.log("command", id, name);
    return args;
  },
}).start();

for (let reading = first; reading < first + count; reading++) {
  if (interval) await sleep(interval * scale * 1000);
  else await device.room();
  device.put([{ n: "count", v: reading }], { tag: reading });
}
await device.leave();
console.log(device.core.stopped ? "stopped" : "done");
process.exit(0);
