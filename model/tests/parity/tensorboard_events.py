"""Reads a run's event file with TensorBoard's own reader and compares it with `loss.jsonl`.

Run: CORPUSMITH_TRAIN_OUT=/tmp/run cargo test --release -p corpusmith-model --test sample_run
     pip install tensorboard && python tensorboard_events.py /tmp/run/run
"""

import json
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = Path(sys.argv[1])
events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
lines = [json.loads(line) for line in (run / "loss.jsonl").read_text().splitlines()]
names = set(lines[0]) - {"step"}
assert set(events.Tags()["scalars"]) == names, events.Tags()
for name in names:
    read = [(event.step, event.value) for event in events.Scalars(name)]
    assert read == [(line["step"], float(np.float32(line[name]))) for line in lines], name
print(f"{len(lines)} steps of {sorted(names)}: equal")
