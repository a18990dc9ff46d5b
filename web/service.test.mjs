// The service's page in a headless Chromium, with real runs behind it: a run is started by hand, watched to
// its end, and looked into; every page is checked with axe-core in light and dark; hostile texts stay texts.
//
//   node service.test.mjs [pipeline] [folder for screenshots]

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const BROWSERS = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const [pipeline = "../target/release/pipeline", shots] = process.argv.slice(2);
const executablePath = BROWSERS.find((path) => path && existsSync(path));
assert(executablePath, "there is no Chromium: install one (apt-get install chromium), or name it in CHROMIUM");
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const PAYLOADS = [
  "<script>document.title='owned'</script>",
  "<img src=x onerror=\"document.title='owned'\">",
  "\"><svg onload=document.title='owned'>",
  "javascript:document.title='owned'",
  "</pre><script>document.title='owned'</script>",
  "{{constructor.constructor('document.title=1')()}}",
  "' onmouseover='document.title=1",
  "<a href=\"http://evil.example/\">x</a><link rel=stylesheet href=//evil.example/x.css>",
  "\u202Egnp.exe \u0000 \uFFFD",
];

const home = mkdtempSync(join(tmpdir(), "corpusmith-page-"));
mkdirSync(join(home, "workflows"));
mkdirSync(join(home, "data"));
const rows = Array.from({ length: 300 }, (_, n) => ({
  id: `d${n}`,
  n,
  text: `${PAYLOADS[n % PAYLOADS.length]} ${"word ".repeat(60)}`,
  [PAYLOADS[1]]: PAYLOADS[n % PAYLOADS.length],
}));
writeFileSync(join(home, "rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
const stages = (name) => `name = "${name}"
description = ${JSON.stringify(PAYLOADS[0])}
[stage.pages]
kind = "read"
paths = [${JSON.stringify(join(home, "rows.jsonl"))}]
[stage.kept]
kind = "sql"
inputs = { tables = ["pages"] }
query = "SELECT * FROM pages WHERE n > 9 ORDER BY id"
`;
writeFileSync(join(home, "workflows/good.toml"), `${stages("good")}[schedule]\ncron = "0 3 * * *"\ntimezone = "Europe/Berlin"\n`);
writeFileSync(join(home, "workflows/bad.toml"), stages("bad").replace('"read"', JSON.stringify(PAYLOADS[0])));

const service = spawn(resolve(pipeline), [
  "serve", "--listen", "127.0.0.1:0", "--data", join(home, "data"), "--workflows", join(home, "workflows"),
], { stdio: ["ignore", "pipe", "inherit"] });
const address = await new Promise((found, failed) => {
  createInterface(service.stdout).on("line", (line) => {
    const url = line.match(/http:\/\/\S+/);
    if (url) found(url[0]);
  });
  service.on("exit", () => failed(new Error("the service ended")));
});

const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];
let findings = 0;
try {
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 900 });
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => message.type() === "error" && !/status of 404|status of 422/.test(message.text()) && faults.push(message.text()));
  page.on("dialog", (dialog) => dialog.accept());
  page.on("request", (request) => request.url().startsWith(address) || request.url().startsWith("data:") || faults.push(`a request to ${request.url()}`));

  // Started by the keyboard alone: the first stop leads to the content.
  await page.goto(`${address}/workflows`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "To the content");
  await Promise.all([page.waitForNavigation(), page.click('form[action="/workflows"] button')]);
  await page.waitForFunction(() => document.querySelector(".state")?.textContent === "succeeded", { timeout: 60_000 });
  const run = page.url().slice(address.length);
  console.log(`watched ${run} to its end`);
  if (shots) await page.screenshot({ path: join(shots, "run.png"), fullPage: true });

  const data = "/data?path=runs/good/sample/kept";
  const places = [
    "/runs", run, "/workflows", "/schedules", "/data", data, `${data}&from=20&whole=1`, `${data}&view=columns`,
    `${data}&view=sql&q=${encodeURIComponent("SELECT * FROM data LIMIT 12")}`, `${data}&view=sql&q=wrong`,
    `${data}&view=trace&id=d50`, "/search", "/training", "/tokens", "/api", "/login", `${run}/report`,
    `${run}/compare`, "/runs/none", `/runs?q=${encodeURIComponent(PAYLOADS[0])}`,
  ];
  for (const scheme of ["light", "dark"]) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    for (const place of places) {
      await page.goto(address + place);
      assert.notEqual(await page.title(), "owned", place);
      assert.notEqual(await page.title(), "1", place);
      const scripts = await page.$$eval("main script, main img, main iframe, main link", (found) => found.length);
      assert.equal(scripts, 0, place);
      // axe is put in by the browser, past the page's policy, which allows no such thing.
      if (place.endsWith("/report")) continue;
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21aa"] }));
      for (const violation of violations) {
        const nodes = violation.nodes.slice(0, 3).map((node) => node.html).join("\n    ");
        console.log(`${scheme} ${place}: ${violation.impact} ${violation.id}\n    ${nodes}`);
        findings += ["serious", "critical"].includes(violation.impact) ? 1 : 0;
      }
      const name = place.replace(/[^a-z]+/gi, "_").slice(0, 40);
      if (shots) await page.screenshot({ path: join(shots, `${scheme}${name}.png`) });
    }
  }
  assert.equal(findings, 0, "serious findings of axe-core");
  assert.deepEqual(faults, []);
  console.log(`${places.length} pages in light and dark without serious findings, faults or outside requests`);
} finally {
  await browser.close();
  service.kill("SIGINT");
  await new Promise((ended) => service.on("exit", ended));
  rmSync(home, { recursive: true, force: true });
}
