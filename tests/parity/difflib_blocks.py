"""Prints the values that the unit tests of `pipeline/src/stages/decontaminate/matching.rs` hold.

    python tests/parity/difflib_blocks.py

For each pair of texts: difflib's matching blocks without the empty one at the end, and the share of
the second text that blocks longer than 5 characters cover, with white space collapsed.
"""

import difflib
import random

PAIRS = [
    ("the cat sat on the mat", "the cat is on the mat today"),
    ("abxabcd", "abcdxab"),
    ("private volatile", "private static volatile"),
    ("aaaaaaaa", "aaaa"),
    ("one two three four", "four three two one"),
    ("how many apples does sam have left  now", "sam has ten apples how many apples does sam have left"),
    ("straße zu groß für naïve", "die straße ist zu groß"),
    ("qabcdef ghijklq mnopqr", "abcdef ghijkl mnopqr"),
    ("", "abc"),
    ("xyz", "abc"),
]


def main():
    draw = random.Random(11)
    for _ in range(4):
        PAIRS.append(tuple("".join(draw.choice("ab ") for _ in range(24)) for _ in range(2)))
    for a, b in PAIRS:
        blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        matched = "".join(a[m.a : m.a + m.size] for m in blocks if m.size > 5)
        share = len(" ".join(matched.split())) / len(b)
        triples = ", ".join(f"({m.a}, {m.b}, {m.size})" for m in blocks if m.size)
        print(f'("{a}", "{b}", &[{triples}], {share!r}),')


main()
