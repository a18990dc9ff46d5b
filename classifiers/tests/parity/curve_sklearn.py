"""Writes src/curve_golden.rs: made-up predictions with the precision-recall curve and the average precision
that scikit-learn finds in them, for the test of src/curve.rs.

    pip install scikit-learn==1.9.1
    python curve_sklearn.py
"""

import random
from pathlib import Path

from sklearn.metrics import average_precision_score, precision_recall_curve

random.seed(11)
annotated = [random.randint(0, 5) for _ in range(40)]
# To one decimal, so that some scores stand more than once.
predicted = [round(score + random.gauss(0, 1.2), 1) for score in annotated]
truth = [score >= 3 for score in annotated]
precision, recall, thresholds = precision_recall_curve(truth, predicted)
pairs = ", ".join(f"({float(p)!r}, {float(a)!r})" for p, a in zip(predicted, annotated))
rows = ",\n".join(f"    ({float(t)!r}, {float(p)!r}, {float(r)!r})" for t, p, r in zip(thresholds, precision, recall))
text = f"""// By tests/parity/curve_sklearn.py: scikit-learn's values.
const PAIRS: [(f32, f32); {len(predicted)}] = [{pairs}];
const AVERAGE_PRECISION: f64 = {float(average_precision_score(truth, predicted))!r};
/// Threshold, precision, recall.
const CURVE: [(f32, f64, f64); {len(thresholds)}] = [
{rows},
];
"""
target = Path(__file__).parents[2] / "src" / "curve_golden.rs"
target.write_text(text)
print(target, len(thresholds), "thresholds")
