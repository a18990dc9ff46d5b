"""Peak memory of a short answer, by size of model and type of weights; a Markdown table.

    pip install numpy safetensors
    python model/benches/peers/memory_by_size.py target/release/pipeline [SIZE…]

The weights are random: memory does not depend on what they are. A model is laid out as `transformers` saves it,
taken in by `import_model`, exported as GGUF in all types, and asked with `pipeline generate` for 32 tokens behind
512. Its checkpoint in 32 bits is asked as well. The largest takes 25 GB of disk.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
from safetensors.numpy import save_file

# SmolLM's: hidden, intermediate, layers, heads, heads of keys and values (SmolLM blog post).
SIZES = {
    "135M": (576, 1536, 30, 9, 3),
    "360M": (960, 2560, 32, 15, 5),
    "1.7B": (2048, 8192, 24, 32, 32),
}
TYPES = ["f16", "q8_0", "q4_k_m", "q4_1", "q4_0"]
VOCABULARY = 49_152
ASSETS = os.environ.get("CORPUSMITH_ASSETS", os.path.expanduser("~/.cache/corpusmith/assets"))

IMPORT = """
name = "{name}"
[stage.model]
kind = "import_model"
path = "{path}"
[stage.export]
kind = "export"
inputs = {{ model = "model", tokenizer = "model" }}
gguf = {types}
"""


def lay_out(folder, size):
    """A folder that `transformers` would load, with weights of 16 bits."""
    hidden, intermediate, layers, heads, kv_heads = size
    random = numpy.random.default_rng(1)
    kv = hidden // heads * kv_heads
    weight = lambda *shape: (random.standard_normal(shape, dtype=numpy.float32) * 0.02).astype(numpy.float16)
    tensors = {
        "model.embed_tokens.weight": weight(VOCABULARY, hidden),
        "model.norm.weight": numpy.ones(hidden, dtype=numpy.float16),
    }
    for layer in range(layers):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}{norm}.weight"] = numpy.ones(hidden, dtype=numpy.float16)
        shapes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
        for part, shape in shapes.items():
            tensors[f"{name}self_attn.{part}_proj.weight"] = weight(*shape)
        for part in ("gate", "up"):
            tensors[f"{name}mlp.{part}_proj.weight"] = weight(intermediate, hidden)
        tensors[f"{name}mlp.down_proj.weight"] = weight(hidden, intermediate)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def run(pipeline, folder, name, path, types):
    (folder / f"{name}.toml").write_text(IMPORT.format(name=name, path=path, types=json.dumps(types)))
    said = subprocess.run([pipeline, "run", f"{name}.toml"], cwd=folder, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return folder / "runs" / name / "sample"


def peak_mib(pipeline, model):
    """The largest resident memory of a process that answers."""
    prompt = "one two three four " * 128
    command = [pipeline, "generate", str(model), prompt, "--max-tokens", "32", "--temperature", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return usage.ru_maxrss / 1024


def main():
    pipeline = str(pathlib.Path(sys.argv[1]).resolve())
    print("| | f32 | " + " | ".join(TYPES) + " |\n|---|" + "---|" * (1 + len(TYPES)))
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = pathlib.Path(name).resolve()
        # The tokenizer comes out of the embedded model's file.
        embedded = pathlib.Path(ASSETS) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        tokenizer = run(pipeline, folder, "embedded", embedded, []) / "export/model"
        for size in sys.argv[2:] or SIZES:
            model = folder / size
            model.mkdir()
            lay_out(model, SIZES[size])
            for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                shutil.copy(tokenizer / file, model / file)
            made = run(pipeline, folder, "model_" + size.replace(".", "_").lower(), model, TYPES)
            files = {path.name.lower(): path for path in made.glob("export/**/*.gguf")}
            row = [f"{peak_mib(pipeline, made / 'model'):,.0f} MiB"]
            for kind in TYPES:
                (file,) = [path for name, path in files.items() if name.endswith(f"{kind}.gguf")]
                row.append(f"{peak_mib(pipeline, file):,.0f} MiB ({file.stat().st_size / 2**20:,.0f})")
            print(f"| {size} | " + " | ".join(row) + " |", flush=True)
            shutil.rmtree(model)
            shutil.rmtree(made.parent)


if __name__ == "__main__":
    main()
