// SPDX-License-Identifier: MIT
// A complete client of bcached in JavaScript, for Node and without a package: reserve, write, commit; look up,
// read, check; connect again. docs/client.md says why each step is as it is.
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
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";

const SECTOR = 512;
const TRIES = 16; // of data whose bucket is reused while it is read
const PATIENCE_MS = 20_000; // with a daemon that is away, or ends again and again
const { O_RDONLY, O_RDWR, O_NOFOLLOW } = fs.constants;
const PAGE = Number(spawnSync("getconf", ["PAGESIZE"]).stdout);

const read = promisify(fs.read);
const write = promisify(fs.write);

class Lost extends Error {} // no connection: connect again, and repeat all of what was being done
class Refused extends Error {}

// JSON.parse turns integers into doubles, which are exact up to 2^53 only; offsets go up to 2^62. So long ones
// become BigInt here, behind a mark that JSON cannot contain unescaped, and leave as plain digits again.
const LONG = /("(?:[^"\\]|\\.)*")|(?<![\d.eE+-])(-?\d{16,})(?![\d.eE])/g;
const parse = (text) =>
  JSON.parse(text.replace(LONG, (_, string, digits) => string ?? `"\\u0001${digits}"`), (_, value) =>
    typeof value === "string" && value.startsWith("\u0001") ? BigInt(value.slice(1)) : value);
const print = (value) =>
  JSON.stringify(value, (_, it) => (typeof it === "bigint" ? `\u0001${it}` : it)).replace(/"\\u0001(-?\d+)"/g, "$1");

class Client {
  #waiting = []; // replies come in the order of the requests
  #received = Buffer.alloc(0);
  #lost = null; // why there is no connection
  #writes = 0; // under way

  static async connect(path) {
    const client = new Client();
    try {
      await client.#attach(path);
    } catch (error) {
      // What was amiss may be that the daemon has ended: files of its run, the lease for one, go with it.
      const reason = await client.call("Describe").then(() => error, (lost) => lost);
      await client.close();
      throw reason;
    }
    return client;
  }

