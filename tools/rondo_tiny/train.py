"""Train rondo-tiny from nothing and write it as a Hugging Face model folder."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from rondo_tiny import tokenizer as tok
from rondo_tiny.corpus import TASKS, Chat, held_out_chats, training_chats
from rondo_tiny.evaluate import score
from rondo_tiny.optimizer import Mixed

IGNORED = -100
POOL = 4096
"""Chats drawn at a time, sorted by length and cut into batches."""

Sample = tuple[list[int], list[int]]


def model_config() -> LlamaConfig:
    """Return the architecture: a small Llama with grouped-query attention."""
    return LlamaConfig(
        vocab_size=tok.VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=tok.MAX_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tok.START,
        eos_token_id=tok.END,
        pad_token_id=tok.PAD,
    )


def encode_chat(chat: Chat) -> Sample:
    """Return a chat's tokens and, of these, the ones to learn: answers with their end token."""
    tokens = [tok.START]
    if chat.system:
        tokens += [tok.SYSTEM, *tok.encode_text(chat.system), tok.END]
    labels = [IGNORED] * len(tokens)
    for turn in chat.turns:
        prompt = [tok.USER, *tok.encode_text(turn.prompt), tok.END, tok.ASSISTANT]
        answer = [*tok.encode_text(turn.answer), tok.END]
        tokens += prompt + answer
        labels += [IGNORED] * len(prompt) + answer
    return tokens, labels


def pad_batch(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Pad samples on the right to their longest."""
    width = max(len(tokens) for tokens, _ in samples)
    inputs = [tokens + [tok.PAD] * (width - len(tokens)) for tokens, _ in samples]
    labels = [wanted + [IGNORED] * (width - len(wanted)) for _, wanted in samples]
    return torch.tensor(inputs), torch.tensor(labels)


def batches(seed: int, token_budget: int, polish: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless batches of chats of like length, each within a budget of padded tokens."""
    rng = random.Random(seed)
    stream = (encode_chat(chat) for chat in training_chats(seed, polish))
    fitting = (sample for sample in stream if len(sample[0]) <= tok.MAX_LENGTH)
    while True:
        pool = sorted(itertools.islice(fitting, POOL), key=lambda sample: len(sample[0]))
        groups: list[list[Sample]] = [[]]
        for sample in pool:
            if len(sample[0]) * (len(groups[-1]) + 1) > token_budget:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        yield from (pad_batch(group) for group in groups if group)


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a linear warm-up, then a cosine to 1/50."""
    warmup = min(200, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * progress))


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the model folder with weights in bfloat16; the model itself stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = LlamaForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored = stored.to(torch.bfloat16)
    stored.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tok.START,
        eos_token_id=tok.END,
        pad_token_id=tok.PAD,
    )
    stored.save_pretrained(folder)
    tok.save_tokenizer(folder)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Add to config.json the names that older readers look for; let everyone read the folder."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config["torch_dtype"] = config["dtype"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)


def check_template(folder: Path, seed: int) -> None:
    """Check that the written tokenizer encodes chats exactly as the training data were."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for chat in itertools.islice(training_chats(seed + 1), 200):
        tokens, _ = encode_chat(chat)
        text = tokenizer.apply_chat_template(
            chat.messages(), tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokens[: len(prompt)] != prompt:
            raise RuntimeError("the chat template and the training data disagree")


def validate(model: LlamaForCausalLM, folder: Path, seed: int, number: int) -> str:
    """Return a line with the held-out accuracy of each task."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    scores = {}
    for task in TASKS:
        chats = held_out_chats(seed, task, number)
        scores[task] = score(model, tokenizer, chats, new_tokens=200).exact
    model.train()
    overall = sum(scores.values()) / len(scores)
    return f"held-out {overall:.3f} " + " ".join(f"{k}={v:.2f}" for k, v in scores.items())


def train(options: argparse.Namespace) -> None:
    """Run the whole training and write the folder at every checkpoint and at the end."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    model = LlamaForCausalLM(model_config())
    if options.init:
        model = LlamaForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    model.train()
    folder = Path(options.out)
    save(model, folder)
    check_template(folder, options.seed)
    optimizer = Mixed(model, options.lr)
    data = batches(options.seed, options.batch_tokens, polish=bool(options.init))
    began, recent = time.monotonic(), [0.0, 0.0]
    last = options.stop or options.steps
    for step in range(last):
        inputs, labels = next(data)
        loss = train_step(model, optimizer, inputs, labels, schedule(step, options.steps))
        recent = [recent[0] + loss, recent[1] + 1]
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - began
            mean = recent[0] / recent[1]
            print(f"step {step + 1} loss {mean:.4f} seconds {spent:.0f}", flush=True)
            recent = [0.0, 0.0]
        if (step + 1) % options.every == 0 or step + 1 == last:
            save(model, folder)
            print(validate(model, folder, options.seed, 20), flush=True)
    record = {"seconds": round(time.monotonic() - began), "seed": options.seed}
    print(json.dumps(record))


def train_step(
    model: LlamaForCausalLM,
    optimizer: Mixed,
    inputs: Tensor,
    labels: Tensor,
    share: float,
) -> float:
    """Take one optimizer step and return the loss on answer tokens."""
    logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
    wanted = labels[:, 1:]
    loss = functional.cross_entropy(logits[wanted != IGNORED], wanted[wanted != IGNORED])
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(share)
    return float(loss.detach())


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.add_argument("--init", help="polish this model folder: the second stage")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--stop", type=int, help="end early, at this step of the schedule")
    parser.add_argument("--batch-tokens", type=int, default=3072)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
