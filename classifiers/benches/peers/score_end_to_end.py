"""Educational scores from Parquet to Parquet, beside a script of onnxruntime for Python.

    pip install -r requirements.txt
    python score_end_to_end.py PIPELINE ASSETS PAGES.parquet [ROWS]

The script does what such scripts do, and well: batches of rows are tokenised on all cores, sorted by length over
512 pages, run 32 at a time by one session with as many threads as cores, and written as they come. The model is
the embedded MiniLM, the head `edu_web`. Of each the faster of two runs counts, program start and loading included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet as pq
from tokenizers import Tokenizer

WINDOW, BATCH, RUNS = 512, 32, 2
HEAD = Path(__file__).parents[2] / "heads/edu_web_minilm.json"
WORKFLOW = """
name = "score"
[stage.pages]
kind = "read"
paths = ["pages.parquet"]
materialize = false
[stage.score]
kind = "score"
input = "pages"
"""


def ours(pipeline, folder):
    (folder / "w.toml").write_text(WORKFLOW)
    subprocess.run(["rm", "-rf", folder / "runs"], check=True)
    subprocess.run([pipeline, "run", "w.toml"], cwd=folder, check=True, capture_output=True)


def theirs(assets, folder):
    head = json.loads(HEAD.read_text())
    weights, bias = np.array(head["weights"], dtype=np.float32), head["bias"]
    tokenizer = Tokenizer.from_file(str(assets / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(head["metadata"]["backbone"]["max_tokens"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(assets / "model.onnx", options)
    source, writer = pq.ParquetFile(folder / "pages.parquet"), None
    for rows in source.iter_batches(WINDOW):
        pages = [encoding.ids for encoding in tokenizer.encode_batch(rows["text"].to_pylist())]
        order, scores = sorted(range(len(pages)), key=lambda at: len(pages[at])), np.zeros(len(pages), np.float32)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            longest = len(pages[places[-1]])
            ids = np.array([pages[at] + [0] * (longest - len(pages[at])) for at in places], dtype=np.int64)
            mask = (np.arange(longest) < np.array([[len(pages[at])] for at in places])).astype(np.int64)
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (states,) = session.run(["last_hidden_state"], feeds)
            mean = (states * mask[:, :, None]).sum(1)
            scores[places] = mean / np.linalg.norm(mean, axis=1, keepdims=True) @ weights + bias
        whole = np.round(np.clip(scores, 0, 5)).astype(np.int64)
        table = pyarrow.Table.from_batches([rows])
        table = table.append_column("score", pyarrow.array(scores)).append_column("int_score", pyarrow.array(whole))
        writer = writer or pq.ParquetWriter(folder / "scored.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()


def fastest(work):
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main():
    pipeline, assets, pages = (Path(path).resolve() for path in sys.argv[1:4])
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 640
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pq.read_table(pages).slice(0, count), folder / "pages.parquet")
        mine, peer = fastest(lambda: ours(pipeline, folder)), fastest(lambda: theirs(assets, folder))
        tables = (pq.read_table(folder / path) for path in ("runs/score/sample/score/data", "scored.parquet"))
        columns = [np.array(table.sort_by("id")["score"].to_pylist()) for table in tables]
    print(f"{len(columns[0])} pages, {os.cpu_count()} cores")
    for who, seconds in (("ours", mine), ("onnxruntime for Python", peer)):
        print(f"{who}: {seconds:.1f} s, {len(columns[0]) / seconds:.1f} pages/s")
    print(f"ratio {peer / mine:.2f}; scores differ by {np.abs(columns[0] - columns[1]).max():.1e} at most")


if __name__ == "__main__":
    main()
