"""The writing of `benches/benches/torch` in `transformers`: greedy, with its cache of keys and
values, in eager PyTorch with its fused attention.

Each line of standard input is a request: to save a random model, or to go on from prompts of equal
length. Each answer is a line.
"""

import json
import sys
import time

import torch
import transformers

NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def configuration(family, vocabulary, width, layers, heads, positions):
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads,
            n_positions=positions, **NO_TOKENS,
        )
    return transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=8 * width // 3,
        max_position_embeddings=positions, **NO_TOKENS,
    )


def save(folder, **shape):
    torch.manual_seed(1)
    config = configuration(**shape)
    # Wide enough that the highest score is clearly the highest.
    config.initializer_range = 0.1
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters())}


models = {}


def write(folder, prompts, tokens, threads):
    torch.set_num_threads(threads)
    if folder not in models:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        models[folder] = model.eval()
    model, prompts = models[folder], torch.tensor(prompts)
    mask = torch.ones_like(prompts)

    def generate(tokens):
        return model.generate(
            prompts, attention_mask=mask, max_new_tokens=tokens, do_sample=False, use_cache=True,
        )

    with torch.inference_mode():
        generate(4)
        begun = time.perf_counter()
        texts = generate(tokens)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "texts": texts[:, prompts.shape[1] :].tolist()}


def main():
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for line in sys.stdin:
        request = json.loads(line)
        do = {"save": save, "write": write}[request.pop("do")]
        print(json.dumps(do(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