  async call(method, parameters = {}) {
    if (this.#lost) throw this.#lost;
    this.socket.write(`${print({ method: `io.bcached.Allocator.${method}`, parameters })}\0`);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #take(data) {
    this.#received = Buffer.concat([this.#received, data]);
    for (let end; (end = this.#received.indexOf(0)) >= 0; ) {
      const { error, parameters } = parse(this.#received.subarray(0, end).toString());
      this.#received = this.#received.subarray(end + 1);
      const call = this.#waiting.shift();
      if (!error) call?.resolve(parameters);
      else if (error.endsWith(".ShuttingDown")) call?.reject(new Lost(error)); // soon there is another daemon
      else call?.reject(new Refused(`${error} ${print(parameters ?? {})}`));
    }
  }

  #end(reason) {
    this.#lost ??= new Lost(reason);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#lost);
    this.#settle();
  }

  // The next daemon waits for the lease: give it up as soon as no write is under way, also between commands.
  #settle() {
    if (!this.#lost || this.#writes || this.lease === undefined) return;
    fs.closeSync(this.lease);
    this.lease = undefined;
  }

  async #attach(path) {
    this.socket = net.connect(path);
    this.socket.on("data", (data) => this.#take(data));
    this.socket.on("error", (error) => this.#end(error.message));
    this.socket.on("close", () => this.#end("closed by the daemon"));
    const { lease_path, devices } = await this.call("Describe");
    // The lease, before the first write. Node cannot lock a file, but a lock by flock belongs to the open file:
    // it stays when the child that took it on our descriptor has ended.
    this.lease = fs.openSync(lease_path, O_RDONLY | O_NOFOLLOW);
    const stdio = ["ignore", "ignore", "inherit", this.lease];
    if (spawnSync("flock", ["--shared", "--nonblock", "3"], { stdio }).status !== 0)
      throw new Refused("no lease, so nothing may be written");
    const { maps } = await this.call("MapGens");
    this.devices = new Map(devices.map((device) => [device.device, this.#open(device, maps)]));
    this.blockSectors = devices[0].block_sectors;
  }

  #open(device, maps) {
    // Node has no aligned memory, hence no O_DIRECT; the page cache needs blocks of whole pages.
    if ((device.block_sectors * SECTOR) % PAGE) throw new Refused("blocks are smaller than a page");
    const { path } = maps.find((map) => map.device === device.device);
    const map = fs.openSync(path, O_RDONLY | O_NOFOLLOW); // Node has no mmap, but a read sees the same bytes
    const header = this.#header(map);
    if (header.magic !== 0x736e656764636362n || header.version !== 1n || header.buckets !== BigInt(device.bucket_count))
      throw new Refused(`${path} is no map of gens of this device`);
    return { ...device, map, data: fs.openSync(device.data_path, O_RDWR | O_NOFOLLOW) };
  }

  #header(map) {
    const bytes = Buffer.alloc(40);
    fs.readSync(map, bytes, 0, 40, 0);
    const [magic, version, buckets, life, gcEpoch] = [0, 8, 16, 24, 32].map((at) => bytes.readBigUInt64LE(at));
    return { magic, version, buckets, life, gcEpoch };
  }

  // Take it before a look-up, or a reuse between the two goes unseen.
  now() {
    return new Map([...this.devices].map(([number, { map }]) => [number, this.#header(map)]));
  }

  // Whether what was read at a pointer is what its key says, if it was valid then. Call it after the read.
  async isCurrent({ device, sector, gen }, then) {
    const { map, bucket_sectors } = this.devices.get(device);
    const found = Buffer.alloc(1);
    // 1. The gen, before the header: one that is read after the daemon's end proves nothing.
    fs.readSync(map, found, 0, 1, 4096 + Math.floor(sector / bucket_sectors));
    // 2. The header: the same run of the daemon, and no time for a gen to wrap around.
    const [past, header] = [then.get(device), this.#header(map)];
    if (found[0] !== gen || !past.life || header.life !== past.life || header.gcEpoch - past.gcEpoch > 1n) return false;
    // 3. The connection: a killed daemon has no time to clear its life. Node learns of the end of a connection
    // some time later; an answer proves that it was open.
    await this.call("Describe");
    return true;
  }

  async put(inode, offset, data) {
    const unit = this.blockSectors * SECTOR;
    const padded = Buffer.concat([data, Buffer.alloc((unit - (data.length % unit)) % unit)]);
    const { keys } = await this.call("Allocate", { inode, offset, sectors: padded.length / SECTOR, whole: true });
    try {
      for (const key of keys) {
        const start = Number(BigInt(key.offset) - offset) * SECTOR;
        for (const pointer of key.pointers)
          await this.#write(pointer, padded.subarray(start, start + key.sectors * SECTOR));
      }
    } catch (error) {
      if (!(error instanceof Lost)) await this.call("Release", { keys });
      throw error;
    }
    await this.call("Commit", { keys });
  }

  async #write({ device, sector }, data) {
    if (this.#lost) throw this.#lost; // without the connection nothing is reserved
    this.#writes++;
    const { bytesWritten } = await write(this.devices.get(device).data, data, 0, data.length, sector * SECTOR).finally(
      () => (this.#writes--, this.#settle()),
    );
    if (bytesWritten !== data.length) throw new Error("the device ends before the extent does");
  }

  // Yields [offset, data] of what is kept and valid, in order.
  async *get(inode, offset, sectors) {
    const end = offset + BigInt(sectors);
    let tries = TRIES;
    for (let from = offset; from < end; ) {
      const then = this.now();
      const { keys, next } = await this.call("Lookup", { inode, offset: from, sectors: Number(end - from) });
      from = BigInt(next ?? end);
      for (const key of keys) {
        const data = await this.#read(key, then);
        if (data) yield [BigInt(key.offset), data];
        else if (--tries) from = BigInt(key.offset); // reused meanwhile: look up again from here on
        else throw new Refused("the buckets are reused faster than they are read");
        if (!data) break;
      }
    }
  }

  async #read(key, then) {
    const data = Buffer.alloc(key.sectors * SECTOR);
    for (const pointer of key.pointers) {
      const { data: file } = this.devices.get(pointer.device);
      const { bytesRead } = await read(file, data, 0, data.length, pointer.sector * SECTOR);
      if (bytesRead === data.length && (await this.isCurrent(pointer, then))) return data;
    }
    return null;
  }

  // No reply and no write may be under way.
  async close() {
    if (!this.socket.closed) await new Promise((done) => this.socket.once("close", done).destroy());
    this.#end("closed");
    for (const { data, map } of this.devices?.values() ?? []) [data, map].forEach((file) => fs.closeSync(file));
  }
}

const [path, volume] = process.argv.slice(2);
if (volume === undefined) {
  console.error("usage: node client.mjs SOCKET INODE < COMMANDS");
  process.exit(2);
}
const inode = Number(volume);
let client = null;

async function run(line) {
  const [verb, offset, ...rest] = line.trim().split(/\s+/);
  const first = BigInt(offset ?? 0);
  if (verb === "put" && rest.length === 1) {
    const data = fs.readFileSync(rest[0]);
    await client.put(inode, first, data);
    return `kept ${data.length} bytes`;
  }
  if (verb !== "get" || rest.length !== 2) throw new Refused(`not a command: ${line}`);
  const file = fs.openSync(rest[1], "w");
  let found = 0;
  try {
    fs.ftruncateSync(file, Number(rest[0]) * SECTOR);
    for await (const [at, data] of client.get(inode, first, Number(rest[0]))) {
      fs.writeSync(file, data, 0, data.length, Number(at - first) * SECTOR);
      found += data.length / SECTOR;
    }
  } finally {
    fs.closeSync(file);
  }
  return `found ${found} sectors`;
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  // Lost: reservations and gens are void. Connect with growing pauses, and begin the command again.
  for (let waitedMs = 0, pauseMs = 10, said = null; said === null; waitedMs += pauseMs) {
    try {
      client ??= await Client.connect(path);
      said = await run(line);
    } catch (error) {
      if (!(error instanceof Lost)) said = `refused: ${error.message}`;
      else {
        await client?.close();
        client = null;
        if (waitedMs > PATIENCE_MS)
          said = `refused: no connection to ${path} (${error.message}): start the daemon, and repeat the command`;
        else await pause((pauseMs = Math.min(2 * pauseMs, 1000)));
      }
    }
    if (said !== null) console.log(said);
  }
}
await client?.close();
