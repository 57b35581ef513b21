#!/usr/bin/env python3
"""Trains a small byte-level Mixtral on the King James Bible and writes the files next to this script.

Needs the Debian packages bible-kjv, bible-kjv-text and g++ (for torch.compile), and from PyPI torch,
transformers, safetensors, numpy, matplotlib and tqdm.  Two CPU cores are enough.

    OMP_WAIT_POLICY=passive python train.py --minutes 50 --out DIR

(OpenMP's threads otherwise spin while they wait, which is ruinous where other programs use the cores too.)
"""

import argparse
import csv
import json
import math
import subprocess
import time
from itertools import islice
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter, load_balancing_loss_func

HELD_OUT_EVERY, HELD_OUT_FIRST = 11, 6  # books 6, 17, 28, 39, 50 and 61 of 66
BATCH, CONTEXT, WINDOW = 8, 512, 256
PEAK_RATE, FINAL_RATE, WARM_UP = 2.5e-3, 2.5e-5, 0.02  # WARM_UP: fraction of the time
WEIGHT_DECAY, CLIP = 0.1, 1.0
EVALUATIONS, THINNING = 12, 4  # points of the curve, which score one batch of windows in THINNING
ATTENTION_BLOCK = 128  # queries handled at once in training
CAPACITY_STEP = 128  # rows per expert are padded to a multiple of it
REFERENCE_BYTES = 300  # more than WINDOW
SAMPLE_PROMPT, SAMPLE_BYTES, TEMPERATURE = b"Genesis 51\n\n1 ", 600, 0.7
PROTOCOL = (
    "Windows of C = max_position_embeddings bytes advance by C/2, positions restart at 0 in each. "
    "The first window scores all its bytes but the first, every later one only the bytes after its first C/2; "
    "the last window ends with the text and may be shorter. "
    "Bits per byte = total negative log2 likelihood / number of scored bytes (length of the text - 1)."
)


# --- text -----------------------------------------------------------------------------------------


def read_books():
    """Returns {book: text} in the canonical order, as printed by the `bible` command.

    A chapter is a line with its name ("Genesis 1"), an empty line, one verse a line after its number
    ("1 In the beginning ..."), and an empty line.
    """
    command = ["bible", "-l100000", "Gen1:1-Rev22:21"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    books = {}
    for line in filter(None, map(str.strip, printed.splitlines())):
        if line[0].isdigit() and not is_heading(line):
            books[book].append(f"{line}\n")
        else:
            book = line.rsplit(" ", 1)[0]
            chapters = books.setdefault(book, [])
            chapters.append(f"\n{line}\n\n" if chapters else f"{line}\n\n")
    return {book: "".join(lines) for book, lines in books.items()}


def is_heading(line):
    """Tells "1 Samuel 1" or "Song of Solomon 1" from a verse, which never ends with a number."""
    return line[-1].isdigit()


def split(books):
    """Returns the training text, the held-out text and the names of the held-out books."""
    names = list(books)
    held_out = names[HELD_OUT_FIRST - 1 :: HELD_OUT_EVERY]
    training = "\n".join(text for book, text in books.items() if book not in held_out)
    return training.encode("ascii"), "\n".join(books[book] for book in held_out).encode("ascii"), held_out


def as_tokens(text):
    """Bytes are the tokens."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


# --- model ----------------------------------------------------------------------------------------


def make_config():
    """The architecture: 5.1 M parameters, of which a token uses 1.8 M."""
    return MixtralConfig(
        vocab_size=256,
        hidden_size=192,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        sliding_window=WINDOW,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        router_aux_loss_coef=0.01,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


class ScatterRows(torch.autograd.Function):
    """Copies every row `picks` times, to the given slots of a zeroed matrix."""

    @staticmethod
    def forward(ctx, rows, slots, picks, total):
        ctx.save_for_backward(slots)
        ctx.picks = picks
        return rows.new_zeros(total, rows.shape[1]).index_copy_(0, slots, rows.repeat_interleave(picks, 0))

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots).view(-1, ctx.picks, grad.shape[1]).sum(1), None, None, None


class GatherRows(torch.autograd.Function):
    """Picks distinct rows; unlike index_select's own gradient, this one need not add them up."""

    @staticmethod
    def forward(ctx, rows, slots):
        ctx.save_for_backward(slots)
        ctx.total = len(rows)
        return rows.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.total, grad.shape[1]).index_copy_(0, slots, grad), None


@torch.compiler.disable
def padded_experts(self, hidden, top_k_index, top_k_weights):
    """Runs all experts as batched products over equally many rows each, padded with zeros.

    No token is dropped.  Rounding the number of rows keeps the shapes few, which oneDNN needs: it prepares
    a kernel for every new shape of a bfloat16 product.
    """
    if torch.is_autocast_enabled("cpu"):
        hidden = hidden.bfloat16()
    picks, experts = top_k_index.shape[1], self.num_experts
    chosen = top_k_index.reshape(-1)
    rank = F.one_hot(chosen, experts).cumsum(0).gather(1, chosen[:, None])[:, 0] - 1
    capacity = CAPACITY_STEP * math.ceil(int(rank.max() + 1) / CAPACITY_STEP)
    slots = chosen * capacity + rank
    rows = ScatterRows.apply(hidden, slots, picks, experts * capacity).view(experts, capacity, -1)
    inner = self._apply_gate(torch.bmm(rows, self.gate_up_proj.transpose(1, 2)))
    outer = torch.bmm(inner, self.down_proj.transpose(1, 2)).flatten(0, 1)
    picked = GatherRows.apply(outer, slots).view(-1, picks, hidden.shape[1])
    return (picked * top_k_weights[..., None]).sum(1)


