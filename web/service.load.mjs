// Load on the service: CLIENTS clients that read, and LISTENERS that watch a run, for SECONDS.
//
//   node service.load.mjs http://127.0.0.1:8420 <run> [clients 200] [listeners 50] [seconds 60]
//
// CORPUSMITH_TOKEN is shown where it is set.

import assert from "node:assert/strict";
import { Agent, get } from "node:http";
import { performance } from "node:perf_hooks";

const [address, run, clients = "200", listeners = "50", seconds = "60"] = process.argv.slice(2);
assert(address && run, "name the service and one of its runs");
const headers = process.env.CORPUSMITH_TOKEN ? { authorization: `Bearer ${process.env.CORPUSMITH_TOKEN}` } : {};
const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
const PATHS = ["/api/v1/runs?limit=20", `/api/v1/runs/${run}`, "/api/v1/schedules", "/api/v1/pools", "/runs", "/health"];
const end = performance.now() + Number(seconds) * 1000;
const times = [];
const errors = new Map();
const count = (what) => errors.set(what, (errors.get(what) ?? 0) + 1);

function ask(path) {
  return new Promise((done) => {
    const start = performance.now();
    const request = get(address + path, { agent, headers }, (answer) => {
      answer.on("data", () => {});
      answer.on("end", () => {
        if (answer.statusCode !== 200) count(`${path}: ${answer.statusCode}`);
        times.push(performance.now() - start);
        done();
      });
    });
    request.on("error", (error) => { count(`${path}: ${error.code}`); done(); });
  });
}

async function client(number) {
  // People and dashboards pause between two looks.
  for (let turn = number; performance.now() < end; turn += 1) {
    await ask(PATHS[turn % PATHS.length]);
    await new Promise((go) => setTimeout(go, 100 + Math.random() * 200));
  }
}

let events = 0;
const open = [];
for (let n = 0; n < Number(listeners); n += 1) {
  const request = get(`${address}/api/v1/runs/${run}/live`, { headers }, (answer) => {
    if (answer.statusCode !== 200) count(`live: ${answer.statusCode}`);
    answer.on("data", (data) => { events += String(data).split("event: run").length - 1; });
  });
  request.on("error", (error) => { if (performance.now() < end) count(`live: ${error.code}`); });
  open.push(request);
}
await Promise.all(Array.from({ length: Number(clients) }, (_, number) => client(number)));
open.forEach((request) => request.destroy());
agent.destroy();
times.sort((a, b) => a - b);
const quantile = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))].toFixed(1);
console.log(`${times.length} answers to ${clients} clients in ${seconds} s, ${events} events to ${listeners} listeners`);
console.log(`median ${quantile(0.5)} ms, p99 ${quantile(0.99)} ms, longest ${quantile(1)} ms`);
console.log(errors.size ? Object.fromEntries(errors) : "no error");
process.exitCode = errors.size ? 1 : 0;
