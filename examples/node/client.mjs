// SPDX-License-Identifier: MIT
// A complete client of bcached in JavaScript, for Node and without a package: reserve, write, commit; look up,
// read, check; connect again. docs/client.md says why each step is as it is, and where it is.
//
//   node client.mjs SOCKET INODE        then, on stdin:
//   put OFFSET FILE                     keep the bytes of a file from this sector of the volume on
//   get OFFSET SECTORS FILE             write what is kept of these sectors to a file; gaps stay zero
//
// Offsets are sectors of 512 bytes and multiples of a block. Each command is answered by one line.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import readline from "node:readline";
import { setImmediate as events, setTimeout as pause } from "node:timers/promises";

const SECTOR = 512;
const TRIES = 16; // of data whose bucket is reused while it is read
const PATIENCE_MS = 20_000; // with a daemon that is away, or ends again and again
const PAGE = Number(spawnSync("getconf", ["PAGESIZE"]).stdout);

class Lost extends Error {} // no connection: connect again, and repeat all of what was being done

// JSON.parse makes doubles of numbers, which are exact up to 2^53; offsets go up to 2^62. So numbers that long are
// quoted before, and offsets are BigInts. (There are no fractions, and strings stay as they are.)
const LONG = /("(?:[^"\\]|\\.)*")|(-?\d{16,})/g;
const parse = (text) =>
  JSON.parse(text.replace(LONG, (_, string, digits) => string ?? `"${digits}"`), (name, value) =>
    (name === "offset" || name === "next") && value !== null ? BigInt(value) : value);
const print = (value) =>
  JSON.stringify(value, (_, it) => (typeof it === "bigint" ? `${it}` : it)).replace(/"offset":"(\d+)"/g, '"offset":$1');

class Client {
  lost = null; // why there is no connection
  waiting = []; // calls, in the order of the requests, which is that of the replies
  devices = new Map();
  files = [];
  isAttached = false;

  constructor(path) {
    let received = "";
    this.socket = net.connect(path).setEncoding("utf8");
    this.socket.on("data", (text) => {
      const messages = (received + text).split("\0"); // a NUL, and nothing else, ends a message
      received = messages.pop();
      for (const { error, parameters } of messages.map(parse)) {
        const call = this.waiting.shift(); // none for an error that says why the daemon is to close the connection
        if (!error) call?.resolve(parameters);
        else if (error.endsWith(".ShuttingDown")) call?.reject(new Lost(error)); // soon there is another daemon
        else call?.reject(new Error(`${error} ${print(parameters ?? {})}`));
      }
    });
    this.socket.on("error", (error) => (this.lost = new Lost(error.message)));
    this.socket.on("close", () => {
      this.lost ??= new Lost("the connection is closed");
      for (const { reject } of this.waiting.splice(0)) reject(this.lost);
      // No write is under way, since each returns before the next event. The lease, opened first, is given up last.
      for (const file of this.files.splice(0).reverse()) fs.closeSync(file);
    });
  }

