"""Measure rondo-tiny on held-out prompts with greedy decoding."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rondo_tiny.corpus import TASKS, Chat, held_out_chats

BATCH = 50
NEW_TOKENS = 420
"""More than the longest right answer, so a missing end token shows."""


@dataclass(frozen=True)
class Score:
    """Results of one task: shares of exact and of ended answers, and the wrong ones."""

    prompts: int
    exact: float
    ended: float
    wrong: list[tuple[str, str, str]]


@torch.inference_mode()
def answer(
    model: Any, tokenizer: Any, chats: list[list[dict[str, str]]], new_tokens: int = NEW_TOKENS
) -> list[tuple[str, bool]]:
    """Answer a batch of chats greedily; tell for each whether it ended by itself."""
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    batch = tokenizer(
        texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )
    output = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=new_tokens,
        do_sample=False,
    )
    found = []
    for row in output[:, batch["input_ids"].shape[1] :].tolist():
        ended = tokenizer.eos_token_id in row
        kept = row[: row.index(tokenizer.eos_token_id)] if ended else row
        found.append((tokenizer.decode(kept, skip_special_tokens=False), ended))
    return found


def score(model: Any, tokenizer: Any, chats: list[Chat], new_tokens: int = NEW_TOKENS) -> Score:
    """Score chats of one task, longest answers together to waste little padding."""
    chats = sorted(chats, key=lambda chat: len(chat.turns[-1].answer))
    exact, ended = 0, 0
    wrong: list[tuple[str, str, str]] = []
    for start in range(0, len(chats), BATCH):
        part = chats[start : start + BATCH]
        answers = answer(model, tokenizer, [chat.messages() for chat in part], new_tokens)
        for chat, (text, stopped) in zip(part, answers, strict=True):
            last = chat.turns[-1]
            ended += stopped
            if stopped and text == last.answer:
                exact += 1
            else:
                wrong.append((last.prompt, text, last.answer))
    return Score(len(chats), exact / len(chats), ended / len(chats), wrong)


def evaluate(options: argparse.Namespace) -> None:
    """Score every task and print a table."""
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype)
    ).eval()
    print("| task | prompts | exact | ended by itself |\n|---|---|---|---|")
    scores = []
    for task in TASKS:
        found = score(model, tokenizer, held_out_chats(options.seed, task, options.number))
        scores.append(found)
        print(f"| {task} | {found.prompts} | {found.exact:.1%} | {found.ended:.1%} |", flush=True)
        for prompt, given, wanted in found.wrong[: options.show]:
            print(f"    {prompt!r}: {given!r}, not {wanted!r}")
    total = sum(found.prompts for found in scores)
    exact = sum(found.exact * found.prompts for found in scores) / total
    ended = sum(found.ended * found.prompts for found in scores) / total
    print(f"| **all** | {total} | {exact:.1%} | {ended:.1%} |")


def ask(options: argparse.Namespace) -> None:
    """Answer prompts given on the command line, each in a chat of its own."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype)
    ).eval()
    for prompt in options.ask:
        text, ended = answer(model, tokenizer, [[{"role": "user", "content": prompt}]])[0]
        print(f"{prompt} -> {text}{'' if ended else ' (not ended)'}")


def main() -> None:
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder to read")
    parser.add_argument("--number", type=int, default=300, help="prompts of each task")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show of each task")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ask", nargs="+", help="answer these prompts instead")
    options = parser.parse_args()
    if options.ask:
        ask(options)
    else:
        evaluate(options)


if __name__ == "__main__":
    main()
