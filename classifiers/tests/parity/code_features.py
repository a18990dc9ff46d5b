"""Counts the features `code_v1` of src/features.rs in Python, by regular expressions and `str` methods, and
prints the values that its test holds.

    python code_features.py
"""

import math
import re

SAMPLE = '''"""Sort a list. See https://example.org/sort"""

from __future__ import annotations

import doctest


class Sorter:
    # One pass: the largest goes last.
    def sort(self, values: list[int]) -> list[int]:
        """
        >>> Sorter().sort([3, 1, 2])
        [1, 2, 3]
        """
        if not values:
            raise ValueError("nothing to sort — leer")
        for end in range(len(values), 1, -1):
            for at in range(end - 1):
                if values[at] > values[at + 1]:
                    values[at], values[at + 1] = values[at + 1], values[at]
        return values


if __name__ == "__main__":
    print(Sorter().sort([2, 1]))
    doctest.testmod()
'''


def features(text):
    text = text[:100_000]
    lines = text.split("\n")
    stripped = [line.strip() for line in lines]
    starts = lambda *words: sum(line.startswith(words) for line in stripped)
    docstrings = text.split('"""')[1::2]
    docstring_chars = sum(map(len, docstrings))
    identifiers = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text)
    return [
        math.log1p(len(text)),
        math.log1p(len(lines)),
        starts("#") / len(lines),
        docstring_chars / max(len(text), 1),
        math.log1p(len(docstrings)),
        math.log1p(docstring_chars),
        math.log1p(starts("import ", "from ")),
        math.log1p(starts("def ")),
        math.log1p(starts("class ")),
        sum(map(len, identifiers)) / max(len(identifiers), 1),
        math.log1p(text.count(">>>")),
        math.log1p(text.count("->")),
        float("__main__" in text),
        math.log1p(starts("raise ")),
        math.log1p(text.count("://")),
        sum(map(len, lines)) / len(lines),
        float("doctest" in text),
        math.log1p(text.count("print(")),
        sum(line.startswith(" " * 12) for line in lines) / len(lines),
        math.log1p(max(map(len, lines))),
    ]


if __name__ == "__main__":
    print("    const SAMPLE: &str = r##" + '"' + SAMPLE + '"##;')
    print(f"    const GOLDEN: [f64; 20] = {features(SAMPLE)};")