  async call(method, parameters = {}) {
    if (this.lost) throw this.lost;
    this.socket.write(`${print({ method: `io.bcached.Allocator.${method}`, parameters })}\0`);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  open(path, access) {
    return this.files[this.files.push(fs.openSync(path, access | fs.constants.O_NOFOLLOW)) - 1];
  }

  async attach() {
    const { lease_path, devices } = await this.call("Describe");
    // The lease, before the first write. Node cannot lock a file, but a lock by flock belongs to the open file: it
    // stays when the child that took it on our descriptor has ended.
    const stdio = ["ignore", "ignore", "inherit", this.open(lease_path, fs.constants.O_RDONLY)];
    if (spawnSync("flock", ["--shared", "--nonblock", "3"], { stdio }).status !== 0)
      throw new Error(`no lease (flock --shared ${lease_path} is refused), so nothing may be written`);
    const { maps } = await this.call("MapGens");
    for (const device of devices) {
      // Node has no aligned memory, hence no O_DIRECT; the page cache needs blocks of whole pages.
      if ((device.block_sectors * SECTOR) % PAGE) throw new Error("blocks are smaller than a page");
      device.data = this.open(device.data_path, fs.constants.O_RDWR);
      device.gens = this.open(maps.find((map) => map.device === device.device).path, fs.constants.O_RDONLY);
      const { magic, version, buckets } = this.header(device);
      if (magic !== 0x736e656764636362n || version !== 1n || buckets !== BigInt(device.bucket_count))
        throw new Error("MapGens names a file that is no map of the device's gens");
      this.devices.set(device.device, device);
    }
    this.isAttached = true;
  }

  // Read or write all of the data; without the connection nothing is reserved, and the files are closed.
  transfer(how, file, data, position) {
    if (this.lost) throw this.lost;
    if (how(file, data, 0, data.length, position) !== data.length) throw new Error("a file or device is too short");
    return data;
  }

  // Of a map of gens. Node has no mmap, but a read sees the same bytes.
  header({ gens }) {
    const bytes = this.transfer(fs.readSync, gens, Buffer.alloc(40), 0);
    const [magic, version, buckets, life, epoch] = [0, 8, 16, 24, 32].map((at) => bytes.readBigUInt64LE(at));
    return { magic, version, buckets, life, epoch };
  }

  // Whether what was read at a pointer is what its key says, if it was valid then. Call it after the read.
  async isCurrent({ sector, gen }, device, then) {
    // 1. The gen, before the header: one that is read after the daemon's end proves nothing.
    const position = 4096 + Math.floor(sector / device.bucket_sectors);
    const [found] = this.transfer(fs.readSync, device.gens, Buffer.alloc(1), position);
    // 2. The header: the same run of the daemon, and no time for a gen to wrap around.
    const { life, epoch } = this.header(device);
    if (found !== gen || !life || life !== then.life || epoch - then.epoch > 1n) return false;
    // 3. The connection: a killed daemon has no time to clear its life. Node learns of the end of a connection some
    // time later; a reply proves that it was open.
    await this.call("Describe");
    return true;
  }

  async put(inode, offset, data) {
    const unit = [...this.devices.values()][0].block_sectors * SECTOR;
    const padded = Buffer.concat([data, Buffer.alloc((unit - (data.length % unit)) % unit)]);
    const { keys } = await this.call("Allocate", { inode, offset, sectors: padded.length / SECTOR, whole: true });
    try {
      for (const key of keys) {
        const start = Number(key.offset - offset) * SECTOR;
        for (const { device, sector } of key.pointers) {
          await events(); // such as the end of the connection
          const part = padded.subarray(start, start + key.sectors * SECTOR);
          this.transfer(fs.writeSync, this.devices.get(device).data, part, sector * SECTOR);
        }
      }
      await this.call("Commit", { keys });
    } catch (error) {
      if (!(error instanceof Lost)) await this.call("Release", { keys }).catch(() => {});
      throw error;
    }
  }

  // Yields [offset, data] of what is kept and valid, in order.
  async *get(inode, offset, sectors) {
    const end = offset + BigInt(sectors);
    for (let from = offset, tries = TRIES; from < end; ) {
      // The instant, before the look-up: or a reuse between the two goes unseen.
      const then = new Map([...this.devices].map(([number, device]) => [number, this.header(device)]));
      const { keys, next } = await this.call("Lookup", { inode, offset: from, sectors: Number(end - from) });
      from = next ?? end;
      for (const key of keys) {
        const data = await this.read(key, then);
        if (data) yield [key.offset, data];
        else if (--tries) from = key.offset; // reused meanwhile: look up again from here on
        else throw new Error("the buckets are reused faster than they are read");
        if (!data) break;
      }
    }
  }

  async read({ sectors, pointers }, then) {
    for (const pointer of pointers) {
      const device = this.devices.get(pointer.device);
      const data = this.transfer(fs.readSync, device.data, Buffer.alloc(sectors * SECTOR), pointer.sector * SECTOR);
      if (await this.isCurrent(pointer, device, then.get(pointer.device))) return data;
    }
    return null;
  }

  async close() {
    if (!this.socket.closed) await new Promise((done) => this.socket.once("close", done).destroy());
  }
}

const [path, volume] = process.argv.slice(2);
if (volume === undefined) {
  console.error("usage: node client.mjs SOCKET INODE < COMMANDS");
  process.exit(2);
}
let client;

async function run(line) {
  const [verb, offset, ...rest] = line.trim().split(/\s+/);
  if (verb === "put" && rest.length === 1) {
    const data = fs.readFileSync(rest[0]);
    await client.put(Number(volume), BigInt(offset), data);
    return `kept ${data.length} bytes`;
  }
  if (verb !== "get" || rest.length !== 2) throw new Error(`not a command: ${line}`);
  const [sectors, file] = [Number(rest[0]), fs.openSync(rest[1], "w")];
  let found = 0;
  try {
    fs.ftruncateSync(file, sectors * SECTOR);
    for await (const [at, data] of client.get(Number(volume), BigInt(offset), sectors))
      found += fs.writeSync(file, data, 0, data.length, Number(at - BigInt(offset)) * SECTOR) / SECTOR;
  } finally {
    fs.closeSync(file);
  }
  return `found ${found} sectors`;
}

async function answer(line) {
  for (let waitedMs = 0, pauseMs = 10; ; waitedMs += pauseMs, pauseMs = Math.min(2 * pauseMs, 1000)) {
    try {
      client ??= new Client(path);
      if (!client.isAttached) await client.attach();
      return await run(line);
    } catch (error) {
      // Files of a daemon's run go with it: if it has ended meanwhile, that is the reason.
      const reason = error instanceof Lost ? error : await client.call("Describe").then(() => error, (lost) => lost);
      if (reason instanceof Lost || !client.isAttached) client = await client.close();
      if (!(reason instanceof Lost)) return `refused: ${reason.message}`;
      if (waitedMs > PATIENCE_MS)
        return `refused: no connection to ${path} (${reason.message}): start the daemon, and repeat the command`;
    }
    await pause(pauseMs); // then again from the beginning: reservations and gens ended with the connection
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) console.log(await answer(line));
await client?.close();