def banded_attention(module, query, key, value, attention_mask, scaling, sliding_window, **_):
    """Sliding-window attention by blocks of queries, which skips the keys no query of a block sees."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    query = query.float()
    key, value = (states.float().repeat_interleave(groups, 1) for states in (key, value))
    blocks = []
    for start in range(0, length, ATTENTION_BLOCK):
        end, first = min(start + ATTENTION_BLOCK, length), max(0, start - sliding_window)
        distance = torch.arange(start, end)[:, None] - torch.arange(first, end)
        mask = (distance >= 0) & (distance < sliding_window)
        with torch.autocast("cpu", enabled=False):  # float32 is the faster arithmetic here
            blocks.append(
                F.scaled_dot_product_attention(
                    query[:, :, start:end], key[:, :, first:end], value[:, :, first:end], mask, scale=scaling
                )
            )
    return torch.cat(blocks, 2).transpose(1, 2), None


def make_model(config):
    """A fresh model that uses the two functions above; nothing of them is left in a saved model."""
    ALL_EXPERTS_FUNCTIONS.register("padded", padded_experts)
    ALL_ATTENTION_FUNCTIONS.register("banded", banded_attention)
    return MixtralForCausalLM._from_config(config, experts_implementation="padded", attn_implementation="banded")


# --- training -------------------------------------------------------------------------------------


def random_batch(tokens, generator):
    """BATCH sequences of CONTEXT bytes from anywhere in the text."""
    starts = torch.randint(len(tokens) - CONTEXT + 1, (BATCH, 1), generator=generator)
    return tokens[starts + torch.arange(CONTEXT)]


def make_optimizer(model):
    """AdamW that leaves the gains of the norms undecayed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def learning_rate(progress):
    """Linear warm-up, then cosine decay; progress is the fraction of the time that has passed."""
    if progress < WARM_UP:
        return PEAK_RATE * max(progress / WARM_UP, 0.01)
    cosine = math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * (1 + cosine) / 2


