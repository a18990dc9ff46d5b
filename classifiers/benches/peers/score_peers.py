"""Runs onnxruntime for Python on the pages that the benchmark `score_peers` wrote, with the same models and as
many threads, and prints pages a second beside ours.

    pip install onnxruntime==1.31.1 tokenizers numpy
    python score_peers.py FOLDER ASSETS

The peer tokenises all pages at once (`encode_batch`, on all cores) and runs batches of 32, as the usual
recipe does: in the order of the pages, or sorted by length; and one page at a time. The fastest of three runs
counts.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BATCH, MAX_TOKENS, RUNS = 32, 512, 3


def embed(session, tokenizer, pages, batch, by_length):
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(pages)]
    order = sorted(range(len(pages)), key=lambda at: len(encoded[at])) if by_length else range(len(pages))
    order, vectors = list(order), [None] * len(pages)
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        longest = max(len(encoded[at]) for at in places)
        ids = np.array([encoded[at] + [0] * (longest - len(encoded[at])) for at in places], dtype=np.int64)
        mask = np.array([[1] * len(encoded[at]) + [0] * (longest - len(encoded[at])) for at in places], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = session.run(["last_hidden_state"], feeds)
        mean = (states * mask[:, :, None]).sum(1)
        for at, vector in zip(places, mean / np.linalg.norm(mean, axis=1, keepdims=True)):
            vectors[at] = vector
    return vectors


def main(folder, assets):
    folder, assets = Path(folder), Path(assets)
    pages = json.loads((folder / "pages.json").read_text())
    ours = json.loads((folder / "ours.json").read_text())
    tokenizer = Tokenizer.from_file(str(assets / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    print(f"{len(pages)} pages, up to {MAX_TOKENS} tokens, {os.cpu_count()} cores; pages a second\n")
    print("| model | way | pages a second | ours over it |\n|---|---|---|---|")
    for name, path in (("int8", assets / "model.onnx"), ("float", folder / "float.onnx")):
        rates = {way: rate for way, rate in ours.items() if way.startswith(name)}
        if not rates:
            continue
        best = max(rates.values())
        for way, rate in rates.items():
            print(f"| {name} | ours, {way.split(', ')[1]} | {rate:.1f} | |")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        session = onnxruntime.InferenceSession(path, options)
        for way, batch, by_length in (
            ("batches of 32", BATCH, False),
            ("batches of 32 by length", BATCH, True),
            ("page by page", 1, False),
        ):
            seconds = []
            for _ in range(RUNS):
                started = time.perf_counter()
                embed(session, tokenizer, pages, batch, by_length)
                seconds.append(time.perf_counter() - started)
            rate = len(pages) / min(seconds)
            print(f"| {name} | onnxruntime, {way} | {rate:.1f} | {best / rate:.2f} × |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
