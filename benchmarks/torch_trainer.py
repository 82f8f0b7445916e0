"""A plain PyTorch loop on transformers' model, on request: a process of train.py."""

import os

import numpy as np
import torch
from trainer import Task, Train, serve
from transformers import GPTNeoXForCausalLM, get_cosine_schedule_with_warmup, logging


def begin(task: Task) -> Train:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    logging.disable_progress_bar()
    recipe = task.recipe
    model = GPTNeoXForCausalLM.from_pretrained(task.checkpoint, dtype=torch.float32)
    model.train()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    adamw = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=recipe["weight_decay"]), dict(params=vectors)],
        lr=recipe["learning_rate"],
        betas=(recipe["b1"], recipe["b2"]),
        eps=recipe["eps"],
        weight_decay=0.0,
        fused=task.fused or None,
    )
    schedule = get_cosine_schedule_with_warmup(adamw, recipe["warmup_steps"], recipe["steps"])

    def train(batches: list[np.ndarray]) -> list[float]:
        losses = []
        for batch in batches:
            tokens = torch.from_numpy(batch)
            adamw.zero_grad()
            loss = model(tokens, attention_mask=torch.ones_like(tokens), labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip_norm"])
            adamw.step()
            schedule.step()
            losses.append(loss.item())
        return losses

    return train


if __name__ == "__main__":
    serve(begin)
