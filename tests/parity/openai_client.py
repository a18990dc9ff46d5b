"""Asks `pipeline llm serve` through OpenAI's own Python client.

    make parity     or by hand, with the packages of requirements.txt:
    pipeline llm serve embedded --port 8080 &
    python tests/parity/openai_client.py http://127.0.0.1:8080/v1

Prints one line a check and ends with status 1 at the first that fails.
"""

import sys

import openai

MODEL = "SmolLM2-135M-Instruct"
QUESTION = [{"role": "user", "content": "Name three rivers of Europe."}]


def check(name, condition, seen):
    print(f"{'ok  ' if condition else 'FAIL'} {name}: {seen!r}"[:160])
    if not condition:
        sys.exit(1)


def fails_with(kind, **arguments):
    try:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "max_tokens": 8, **arguments})
    except kind as error:
        return error
    return None


client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)

# The server may still be reading its model.
models = [model.id for model in client.with_options(max_retries=10).models.list()]
check("models", models == [MODEL], models)
check("model", client.models.retrieve(MODEL).id == MODEL, MODEL)

ask = dict(model=MODEL, messages=QUESTION, max_tokens=32, seed=7, temperature=0.7, top_p=0.9)
extra = {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}
whole = client.chat.completions.create(**ask, extra_body=extra)
text = whole.choices[0].message.content
check("chat", bool(text) and whole.choices[0].finish_reason in ("stop", "length"), text)
check("usage", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage)
again = client.chat.completions.create(**ask, extra_body=extra)
check("same seed, same answer", again.choices[0].message.content == text, text)

pieces, usage = [], None
for chunk in client.chat.completions.create(
    **ask, extra_body=extra, stream=True, stream_options={"include_usage": True}
):
    usage = chunk.usage or usage
    pieces += [choice.delta.content or "" for choice in chunk.choices]
check("stream", "".join(pieces) == text and len(pieces) > 4, len(pieces))
check("usage of the stream", usage == whole.usage, usage)

# An answer that ends by itself: the helper refuses one that was cut.
with client.chat.completions.stream(model=MODEL, messages=QUESTION, max_tokens=300, stop=["."], seed=7) as stream:
    final = stream.get_final_completion()
check("stream helper", bool(final.choices[0].message.content), final.choices[0].message.content)

completion = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0)
check("completion", "Paris" in completion.choices[0].text, completion.choices[0].text)
stopped = client.completions.create(model=MODEL, prompt="1, 2, 3, 4,", max_tokens=30, temperature=0, stop=[" 7"])
check("stop", stopped.choices[0].finish_reason == "stop" and "7" not in stopped.choices[0].text, stopped.choices[0].text)

error = fails_with(openai.NotFoundError, model="gpt-4")
check("model that is not there", error and error.code == "model_not_found", error)
error = fails_with(openai.BadRequestError, temperature=-1)
check("bad temperature", error and error.param == "temperature", error)
error = fails_with(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 9000}])
check("too long", error and error.code == "context_length_exceeded", error)
error = fails_with(openai.BadRequestError, n=2)
check("two answers", error and error.param == "n", error)
