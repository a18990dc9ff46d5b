// Loads the model under /model/ and lets it go on from a text, token by token: on the graphics card by WebGPU where
// the browser has it, else on the processor by WebAssembly.

import { AutoModelForCausalLM, AutoTokenizer, TextStreamer, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/";
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";

const element = (id) => document.getElementById(id);
const [form, button] = [element("form"), document.querySelector("button")];
const say = (text) => (element("status").textContent = text);

async function load() {
  const device = (await navigator.gpu?.requestAdapter()) ? "webgpu" : "wasm";
  const tokenizer = await AutoTokenizer.from_pretrained("model");
  const model = await AutoModelForCausalLM.from_pretrained("model", { dtype: "fp32", device });
  return { tokenizer, model, device };
}

async function goOn({ tokenizer, model, device }) {
  const prompt = element("prompt").value;
  const temperature = Number(element("temperature").value);
  element("text").textContent = prompt;
  let tokens = 0;
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => (element("text").textContent += text),
    token_callback_function: () => (tokens += 1),
  });
  const started = performance.now();
  await model.generate({
    ...tokenizer(prompt),
    max_new_tokens: Number(element("tokens").value),
    do_sample: temperature > 0,
    ...(temperature > 0 && { temperature }),
    streamer,
  });
  const seconds = (performance.now() - started) / 1000;
  say(`${tokens} tokens in ${seconds.toFixed(1)} s, ${(tokens / seconds).toFixed(1)} a second, by ${device}`);
}

try {
  const loaded = await load();
  say(`The model is ready, by ${loaded.device}.`);
  button.disabled = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await goOn(loaded);
    } catch (error) {
      say(`It cannot go on: ${error.message}`);
    }
    button.disabled = false;
  });
} catch (error) {
  say(`The model cannot be loaded: ${error.message}`);
}
