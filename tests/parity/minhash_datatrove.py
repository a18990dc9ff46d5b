"""Deduplicates a Parquet file with datatrove and prints the ids it drops, as JSON.

    pip install "datatrove==0.10.1" spacy pyarrow regex "xxhash<3.6" tokenizers
    python tests/parity/minhash_datatrove.py pages.parquet > dropped.json

The settings are FineWeb's (sha1, 64 bit, 14 x 8, 5-grams, seed 1), one task, the English word
tokenizer. With --pipeline target/release/pipeline the program does the same, and it is printed how many
of the hashes are equal, and whether both keep the same documents. The other modes print the values that
the unit tests of `pipeline/src/stages/minhash` hold: --simplify TEXT, --words TEXT (simplified text), --signature TEXT, --cases FILE (a JSON list of
texts; prints the simplified text, the words and the sha1 signature of each).
"""

import argparse
import json
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import simplify_text


def config(hash_name="sha1"):
    return MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=1,
        hash_config=HashConfig(precision=64, hash_fc=hash_name),
    )


def signer(folder, hash_name="sha1"):
    return MinhashDedupSignature(output_folder=str(folder), config=config(hash_name))


def flat(step, text):
    shingles = step.get_shingles(text)
    return [int(x) for bucket in step.get_signature(shingles) for x in bucket] if shingles.size else None


def dropped(path, id_column, text_column):
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=[id_column, text_column]).to_pydict()
    rows = list(zip(table[id_column], table[text_column]))
    documents = lambda: iter(Document(text=text, id=name) for name, text in rows)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        signatures, buckets, clusters = (Path(folder) / name for name in ("s", "b", "c"))
        started = time.time()
        signer(signatures).run(documents(), 0, 1)
        signed = time.time()
        step = MinhashDedupBuckets(str(signatures), str(buckets), config=config())
        for bucket in range(14):
            step.run(None, bucket, 14)
        MinhashDedupCluster(str(buckets), str(clusters), config=config()).run(None, 0, 1)
        kept = {document.id for document in MinhashDedupFilter(str(clusters)).run(documents(), 0, 1)}
        ended = time.time()
    return {
        "kept": len(kept),
        "dropped_ids": sorted(name for name, _ in rows if name not in kept),
        "signature_seconds": signed - started,
        "total_seconds": ended - started,
    }


WORKFLOW = """
name = "parity"
[stage.pages]
kind = "read"
paths = ["{path}"]
[stage.index]
kind = "signature_index"
input = "pages"
id_column = "{id_column}"
text_column = "{text_column}"
[stage.dedup]
kind = "minhash"
input = "pages"
id_column = "{id_column}"
text_column = "{text_column}"
"""


def of_program(pipeline, path, id_column, text_column):
    """The program's signatures by id, as its index holds them, and the ids that it keeps."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(path).resolve()
        text = WORKFLOW.format(path=path, id_column=id_column, text_column=text_column)
        (folder / "parity.toml").write_text(text)
        subprocess.run([pipeline, "run", "parity.toml"], cwd=folder, check=True, capture_output=True)
        run = folder / "runs/parity/sample"
        slots, ids = ((run / "index/signatures" / file).read_bytes() for file in ("slots", "ids"))
        # Where the id begins and its length, 16 bytes of the text's digest, 14 x 8 hashes.
        slot = struct.Struct("<QQ16x112Q")
        signatures = {}
        for start, length, *hashes in slot.iter_unpack(slots):
            signatures[ids[start : start + length].decode()] = hashes
        kept = set(pq.read_table(run / "dedup/data", columns=[id_column])[id_column].to_pylist())
    return signatures, kept


def compare(pipeline, path, id_column, text_column):
    import pyarrow.parquet as pq

    ours, kept = of_program(pipeline, path, id_column, text_column)
    table = pq.read_table(path, columns=[id_column, text_column]).to_pydict()
    equal = hashes = without = 0
    with tempfile.TemporaryDirectory() as folder:
        step = signer(folder)
        for name, text in zip(table[id_column], table[text_column]):
            theirs = flat(step, text)
            if theirs is None:
                without += 1
                assert not any(ours[name]), f"{name} has no signature there"
                continue
            hashes += len(theirs)
            equal += sum(a == b for a, b in zip(ours[name], theirs))
    theirs = dropped(path, id_column, text_column)["dropped_ids"]
    lost = sorted(set(table[id_column]) - kept)
    print(f"{len(ours)} documents, {without} of them too short for a signature")
    print(f"hashes that are equal: {equal:,} of {hashes:,} ({100 * equal / hashes:.3f} %)")
    print(f"documents dropped: {len(lost)} here, {len(theirs)} there, {len(set(lost) ^ set(theirs))} by one of them alone")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--pipeline")
    parser.add_argument("--simplify")
    parser.add_argument("--words")
    parser.add_argument("--signature")
    parser.add_argument("--cases")
    args = parser.parse_args()
    if args.simplify is not None:
        print(json.dumps(simplify_text(args.simplify), ensure_ascii=False))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.words is not None:
            print(json.dumps(signer(folder).word_tokenizer.word_tokenize(args.words), ensure_ascii=False))
        elif args.signature is not None:
            print(json.dumps({name: flat(signer(folder, name), args.signature) for name in ("sha1", "xxhash")}))
        elif args.cases is not None:
            step = signer(folder)
            for text in json.loads(Path(args.cases).read_text()):
                simple = simplify_text(text)
                words = step.word_tokenizer.word_tokenize(simple)
                print(json.dumps({"text": text, "simple": simple, "words": words, "signature": flat(step, text)}))
        elif args.pipeline is not None:
            pipeline = str(Path(args.pipeline).resolve())
            compare(pipeline, args.path, args.id_column, args.text_column)
        elif args.path is not None:
            print(json.dumps(dropped(args.path, args.id_column, args.text_column), indent=1))
        else:
            parser.error("name a Parquet file, or a mode")


main()
