"""Opens the folder of a `dataset` stage with Hugging Face's own library, as a user of the dataset would.

    make parity     or by hand, with the packages of requirements.txt:
    python tests/parity/load_dataset.py runs/cosmopedia_v2/sample/dataset
"""

import sys

from datasets import get_dataset_config_names, load_dataset

COSMOPEDIA_V2 = ["prompt", "text", "token_length", "audience", "format", "seed_data"]

folder = sys.argv[1]
names = get_dataset_config_names(folder)
for name in names:
    rows = load_dataset(folder, name, split="train")
    print(f"{name}: {rows.num_rows} rows, columns {rows.column_names}")
    assert rows.num_rows > 0 and rows[0]["text"]
    if name == "cosmopedia-v2":
        assert rows.column_names == COSMOPEDIA_V2, rows.column_names
