"""Reads our `.ds` and `.bin`/`.idx` files with datatrove and Megatron themselves, and has them write the same
documents: all bytes must be equal.

Run: CORPUSMITH_TRAIN_OUT=/tmp/run cargo test --release -p corpusmith-model --test sample_run
     pip install torch datatrove==0.10.1 && pip install --no-deps megatron-core==0.16.1
     python token_files.py /tmp/run
"""

import filecmp
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from datatrove.utils.dataset import DatatroveFileDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

root = Path(sys.argv[1])
shard = sorted((root / "shards").glob("*.bin"))[0].read_bytes()
count, documents = (int.from_bytes(shard[at : at + 8], "little") for at in (16, 24))
tokens = np.frombuffer(shard, np.uint16, count, 128)
starts = np.frombuffer(shard[len(shard) - 8 * documents :], np.uint64).astype(int)
texts = [tokens[start:end] for start, end in zip(starts, [*starts[1:], count])]

# Read by the others.
windows = DatatroveFileDataset(str(root / "tokens.ds"), seq_len=63, return_positions=True)
assert len(windows) == count // 64
for index in (0, 1, len(windows) - 1):
    assert (windows[index]["input_ids"].numpy() == tokens[64 * index :][:64]).all()
read = IndexedDataset(str(root / "megatron"))
assert len(read) == documents and all((read[i] == text).all() for i, text in enumerate(texts))

# Written by the others.
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    ours = TokenizedFile(str(folder), "tokens.ds", tokenizer_name_or_path="tokenizer", save_final_metadata=True)
    builder = IndexedDatasetBuilder(str(folder / "megatron.bin"), dtype=np.uint16)
    for text in texts:
        ours.write(text.tolist(), None)
        builder.add_document(torch.from_numpy(text.astype(np.int32)), [len(text)])
    ours.close()
    builder.finalize(str(folder / "megatron.idx"))
    for name in ("tokens.ds", "tokens.ds.index", "megatron.bin", "megatron.idx"):
        assert filecmp.cmp(root / name, folder / name, shallow=False), name
    # The third line is the count for people.
    lines = [(place / "tokens.ds.metadata").read_text().split("\n") for place in (root, folder)]
    assert lines[0][:2] == lines[1][:2], lines
print(f"{documents} documents, {count} tokens: read by and equal to datatrove's and Megatron's")
