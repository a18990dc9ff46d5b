"""Deduplicates a Parquet file with datatrove and prints the ids it drops, as JSON.

    pip install "datatrove==0.10.1" spacy pyarrow regex "xxhash<3.6" tokenizers
    python tests/parity/minhash_datatrove.py pages.parquet > dropped.json

The settings are FineWeb's (sha1, 64 bit, 14 x 8, 5-grams, seed 1), one task, the English word
tokenizer. The other modes print the values that the unit tests of `pipeline/src/stages/minhash`
hold: --simplify TEXT, --words TEXT (simplified text), --signature TEXT, --cases FILE (a JSON list of
texts; prints the simplified text, the words and the sha1 signature of each).
"""

import argparse
import json
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--text-column", default="text")
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
        elif args.path is not None:
            print(json.dumps(dropped(args.path, args.id_column, args.text_column), indent=1))
        else:
            parser.error("name a Parquet file, or a mode")


main()
