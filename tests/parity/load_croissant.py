"""Reads each subset of a `dataset` stage's folder by its `croissant.json`, with MLCommons' own library.

    make parity     or by hand, with the packages of requirements.txt:
    python tests/parity/load_croissant.py runs/cosmopedia_v2/sample/dataset
"""

import itertools
import sys

import mlcroissant

dataset = mlcroissant.Dataset(jsonld=f"{sys.argv[1]}/croissant.json")
for record_set in dataset.metadata.record_sets:
    name = record_set.id
    rows = list(itertools.islice(dataset.records(name), 10))
    print(f"{name}: {len(rows)} rows read, fields {list(rows[0])}")
    assert all(row[f"{name}/text"] for row in rows)
