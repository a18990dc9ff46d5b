"""Our exports in llama.cpp: each GGUF type predicts the same texts there and here.

    pip install llama-cpp-python==0.3.36 numpy        (compiles llama.cpp; needs cmake, which pip brings)
    python model/tests/parity/perplexity_llama_cpp.py target/release/pipeline texts.jsonl [model.gguf]

The model (by default the embedded one, of `pipeline assets pull`) is imported, exported in every type, and asked
to predict the column `text` of up to TEXTS texts, each after <|endoftext|>, in windows of its context. Tokens
must be the same, and perplexities within 1 %.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp.llama_cpp as api
import numpy
from llama_cpp import Llama

TYPES = ["f16", "q8_0", "q4_0", "q4_1", "q4_k_m"]
TEXTS = int(os.environ.get("TEXTS", "40"))
LIMIT = 0.01
END_OF_TEXT = 0

WORKFLOW = """
name = "exports"
[stage.model]
kind = "import_model"
path = {model}
[stage.export]
kind = "export"
inputs = {{ model = "model", tokenizer = "model" }}
gguf = {types}
"""


DEFAULTS = api.llama_model_default_params


def without_amx():
    """llama.cpp's AMX kernels crash on virtual machines that show AMX and do not grant it."""
    params = DEFAULTS()
    params.use_extra_bufts = False
    return params


api.llama_model_default_params = without_amx


def exports(program, model, folder):
    workflow = folder / "exports.toml"
    workflow.write_text(WORKFLOW.format(model=json.dumps(str(model)), types=json.dumps(TYPES)))
    subprocess.run([program, "run", workflow, "--runs", folder / "runs"], check=True, stdout=subprocess.DEVNULL)
    return folder / "runs/exports/sample/export/gguf"


def ours(program, file, texts):
    said = subprocess.run(
        [program, "eval", file, "--json", "--task", f"perplexity={texts}", "--max-items", str(TEXTS)],
        check=True, capture_output=True, text=True)
    return json.loads(said.stdout)["report"]


def theirs(file, texts):
    llama = Llama(str(file), n_ctx=0, logits_all=True, verbose=False, n_threads=os.cpu_count())
    window, tokens, nats = llama.n_ctx(), 0, 0.0
    for text in texts:
        document = [END_OF_TEXT] + llama.tokenize(text.encode(), add_bos=False, special=False)
        for start in range(0, len(document) - 1, window - 1):
            part = document[start:start + window]
            llama.reset()
            llama.eval(part)
            logits = llama.scores[:len(part) - 1].astype(numpy.float64)
            most = logits.max(axis=1)
            total = most + numpy.log(numpy.exp(logits - most[:, None]).sum(axis=1))
            nats += float((total - logits[numpy.arange(len(part) - 1), part[1:]]).sum())
            tokens += len(part) - 1
    return tokens, nats


def main():
    program, file = sys.argv[1:3]
    assets = os.environ.get("CORPUSMITH_ASSETS", os.path.expanduser("~/.cache/corpusmith/assets"))
    model = sys.argv[3] if len(sys.argv) > 3 else os.path.join(assets, "SmolLM2-135M-Instruct.Q4_1.gguf")
    texts = [json.loads(line)["text"] for line in open(file, encoding="utf-8")][:TEXTS]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = exports(program, pathlib.Path(model).resolve(), pathlib.Path(folder))
        print("| type | tokens | ours | llama.cpp | apart |\n|---|---:|---:|---:|---:|")
        for kind in TYPES:
            path = folder / f"model-{kind}.gguf"
            here = ours(program, path, file)
            tokens, nats = theirs(path, texts)
            there = float(numpy.exp(nats / tokens))
            apart = here["per_token"] / there - 1
            print(f"| {kind} | {tokens:,} | {here['per_token']:.4f} | {there:.4f} | {100 * apart:+.3f} % |")
            failed |= here["tokens"] != tokens or abs(apart) > LIMIT
    if failed:
        sys.exit("tokens differ, or perplexities by more than 1 %")


main()
