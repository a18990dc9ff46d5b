"""Runs an exported ONNX graph in onnxruntime beside the exported weights in transformers, and compares logits: all
tokens at once, one by one from the cache, and a batch filled up on its left.

    pip install onnxruntime torch transformers
    pipeline export runs/cosmopedia_v2/sample/model --tokenizer runs/cosmopedia_v2/sample/tokenizer --onnx --out /tmp/m
    python model/tests/parity/check_onnx.py /tmp/m
"""

import sys
from pathlib import Path

import numpy
import onnxruntime
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-3
TEXTS = [
    "The sea was calm, and the ships lay in the harbour until the morning.",
    "def area(width, height):\n    return width",
]

folder = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
config = model.config
heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
layers = range(config.num_hidden_layers)

# The names of Optimum's export of a Llama model for text generation.
inputs = ["input_ids", "attention_mask", "position_ids"]
inputs += [f"past_key_values.{layer}.{part}" for layer in layers for part in ("key", "value")]
outputs = ["logits"] + [f"present.{layer}.{part}" for layer in layers for part in ("key", "value")]
assert [value.name for value in session.get_inputs()] == inputs
assert [value.name for value in session.get_outputs()] == outputs


def run(ids, mask, positions, cache=None):
    if cache is None:
        cache = [numpy.zeros((len(ids), heads, 0, size), numpy.float32)] * (2 * len(layers))
    arrays = [numpy.asarray(values, numpy.int64) for values in (ids, mask, positions)]
    logits, *cache = session.run(outputs, dict(zip(inputs, [*arrays, *cache])))
    return logits, cache


def expected(ids, mask, positions):
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    with torch.no_grad():
        return model(**{name: torch.tensor(values) for name, values in arguments.items()}).logits.numpy()


def report(what, ours, theirs):
    difference = numpy.abs(ours - theirs).max()
    print(f"{what}: largest difference of a logit {difference:.1e}, of logits up to {numpy.abs(theirs).max():.1f}")
    assert difference < LIMIT and (ours.argmax(-1) == theirs.argmax(-1)).all()


for text in TEXTS:
    ids = tokenizer(text)["input_ids"]
    ones, positions = [1] * len(ids), list(range(len(ids)))
    theirs = expected([ids], [ones], [positions])
    ours, _ = run([ids], [ones], [positions])
    report("all at once", ours, theirs)
    cache, steps = None, []
    for at, token in enumerate(ids):
        logits, cache = run([[token]], [ones[: at + 1]], [[at]], cache)
        steps.append(logits[:, 0])
    report("one by one ", numpy.stack(steps, 1), theirs)

batch = [tokenizer(text)["input_ids"] for text in TEXTS]
longest = max(map(len, batch))
mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch]
positions = [[0] * (longest - len(ids)) + list(range(len(ids))) for ids in batch]
batch = [[0] * (longest - len(ids)) + ids for ids in batch]
theirs, (ours, _) = expected(batch, mask, positions), run(batch, mask, positions)
seen = numpy.asarray(mask, bool)
report("in a batch ", ours[seen], theirs[seen])

ids = tokenizer(TEXTS[0])["input_ids"][:4]
with torch.no_grad():
    theirs = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=None)[0].tolist()
ours, cache, new = list(ids), None, ids
while len(ours) < len(theirs):
    at = len(ours) - len(new)
    logits, cache = run([new], [[1] * len(ours)], [list(range(at, len(ours)))], cache)
    new = [int(logits[0, -1].argmax())]
    ours += new
print(f"greedy: {tokenizer.decode(ours)!r}")
assert ours == theirs, tokenizer.decode(theirs)
print("all hold")
