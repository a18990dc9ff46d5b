// A server of static files for the demo: the page, the libraries, and a model's folder under /model/.
//
//   node serve.mjs [folder of a model with onnx/model.onnx] [port]

import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const MODEL = resolve(HERE, "../runs/cosmopedia_v2/sample/export/model");
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const HEADERS = {
  // Threads of WebAssembly share memory, which browsers allow to isolated pages alone.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cache-Control": "no-cache",
};

/** The file of a request, or nothing where the path leads out of the folders that are served. */
function fileOf(path, model) {
  const folders = { "/model/": model, "/node_modules/": join(HERE, "node_modules"), "/": join(HERE, "page") };
  const prefix = Object.keys(folders).find((prefix) => path.startsWith(prefix));
  const root = folders[prefix];
  const file = normalize(join(root, path.slice(prefix.length) || "index.html"));
  return file.startsWith(root + sep) ? file : undefined;
}

/** Serves a model's folder on this machine; the listening server. */
export function serve(model = MODEL, port = 8080) {
  const server = createServer((request, response) => {
    const refuse = (status, text) => response.writeHead(status, { "Content-Type": "text/plain" }).end(text);
    let file;
    let size;
    try {
      file = fileOf(decodeURIComponent(new URL(request.url, "http://localhost").pathname), model);
      size = file && statSync(file, { throwIfNoEntry: false });
    } catch {
      return refuse(400, "not an address of this page");
    }
    if (!size?.isFile()) return refuse(404, "there is no such file");
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": size.size });
    createReadStream(file).pipe(response);
  });
  return new Promise((done, fail) => {
    server.once("error", fail);
    server.listen(port, "127.0.0.1", () => done(server));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [model = MODEL, port = "8080"] = process.argv.slice(2);
  const file = join(resolve(model), "onnx", "model.onnx");
  if (!statSync(file, { throwIfNoEntry: false })) {
    console.error(`${file} is absent: make run leaves one, and so does pipeline export --onnx`);
    process.exit(2);
  }
  await serve(resolve(model), Number(port));
  console.log(`http://localhost:${port}/ shows ${resolve(model)}`);
}
