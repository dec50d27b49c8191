"""Measures what it takes to know a request: reading its text, its policy's rules, and the profile.

    python benchmarks/profile.py --json out/profile.json

Queries have about 500 tokens: generated ones of words, numbers, code and other scripts, and, where
MODELFLEET_DATA names a folder with data sets, prompts of these joined to that length. Each is measured
without rules, with eight rules of all kinds, and with as many and as large rules as a policy may have. None
of the rules matches, so that all of them are looked at. The baseline is one pass of Python's `re` over the
words of the same text. Seconds are the thread's CPU time, the elapsed time where a core is free. A prompt of
16 MiB shows what a giant one costs.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from modelfleet_core.estimation.lexicon import WORDS
from modelfleet_core.estimation.profile import profile_of, read
from modelfleet_core.policy import Rule, RuleMatch
from modelfleet_core.rules import Asking, Rules

SIZE = 2000
"""Bytes of 500 tokens."""
GIANT = 16 << 20
FOREIGN = ("请审查这份合同的条款", "これは東京タワーです", "Что это такое?", "café déjà vu", "สวัสดีครับ")
CODE = ("def f(x):\n    return x + 1\n", "for (int i = 0; i < 10; i++) {\n", "SELECT a FROM b WHERE c = 3;\n")


def generated(count: int, seed: int) -> list[str]:
    """Return texts of words, of which most mean nothing, with numbers and code; every fourth one holds words
    and sentences in other scripts."""
    rng = random.Random(seed)
    every = " ".join(WORDS.values()).split()
    plain = [word for word in every if word.isascii()]
    letters = "etaoinshrdlucmfwypvbgk"
    unknown = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(5000)]
    texts = []
    for number in range(count):
        parts: list[str] = []
        size, known = 0, plain if number % 4 else every
        while size < SIZE:
            chance = rng.random()
            part = rng.choice(known) if chance < 0.4 else rng.choice(unknown)
            if chance > 0.97:
                part = f"{rng.randint(0, 9999)} + {rng.randint(0, 99)} ="
            elif chance > 0.96:
                part = rng.choice(CODE)
            elif chance > 0.95 and number % 4 == 0:
                part = rng.choice(FOREIGN)
            parts.append(part)
            size += len(part.encode()) + 1
        texts.append(" ".join(parts))
    return texts


def recorded(folder: Path, count: int) -> list[str]:
    """Return prompts of the data sets below `folder`, joined and cut to the size of 500 tokens."""
    prompts: list[str] = []
    for path in sorted(folder.glob("*/queries.parquet")):
        prompts += pq.read_table(path, columns=["prompt"])["prompt"].to_pylist()
    text = "\n\n".join(prompts)
    return [text[at : at + SIZE] for at in range(0, min(len(text), count * SIZE), SIZE)]


def rulebooks() -> dict[str, Rules]:
    absent = [f"{letter}zq{number}" for letter in "abcdefgh" for number in range(8)]
    some = [
        Rule("keywords", RuleMatch(any_keyword=tuple(absent[:8]))),
        Rule("phrases", RuleMatch(any_keyword=("absent words of a contract", "no such phrase", "zzz++"))),
        Rule("all", RuleMatch(all_keywords=("the", *absent[8:12]))),
        Rule("pattern", RuleMatch(regex=r"(?m)^(zdef|zclass) \w+")),
        Rule("folded", RuleMatch(regex=r"(?i)\b(?:zinvoice|zreceipt|zorder)[- ]?#?\d{4,}\b")),
        Rule("script", RuleMatch(script="Tibetan")),
        Rule("large", RuleMatch(min_tokens=100_000)),
        Rule("header", RuleMatch(headers={"x-domain": "legal"})),
    ]
    most = [
        Rule(
            f"rule-{number}",
            RuleMatch(
                any_keyword=tuple(f"{word}{number} {word}" for word in absent), regex=f"zq{number}[0-9]{{40}}"
            ),
        )
        for number in range(32)
    ]
    for number in range(32):
        most.append(
            Rule(f"word-{number}", RuleMatch(any_keyword=tuple(f"{word}{number}" for word in absent)))
        )
    return {"none": Rules([]), "eight": Rules(some), "most": Rules(most[:16] + most[32:48])}


def known(text: str, rules: Rules) -> None:
    """Do what the sidecar does with one request's text."""
    reading = read((text,))
    rules.first(Asking(reading.text, reading.script, reading.input_tokens, {}))
    profile_of(reading, task=None, asked_output_tokens=None, max_output_tokens=4096)


def timed(work: Callable[[str], object], texts: Sequence[str], rounds: int) -> list[float]:
    """Return CPU seconds of each call."""
    taken = []
    for _ in range(rounds):
        for text in texts:
            before = time.thread_time()
            work(text)
            taken.append(time.thread_time() - before)
    return taken


def figures(taken: Sequence[float], baseline: float) -> dict[str, float]:
    ordered = sorted(taken)
    p50 = statistics.median(ordered)
    return {
        "p50_ms": round(p50 * 1e3, 4),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 4),
        "max_ms": round(ordered[-1] * 1e3, 4),
        "p50_per_baseline": round(p50 / baseline, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=500, help="texts of each kind")
    parser.add_argument("--rounds", type=int, default=4, help="times that each is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    kinds = {"generated": generated(options.texts, options.seed)}
    if folder := os.environ.get("MODELFLEET_DATA"):
        kinds["recorded"] = recorded(Path(folder), options.texts)
    words = re.compile(r"\w+")
    found: dict[str, object] = {}
    for kind, texts in kinds.items():
        timed(lambda text: known(text, rulebooks()["none"]), texts[:50], 1)
        baseline = statistics.median(timed(lambda text: words.findall(text.lower()), texts, options.rounds))
        found[kind] = {"texts": len(texts), "baseline_ms": round(baseline * 1e3, 4)} | {
            f"{name}_rules": figures(timed(lambda text: known(text, rules), texts, options.rounds), baseline)  # noqa: B023
            for name, rules in rulebooks().items()
        }
    eight = rulebooks()["eight"]
    for name, letter in (("ascii", "a "), ("other", "я ")):
        giant = letter * (GIANT // len(letter.encode()))
        taken = statistics.median(timed(lambda text: known(text, eight), [giant], 5))
        counting = statistics.median(timed(lambda text: text.isascii() or text.encode(), [giant], 5))
        found[f"giant_{name}"] = {
            "ms": round(taken * 1e3, 3),
            "of_it_counting_bytes_ms": round(counting * 1e3, 3),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
