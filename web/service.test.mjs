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


// Topics, their pages, and a model of a few steps that can be talked with; every text is a hostile one.
const hostile = (n) => `${PAYLOADS[n % PAYLOADS.length]} soil water leaf `;
const topics = Array.from({ length: 30 }, (_, n) => ({
  topic_id: `t${n}`, top_category: n < 20 ? `Nature ${PAYLOADS[1]}` : "Arts", subcategory: `${PAYLOADS[n % 3]} ${n % 4}`,
  subtopic: `soil water ${hostile(n)}`,
  // Words that stand in no page.
  ...(n % 5 ? {} : { top_category: "Zyzzyva", subcategory: "quokka", subtopic: "aardwolf" }),
}));
const lines = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
writeFileSync(join(home, "topics.jsonl"), lines(topics));
writeFileSync(join(home, "texts.jsonl"), lines(Array.from({ length: 200 }, (_, n) => ({
  id: `p${n}`, url: `http://example.org/${n}`, token_count: 60, language: "en", language_score: 0.9, dump: "d", text: hostile(n).repeat(12),
}))));
writeFileSync(join(home, "workflows/model.toml"), `name = "model"
[stage.topics]
kind = "read"
paths = [${JSON.stringify(join(home, "topics.jsonl"))}]
[stage.pages]
kind = "read"
paths = [${JSON.stringify(join(home, "texts.jsonl"))}]
[stage.index]
kind = "index"
input = "pages"
shards = 1
[stage.found]
kind = "retrieve"
inputs = { topics = "topics", index = "index", pages = "pages" }
pages_per_topic = 8
[stage.corpus]
kind = "mix"
inputs = { sources = ["pages"] }
heldout_share = 0.05
subsets = { a = { stage = "pages" } }
[stage.tokenizer]
kind = "tokenizer"
input = "corpus"
vocab_size = 400
[stage.tokens]
kind = "pack"
inputs = { corpus = "corpus", tokenizer = "tokenizer" }
[stage.base]
kind = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer", corpus = "corpus" }
weights = { a = 1.0 }
[stage.base.training]
model = { preset = "sample" }
context_tokens = 64
batch_sequences = 2
micro_batch_tokens = 128
steps = 4
warmup_steps = 1
cooldown_steps = 1
checkpoint_every_steps = 2
[stage.evaluation]
kind = "evaluate"
inputs = { model = "base", tokenizer = "tokenizer", corpus = "corpus" }
[stage.export]
kind = "export"
inputs = { model = "base", tokenizer = "tokenizer" }
gguf = ["q8_0"]
`);

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

  // A run that looks for the pages of topics and trains a model, then a talk with the model.
  await page.goto(`${address}/workflows`);
  await Promise.all([page.waitForNavigation(), page.click('form:has(input[value="model.toml"]) button')]);
  await page.waitForFunction(() => ["succeeded", "failed"].includes(document.querySelector(".state")?.textContent), { timeout: 120_000 });
  const trained = page.url().slice(address.length);
  assert.equal(await page.$eval(".state", (state) => state.textContent), "succeeded", await page.$eval("main", (main) => main.innerText));
  await page.goto(`${address}/topics`);
  // 6 of 30 topics hold words that stand in no page.
  assert.match(await page.$eval("main", (main) => main.innerText), /6 of 30 topics \(20\.0 %\) found fewer than 8 pages/);
  await page.goto(`${address}/models`);
  const models = await page.$$eval("main tbody tr", (rows) => rows.map((row) => row.innerText));
  assert.equal(models.length, 2, models.join("\n"));
  assert(models.every((row) => /\d,\d{3}/.test(row) && /\d\.\d{3}/.test(row)), `parameters and loss: ${models.join("\n")}`);
  await page.select('select[name="as"]', "text");
  await page.type("textarea", `${PAYLOADS[1]} soil`);
  await Promise.all([page.waitForNavigation({ timeout: 120_000 }), page.click("main form button")]);
  assert.equal(await page.$("main pre.error"), null, await page.$eval("main", (main) => main.innerText));
  const answer = await page.$eval("pre.answer", (pre) => pre.textContent);
  assert(answer.length > 0);
  assert.notEqual(await page.title(), "owned");
  console.log(`talked with a model: ${JSON.stringify(answer.slice(0, 60))}`);
  if (shots) await page.screenshot({ path: join(shots, "answer.png"), fullPage: true });

  const data = "/data?path=runs/good/sample/kept";
  const places = [
    "/runs", run, "/workflows", "/schedules", "/data", data, `${data}&from=20&whole=1`, `${data}&view=columns`,
    `${data}&view=sql&q=${encodeURIComponent("SELECT * FROM data LIMIT 12")}`, `${data}&view=sql&q=wrong`,
    `${data}&view=find&q=${encodeURIComponent("onerror= 'owned'")}`, `${data}&view=trace&id=d50`, "/search", "/training", "/tokens", "/api", "/login", `${run}/report`,
    `${run}/compare`, "/topics", "/topics?category=Arts&k=3", "/models", `${trained}/cost`, "/runs/none", `/runs?q=${encodeURIComponent(PAYLOADS[0])}`,
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
      if (shots) await page.screenshot({ path: join(shots, `${scheme}${name}.png`), fullPage: true });
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
