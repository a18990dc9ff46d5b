// The page in a headless Chromium: the model goes on from a text as `pipeline generate` does.
//
//   node test.mjs [folder of a model] [pipeline]
//
// CHROMIUM names the browser where it is not in a usual place.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import puppeteer from "puppeteer-core";
import { serve } from "./serve.mjs";

const PROMPTS = ["The function", "Students learn that"];
const TOKENS = 24;
const BROWSERS = [
  process.env.CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

const [model = "../runs/cosmopedia_v2/sample/export/model", pipeline = "../target/release/pipeline"] =
  process.argv.slice(2);
const executablePath = BROWSERS.find((path) => path && existsSync(path));
assert(executablePath, "there is no Chromium: install one (apt-get install chromium), or name it in CHROMIUM");

const server = await serve(resolve(model), 0);
const address = `http://localhost:${server.address().port}`;
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox"] });
try {
  for (const path of ["/../package.json", "/model/..%2f..%2f..%2fREADME.md", "/node_modules/%2e%2e/package.json"]) {
    assert.equal((await fetch(address + path)).status, 404, path);
  }
  const page = await browser.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  await page.goto(address);
  const status = () => page.$eval("#status", (status) => status.textContent);
  await page.waitForFunction(() => !/being loaded/.test(document.getElementById("status").textContent), {
    timeout: 120_000,
  });
  assert.match(await status(), /is ready/);
  await page.$eval("#tokens", (input, tokens) => (input.value = tokens), TOKENS);
  for (const prompt of PROMPTS) {
    await page.$eval("#prompt", (area, prompt) => (area.value = prompt), prompt);
    await page.click("button");
    await page.waitForFunction(() => !document.querySelector("button").disabled, { timeout: 120_000 });
    const found = await page.$eval("#text", (text) => text.textContent);
    const greedy = ["--max-tokens", String(TOKENS), "--temperature", "0", "--repetition-penalty", "1"];
    const args = ["generate", resolve(model), prompt, ...greedy];
    const expected = execFileSync(resolve(pipeline), args, { encoding: "utf8" });
    assert.equal(found.slice(prompt.length).trim(), expected.trim(), prompt);
    console.log(`${JSON.stringify(found)}\n  ${await status()}`);
  }
  assert.deepEqual(faults, []);
} finally {
  await browser.close();
  server.close();
}
