"""Decontaminates pages with planted copies of benchmark items, by this program and by a direct Python
version (n-grams in a dictionary, difflib), and prints how far they agree and how fast each is.

    pip install pyarrow
    python tests/parity/decontaminate_python.py target/release/pipeline pages.parquet gsm8k_train.jsonl…

Every tenth page gets an item at a random place, whole or with words left out. Benchmark files are lines of
JSON; all texts of an item count one by one. Both go from Parquet to Parquet; seconds are of processor time,
ours with the program's start. What is left of both without what copying the pages alone takes is told too.
"""

import difflib
import json
import pathlib
import random
import re
import sys
import tempfile
import time
import unicodedata

import pyarrow
import pyarrow.parquet
from program import run_stage

NGRAM_WORDS, SHORT_BLOCK, MAX_RATIO = 10, 5, 0.5


def tokens(text):
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return re.findall(r"\w+", plain.lower())


def ngrams(words):
    return (" ".join(words[at : at + NGRAM_WORDS]) for at in range(len(words) - NGRAM_WORDS + 1))


def share(page, item):
    blocks = difflib.SequenceMatcher(None, page, item, autojunk=False).get_matching_blocks()
    matched = "".join(page[block.a : block.a + block.size] for block in blocks if block.size > SHORT_BLOCK)
    return len(" ".join(matched.split())) / len(item)


def dropped_by_python(pages, items):
    by_ngram = {}
    for number, item in enumerate(items):
        for ngram in ngrams(tokens(item)):
            by_ngram.setdefault(ngram, set()).add(number)
    items = [" ".join(tokens(item)) for item in items]
    dropped = set()
    for id, page in pages:
        words = tokens(page)
        candidates = set().union(*(by_ngram.get(ngram, ()) for ngram in ngrams(words)))
        page = " ".join(words)
        if any(share(page, items[number]) > MAX_RATIO for number in candidates):
            dropped.add(id)
    return dropped


def dropped_by_pipeline(binary, pages, files, folder):
    rows = {"id": [id for id, _ in pages], "text": [text for _, text in pages]}
    source = folder / "pages.parquet"
    pyarrow.parquet.write_table(pyarrow.table(rows), source)
    fields = json.dumps([[field] for field in TEXT_FIELDS])
    benchmarks = [
        f'{{ name = "b{at}", path = "{path.absolute()}", format = {{ fields = {{ texts = {fields} }} }} }}'
        for at, path in enumerate(files)
    ]
    stage = f'kind = "decontaminate"\nbenchmarks = [{", ".join(benchmarks)}]'
    kept, seconds = run_stage(binary, source, folder, "clean", stage)
    _, copying = run_stage(binary, source, folder, "copy", 'kind = "filter"\nkeep = "true"\nreason = "none"')
    return {id for id, _ in pages} - set(kept["id"].to_pylist()), seconds, copying


def planted(texts, items, draw):
    for at, text in enumerate(texts):
        if at % 10 == 0:
            words = draw.choice(items).split()
            leave_out = draw.choice([0, 0, 0.05, 0.1, 0.3])
            copy = " ".join(word for word in words if draw.random() >= leave_out)
            place = draw.randrange(len(text) + 1)
            text = f"{text[:place]} {copy} {text[place:]}"
        yield f"page-{at}", text


binary, source, *files = map(pathlib.Path, sys.argv[1:])
lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
TEXT_FIELDS = sorted({field for line in lines for field, value in line.items() if isinstance(value, str)})
items = [line[field] for line in lines for field in TEXT_FIELDS]
pages = list(planted(pyarrow.parquet.read_table(source)["text"].to_pylist(), items, random.Random(5)))
megabytes = sum(len(text.encode()) for _, text in pages) / 1e6
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    ours, our_seconds, our_copying = dropped_by_pipeline(binary.absolute(), pages, files, folder)
    started = time.process_time()
    table = pyarrow.parquet.read_table(folder / "pages.parquet")
    rows = list(zip(table["id"].to_pylist(), table["text"].to_pylist()))
    read = time.process_time()
    theirs = dropped_by_python(rows, items)
    cleaned = time.process_time()
    kept = [id not in theirs for id in table["id"].to_pylist()]
    pyarrow.parquet.write_table(table.filter(pyarrow.array(kept)), folder / "kept.parquet", compression="zstd")
    their_seconds = time.process_time() - started
print(f"{len(pages)} pages, {megabytes:.1f} MB, {len(items)} benchmark texts")
print(f"dropped: {len(ours)} by this program, {len(theirs)} by Python, {len(ours & theirs)} by both")
print(f"processor time: {our_seconds:.2f} s and {their_seconds:.2f} s, ratio {their_seconds / our_seconds:.1f}")
alone = our_seconds - our_copying
print(f"without copying: {alone:.2f} s and {cleaned - read:.2f} s, ratio {(cleaned - read) / alone:.1f}")
sys.exit(ours != theirs)