def train_step(model, forward, optimizer, batch, rate):
    """One update; returns the cross-entropy in bits per byte, without the balancing term.

    The balancing loss is summed over the layers: transformers' own averages the use of an expert over all of
    them first, which is content with experts that one layer never uses and another always does.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        output = forward(batch, output_router_logits=True, use_cache=False)
    config, vocabulary = model.config, output.logits.shape[-1]
    cross_entropy = F.cross_entropy(output.logits[:, :-1].float().reshape(-1, vocabulary), batch[:, 1:].flatten())
    balancing = sum(
        load_balancing_loss_func((logits,), config.num_local_experts, config.num_experts_per_tok)
        for logits in output.router_logits
    )
    (cross_entropy + config.router_aux_loss_coef * balancing).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return cross_entropy.item() / math.log(2)


def train(model, training, held_out, minutes, out):
    """Trains for the given wall-clock time and returns the curve; saves the model at each of its points."""
    forward, optimizer = torch.compile(model), make_optimizer(model)
    generator = torch.Generator().manual_seed(0)
    curve, recent, steps, begin = [], [], 0, time.monotonic()
    with tqdm(total=60 * minutes, unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}") as bar:
        while (elapsed := time.monotonic() - begin) < 60 * minutes:
            progress = elapsed / (60 * minutes)
            recent.append(train_step(model, forward, optimizer, random_batch(training, generator), learning_rate(progress)))
            steps += 1
            bar.set_postfix(step=steps, bpb=f"{recent[-1]:.3f}", refresh=False)
            bar.update(elapsed - bar.n)
            if progress * EVALUATIONS >= len(curve) + 1:
                curve.append(measure(model, held_out, begin, steps, recent))
                save_model(model, out)
                write_curve(curve, out)
                recent = []
    if recent:
        curve.append(measure(model, held_out, begin, steps, recent))
    return curve


def measure(model, held_out, begin, steps, recent):
    """A point of the curve: (minutes, steps, training and validation bits per byte).

    To be fast, the latter is measured on evenly spread windows and in training's arithmetic.
    """
    minutes = (time.monotonic() - begin) / 60
    with torch.autocast("cpu", torch.bfloat16):
        validation = bits_per_byte(model, held_out, THINNING)
    return minutes, steps, sum(recent) / len(recent), validation


# --- evaluation -----------------------------------------------------------------------------------


@torch.inference_mode()
def bits_per_byte(model, tokens, thinning=1):
    """Scores a text as PROTOCOL says, or only one batch of windows in `thinning`."""
    total = scored = 0
    for batch, skip in islice(windows(tokens, model.config.max_position_embeddings), 0, None, thinning):
        logits = model(batch, use_cache=False).logits[:, skip - 1 : -1].float()
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, skip:].flatten(), reduction="sum").item()
        scored += batch[:, skip:].numel()
    return total / math.log(2) / scored


def windows(tokens, context):
    """Yields (batch of windows, bytes not scored): the first window, the full ones, the last one."""
    half = context // 2
    yield tokens[None, :context], 1
    full = tokens[half:].unfold(0, context, half) if len(tokens) >= half + context else tokens.new_empty(0, context)
    for first in range(0, len(full), BATCH):
        yield full[first : first + BATCH], half
    rest = half + half * len(full)
    if len(tokens) > rest + half:
        yield tokens[None, rest:], half


def evaluate(model, tokens):
    """Returns the bits per byte of a text, and for each layer the fraction of its picks that each expert got."""
    routers = [module for module in model.modules() if isinstance(module, MixtralTopKRouter)]
    counts = torch.zeros(len(routers), model.config.num_local_experts)

    def hook_of(layer):
        def count(_module, _inputs, output):
            counts[layer] += output[2].flatten().bincount(minlength=counts.shape[1])

        return count

    hooks = [router.register_forward_hook(hook_of(layer)) for layer, router in enumerate(routers)]
    bits = bits_per_byte(model, tokens)
    for hook in hooks:
        hook.remove()
    return bits, (counts / counts.sum(1, keepdim=True)).tolist()


def sample(model):
    """Generated text, twice as long as the window so that the cache must roll."""
    torch.manual_seed(0)
    prompt = as_tokens(SAMPLE_PROMPT)[None]
    tokens = model.generate(prompt, do_sample=True, temperature=TEMPERATURE, top_k=0, max_new_tokens=SAMPLE_BYTES)
    return bytes(tokens[0].tolist()).decode("ascii", "replace")


# --- output ---------------------------------------------------------------------------------------


def save_model(model, out):
    """Writes config.json and model.safetensors in bfloat16."""
    half = MixtralForCausalLM(make_config())
    half.load_state_dict(model.state_dict())
    half.bfloat16().save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)  # says nothing
    written = json.loads((out / "config.json").read_text())
    written["rope_theta"] = written["rope_parameters"]["rope_theta"]  # where readers of published Mixtrals look
    (out / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def write_curve(curve, out):
    """Writes curve.csv and curve.png."""
    with open(out / "curve.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["minutes", "steps", "training_bits_per_byte", "validation_bits_per_byte"])
        writer.writerows([f"{m:.2f}", steps, f"{t:.4f}", f"{v:.4f}"] for m, steps, t, v in curve)
    matplotlib.use("Agg")
    from matplotlib import pyplot  # needs the backend chosen first

    minutes, _, training, validation = zip(*curve)
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(minutes, training, ".-", label="training")
    axes.plot(minutes, validation, ".-", label="held-out books")
    axes.set(xlabel="minutes", ylabel="bits per byte")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out / "curve.png", dpi=100)
    pyplot.close(figure)


@torch.inference_mode()
def write_reference(model, tokens, out):
    """Writes the logits of the first REFERENCE_BYTES of the held-out text."""
    token_ids = tokens[None, :REFERENCE_BYTES].contiguous()
    logits = model(token_ids, use_cache=False).logits
    save_file({"token_ids": token_ids, "logits": logits.contiguous()}, out / "reference_logits.safetensors")


def write_metrics(model, tokens, held_out, figures, out):
    """Writes metrics.json; the evaluation is that of the saved model, reloaded in float32 arithmetic."""
    bits, shares = evaluate(model, tokens)
    metrics = {
        "parameters": model.num_parameters(),
        **figures,
        "held_out_books": held_out,
        "held_out_rule": f"every {HELD_OUT_EVERY}th of the 66 books, from the {HELD_OUT_FIRST}th on",
        "validation_bytes": len(tokens),
        "validation_bits_per_byte": round(bits, 5),
        "protocol": PROTOCOL,
        "expert_share_by_layer": [[round(share, 4) for share in layer] for layer in shares],
        "sample": sample(model),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    text = json.dumps(metrics, indent=1)
    (out / "metrics.json").write_text(text + "\n")
    print(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=50, help="wall-clock time of the training (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this one)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    training, validation, held_out = split(read_books())
    (out / "validation.txt").write_bytes(validation)
    tokens = as_tokens(validation)

    begin_cpu = time.process_time()
    model = make_model(make_config())
    curve = train(model, as_tokens(training), tokens, arguments.minutes, out)
    minutes, steps = curve[-1][:2]
    figures = {
        "training_minutes": round(minutes, 1),
        "training_cpu_minutes": round((time.process_time() - begin_cpu) / 60, 1),
        "training_bytes": len(training),
        "steps": steps,
        "tokens_seen": steps * BATCH * CONTEXT,
    }
    save_model(model, out)
    write_curve(curve, out)

    saved = MixtralForCausalLM.from_pretrained(out, dtype=torch.float32)
    write_reference(saved, tokens, out)
    write_metrics(saved, tokens, held_out, figures, out)


if __name__ == "__main__":
    main()
