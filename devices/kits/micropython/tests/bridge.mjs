// The core inside MicroPython (its WebAssembly port, which has no sockets), and Node's sockets
// outside: the program under test of the conformance test. TELEHUB_MODULES names the folder with
// @micropython/micropython-webassembly-pyscript.

import { readFileSync } from "node:fs";
import net from "node:net";
import tls from "node:tls";
import { fileURLToPath, pathToFileURL } from "node:url";

const env = process.env;
const here = (name) => readFileSync(fileURLToPath(new URL(name, import.meta.url)));
const module = `${env.TELEHUB_MODULES}/node_modules/@micropython/micropython-webassembly-pyscript/micropython.mjs`;
const { loadMicroPython } = await import(pathToFileURL(module));
const mp = await loadMicroPython({ heapsize: 64 * 1024, stdout: (line) => console.log(line) });
mp.FS.writeFile("/telehub.py", here("../telehub.py"));
mp.FS.writeFile("/bridge.py", here("bridge.py"));
mp.runPython("import sys; sys.path.insert(0, '/')");
const core = mp.pyimport("bridge");

const scale = Number(env.TELEHUB_TIME_SCALE);
const [first, count, interval, capacity] =
  ["FIRST", "COUNT", "INTERVAL", "QUEUE"].map((name) => Number(env[`TELEHUB_${name}`]));
const url = new URL(env.TELEHUB_URL);
const started = performance.now();
const now = () => Math.floor((performance.now() - started) / scale);
core.start(url.host, env.TELEHUB_ID, env.TELEHUB_TOKEN, capacity);

let [socket, dialled] = [null, 0];

function dial() {
  const at = { host: url.hostname, port: url.port };
  const own = url.protocol === "wss:"
    ? tls.connect({ ...at, ca: readFileSync(env.TELEHUB_CA), servername: url.hostname })
    : net.connect(at);
  socket = own;
  dialled = now();
  own.on(url.protocol === "wss:" ? "secureConnect" : "connect", () => {
    own.up = true;
    mp.runPython(`import bridge; bridge.core.connected(${now()})`);
    turn("");
  });
  // Whoever sends faster than this side takes it has to wait.
  own.on("data", (bytes) => turn(bytes.toString("hex")));
  own.on("error", () => {});
  own.on("close", () => own === socket && over());
}

function over() {
  socket = null;
  mp.runPython(`import bridge; bridge.core.disconnected(${now()})`);
  turn("");
}

function turn(data) {
  core.make(first, count, interval * 1000, now());
  const [todo, out] = core.step(now(), data).split("|");
  if (out && socket?.up) socket.write(Buffer.from(out, "hex"));
  if (todo === "stop") {
    core.ended();
    process.exit(0);
  }
  if (todo === "connect" && !socket) dial();
  if (todo === "hang up" && socket && !socket.ending) {
    const own = socket;
    own.ending = true;
    own.end();
    setTimeout(() => own.destroy(), 2000 * scale);
  }
  if (socket && !socket.up && now() - dialled > 30000) socket.destroy();
}

setInterval(() => turn(""), 5);
