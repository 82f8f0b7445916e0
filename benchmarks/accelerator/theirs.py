"""transformers on the same device, a process of measure.py: `python theirs.py JSON`.

The argument holds `config` (Hugging Face's keys), `batch_size`, `prompt_len`, `gen_len`, `rounds`
and `static`: whether it compiles its step over a cache of fixed size.
"""

import json
import statistics
import sys
import time

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def main(task: dict) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**task["config"])).eval()
    model.generation_config.eos_token_id = None
    size = (task["batch_size"], task["prompt_len"])
    prompts = np.random.default_rng(0).integers(1, task["config"]["vocab_size"], size)
    ids = torch.from_numpy(prompts).to(device)
    how = {"cache_implementation": "static"} if task["static"] else {}

    def seconds(count: int) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                **how,
            ).cpu()
        return time.perf_counter() - start

    count = task["gen_len"]
    timed = [(seconds(1), seconds(count)) for _ in range(task["rounds"] + 1)][1:]
    prefill = statistics.median(first for first, _ in timed)
    step = (statistics.median(whole for _, whole in timed) - prefill) / (count - 1)
    answer = {"prefill_seconds": prefill, "step_seconds": step}
    print(json.dumps(answer | {"tokens_per_second": task["batch_size"] / step}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
