"""Learn subword tokens of Kazakh text by byte-pair encoding and write vocab.json.

Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
"""

import argparse
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path

END = "·"  # marks the end of a word, so that an ending differs from a beginning
MAX_MERGES = 5_000
MAX_TEXT_BYTES = 1_000_000
WORD = re.compile(r"[а-яәғқңөұүһі]+")  # noqa: RUF001 - the letters are Cyrillic on purpose


def count_pairs(words):
    pairs = Counter()
    for parts, times in words.items():
        for pair in itertools.pairwise(parts):
            pairs[pair] += times
    return pairs


def merge(words, pair):
    merged = Counter()
    for parts, times in words.items():
        joined, i = [], 0
        while i < len(parts):
            if parts[i : i + 2] == pair:
                joined.append(parts[i] + parts[i + 1])
                i += 2
            else:
                joined.append(parts[i])
                i += 1
        merged[tuple(joined)] += times
    return merged


def learn(text, merges):
    words = Counter((*word, END) for word in WORD.findall(text.lower()))
    rules = []
    for number in range(1, merges + 1):
        pairs = count_pairs(words)
        if not pairs:
            break
        pair = min(pairs, key=lambda candidate: (-pairs[candidate], candidate))
        if pairs[pair] == 1:
            break  # nothing repeats any more
        words = merge(words, pair)
        rules.append(pair)
        if number % 20 == 0:
            print(f"merge={number} pair={pair[0]}+{pair[1]} times={pairs[pair]}", flush=True)
    tokens = Counter()
    for parts, times in words.items():
        for part in parts:
            tokens[part] += times
    return rules, tokens, sum(words.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="UTF-8 text in Kazakh")
    parser.add_argument("--merges", type=int, default=120, help=f"1 to {MAX_MERGES}")
    args = parser.parse_args()
    if not 1 <= args.merges <= MAX_MERGES:
        parser.error(f"--merges takes 1 to {MAX_MERGES}, not {args.merges}")
    if not args.text.is_file() or args.text.stat().st_size > MAX_TEXT_BYTES:
        parser.error(f"{args.text} must be a file of at most {MAX_TEXT_BYTES} bytes")

    rules, tokens, words = learn(args.text.read_text(encoding="utf-8"), args.merges)
    if not words:
        print(f"{args.text} holds no Kazakh word", file=sys.stderr)
        return 1
    vocab = {
        "words": words,
        "tokens_per_word": round(sum(tokens.values()) / words, 3),
        "merges": [list(pair) for pair in rules],
        "tokens": dict(sorted(tokens.items(), key=lambda item: (-item[1], item[0]))),
    }
    Path("vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"words={words} merges={len(rules)} tokens={len(tokens)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
