"""A benchmark's report as Markdown on standard output, and its verdicts."""

from __future__ import annotations


def begin(title: str, *sentences: str) -> None:
    print(f"\n### {title}\n", *sentences, "", sep="\n")


def head(*names: str) -> None:
    row(*names)
    print("|---" * len(names) + "|")


def row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def say(*sentences: str) -> None:
    print("", *sentences, sep="\n", flush=True)


def verdict(good: bool, text: str) -> str:
    return f"{'good' if good else 'MISSED'}: {text}"
