"""Prints pairs of made-up scores with their quadratic weighted kappa by scikit-learn, as the test of
src/annotate/agreement.rs holds them.

    pip install scikit-learn==1.9.1
    python kappa_sklearn.py
"""

import random

from sklearn.metrics import cohen_kappa_score

random.seed(6)
for pages, slip in ((12, 1), (40, 1), (40, 3), (60, 5)):
    first = [random.randint(0, 5) for _ in range(pages)]
    second = [min(5, max(0, score + random.randint(-slip, slip))) for score in first]
    kappa = cohen_kappa_score(first, second, weights="quadratic", labels=range(6))
    print(f'("{"".join(map(str, first))}", "{"".join(map(str, second))}", {kappa!r}),')
# Scores that do not occur count as places on the scale all the same.
first, second = "0055005", "0050505"
kappa = cohen_kappa_score(list(map(int, first)), list(map(int, second)), weights="quadratic", labels=range(6))
print(f'("{first}", "{second}", {kappa!r}),')
