// Sends a temperature every ten seconds:
// TELEHUB_TOKEN=… node thermometer.js wss://hub.local:8787 barn-1 ca.pem

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { Device } from "../src/index.js";

const [url, id, ca] = process.argv.slice(2);
const device = new Device(url, id, {
  WebSocket,
  token: process.env.TELEHUB_TOKEN,
  ca: ca && readFileSync(ca),
  model: "thermometer",
  onEvent: (event) => console.log(event),
}).start();

const count = Number(process.env.COUNT ?? Infinity);
for (let done = 0; done < count && !device.core.stopped; done++) {
  device.put([{ n: "temperature", u: "Cel", v: Math.round(2000 + 200 * Math.random()) / 100 }]);
  await sleep(Number(process.env.INTERVAL ?? 10) * 1000);
}
await device.leave();
