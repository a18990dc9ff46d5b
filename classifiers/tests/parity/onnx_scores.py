"""Checks that backbone and head as one ONNX file give, in onnxruntime for Python, the scores that this crate
gives with the two.

    pip install onnxruntime==1.31.1 onnx tokenizers numpy pyarrow
    cargo build --release -p corpusmith-classifiers --example export_onnx
    python classifiers/tests/parity/onnx_scores.py pages.parquet ASSETS classifiers/heads/edu_web_minilm.json \
        --example target/release/examples/export_onnx --texts 200

A head that counts features of the text gets them from `code_features.py`, which counts them in Python.

The texts are the first of the Parquet file's column `text`, and some odd ones. Each is run alone, as we do;
how far scores move in padded batches is printed too.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
from code_features import features
from tokenizers import Tokenizer

TOLERANCE = 1e-4
ODD = ["", " ", "a", "中文 and more", "word " * 3000, "\u0000\u202e", "😀" * 50]


def run(session, pages, texts):
    longest = max(map(len, pages))
    ids = np.array([page + [0] * (longest - len(page)) for page in pages], dtype=np.int64)
    mask = np.array([[1] * len(page) + [0] * (longest - len(page)) for page in pages], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    feeds["features"] = np.array([features(text) for text in texts], dtype=np.float32)
    names = {value.name for value in session.get_inputs()}
    (logits,) = session.run(["logits"], {name: value for name, value in feeds.items() if name in names})
    assert logits.shape == (len(pages), 1) and logits.dtype == np.float32, (logits.shape, logits.dtype)
    return logits[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages")
    parser.add_argument("assets", type=Path)
    parser.add_argument("head")
    parser.add_argument("--example", required=True)
    parser.add_argument("--texts", type=int, default=200)
    arguments = parser.parse_args()

    texts = ODD + pq.read_table(arguments.pages, columns=["text"])["text"][: arguments.texts].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        command = [arguments.example, arguments.assets, arguments.head, folder / "texts.jsonl", folder]
        subprocess.run(command, check=True)
        ours = np.array(json.loads((folder / "scores.json").read_text()), dtype=np.float32)
        onnx.checker.check_model(str(folder / "model.onnx"))
        session = onnxruntime.InferenceSession(folder / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    print("metadata:", metadata)

    tokenizer = Tokenizer.from_file(str(arguments.assets / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(metadata["corpusmith.max_tokens"]))
    pages = [tokenizer.encode(text).ids for text in texts]
    theirs = np.concatenate([run(session, [page], [text]) for page, text in zip(pages, texts)])
    distance = np.abs(theirs - ours)
    print(f"{len(texts)} texts, scores from {ours.min():.3f} to {ours.max():.3f}")
    print(f"largest difference {distance.max():.2e}, mean {distance.mean():.2e}")
    batches = [slice(at, at + 8) for at in range(0, len(pages), 8)]
    in_batches = np.concatenate([run(session, pages[batch], texts[batch]) for batch in batches])
    print(f"in batches of 8 the largest difference is {np.abs(in_batches - ours).max():.2e}")
    assert len(texts) >= 100 and distance.max() <= TOLERANCE, f"text {distance.argmax()}: {distance.max()}"


if __name__ == "__main__":
    main()
