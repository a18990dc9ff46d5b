"""Tells the language of all pages of a Parquet file by fastText itself and by this program with the same
model, and prints how often they agree and how fast each is in processor time (ours with the program's
start, and with reading and writing Parquet).

    pip install fasttext-wheel==0.9.2 pyarrow
    cargo build --release
    python tests/parity/language_fasttext.py pages.parquet lid.176.bin --pipeline target/release/pipeline

Each page is also given cut to its first words, which is harder. With --fixtures FOLDER the script makes the
small models and golden predictions of `classifiers/tests/fixtures` instead.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import fasttext
import pyarrow
import pyarrow.parquet
from program import run_stage

LINES = {
    "en": "the sea was calm and ships lay in harbour until morning when wind came from north and carried them",
    "de": "das meer war ruhig und die schiffe lagen bis zum morgen im hafen als der wind über graue wasser kam",
    "fr": "la mer était calme et les navires restaient au port jusqu'au matin quand le vent du nord se leva",
    "ru": "море было спокойно и корабли стояли в гавани до утра пока ветер с севера не унёс их в даль",
}
PROBES = [
    "the ships lay in harbour", "das Meer war ruhig", "la mer était calme", "море было спокойно",
    "wind", "", "  the\tsea\n was calm ", "__label__en das meer", "water and wine", "日本語 と the sea", "</s> la mer",
]


def predict(model, text):
    """The likeliest label and its probability. The package's own `predict` does not run with NumPy 2."""
    found = model.f.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
    return (found[0][1].removeprefix("__label__"), float(found[0][0])) if found else None


def make_fixtures(folder):
    random.seed(1)
    train = folder / "train.txt"
    with train.open("w") as file:
        for _ in range(600):
            label = random.choices(list(LINES), [5, 3, 2, 1])[0]
            file.write(f"__label__{label} {' '.join(random.sample(LINES[label].split(), 8))}\n")
    golden = {}
    models = {
        "hierarchical.bin": dict(loss="hs", minn=2, maxn=3, bucket=60, wordNgrams=1),
        "softmax.bin": dict(loss="softmax", minn=0, maxn=0, bucket=60, wordNgrams=2),
        "one_against_all.bin": dict(loss="ova", minn=1, maxn=2, bucket=40, wordNgrams=3),
        "quantised.ftz": dict(loss="hs", minn=2, maxn=3, bucket=300, wordNgrams=1),
        "quantised_softmax.ftz": dict(loss="softmax", minn=2, maxn=3, bucket=300, wordNgrams=2),
    }
    for name, options in models.items():
        model = fasttext.train_supervised(
            str(train), dim=5, epoch=20, lr=0.5, thread=1, seed=7, verbose=0, **options
        )
        if name.endswith(".ftz"):
            # Without `qnorm` for one, and with few rows left for the other.
            few = dict(cutoff=280, retrain=True, epoch=2) if name == "quantised.ftz" else {}
            model.quantize(str(train), qnorm=bool(few), dsub=2, thread=1, verbose=0, **few)
        model.save_model(str(folder / name))
        golden[name] = []
        for probe in PROBES:
            golden[name].append(predict(model, probe))
    train.unlink()
    fixture = {"texts": PROBES, "predictions": golden}
    (folder / "fasttext.json").write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")


def compare(pages, model_file, pipeline):
    texts = [text for text in pyarrow.parquet.read_table(pages, columns=["text"])["text"].to_pylist() if text]
    texts += [" ".join(text.split()[:count]) for text in texts for count in (2, 6)]
    table = pyarrow.table({"id": [str(row) for row in range(len(texts))], "text": texts})
    model = fasttext.load_model(str(model_file))
    start = time.process_time()
    theirs = [predict(model, text) for text in texts]
    their_seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pyarrow.parquet.write_table(table, folder / "pages.parquet")
        stage = f'kind = "language"\nlanguages = []\nlanguage_threshold = 0.0\nmodel = "{model_file.resolve()}"'
        found, our_seconds = run_stage(pipeline, folder / "pages.parquet", folder, "language", stage)
        found = found.to_pydict()
        ours = dict(zip(found["id"], zip(found["language"], found["language_score"])))
    agreed, largest = 0, 0.0
    for row, (their_label, their_score) in enumerate(theirs):
        label, score = ours.get(str(row), (None, 0.0))
        if label == their_label:
            agreed += 1
            largest = max(largest, abs(score - min(their_score, 1.0)))
        else:
            print(f"{their_label} {their_score:.4f}, here {label} {score:.4f}: {texts[row][:60]!r}")
    print(f"{agreed:,} of {len(texts):,} texts have the same language; scores differ by {largest:.1e} at most")
    print(f"processor time: fastText {their_seconds:.2f} s, here {our_seconds:.2f} s")


parser = argparse.ArgumentParser()
parser.add_argument("pages", type=Path, nargs="?")
parser.add_argument("model", type=Path, nargs="?")
parser.add_argument("--pipeline", default="target/release/pipeline")
parser.add_argument("--fixtures", type=Path)
arguments = parser.parse_args()
if arguments.fixtures:
    make_fixtures(arguments.fixtures)
else:
    compare(arguments.pages, arguments.model, arguments.pipeline)
