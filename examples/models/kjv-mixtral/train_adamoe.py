#!/usr/bin/env python3
"""Turns the trained model into an AdaMoE (Zeng et al., EMNLP Findings 2024) and writes what changed to adamoe/.

Every layer gets as many null experts, which do nothing, as it has true ones; a token picks 3 of all, so that it
uses 0 to 3 true experts.  The nulls start as copies of the true experts' gates, which is exactly the model's top-2.
Two stages of fine-tuning follow, half of the time each, with the paper's weights of the balancing loss.
Needs what train.py needs.

    OMP_WAIT_POLICY=passive python train_adamoe.py --minutes 12

--control tunes the same tensors of the top-2 model as long instead, the fair comparison, and stores its figures only.
"""

import argparse
import copy
import hashlib
import json
import math
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from train import (
    BATCH,
    CLIP,
    CONTEXT,
    GatherRows,
    ScatterRows,
    as_tokens,
    banded_attention,
    bits_per_byte,
    learning_rate,
    make_optimizer,
    padded_experts,
    random_batch,
    read_books,
    split,
    write_reference,
)

ALPHAS = (0.02, 1e-4)  # the paper's weights of the balancing loss, stage by stage
RATE = 0.2  # of train.py's learning rate
TRAINED = ("gate.", "norm", "down_proj")  # parts of the names of the tensors that are tuned, and so stored
TARGET_LOAD = 1.66  # true experts per token and layer; what the paper's Mixtral came to
CALIBRATION_WINDOWS = 32  # of the training text, on which the shift is chosen
LARGEST_SHIFT, SHIFT_STEPS = 8.0, 16  # where, and in how many halvings, it is sought


# --- model ----------------------------------------------------------------------------------------


class NullExpertRouter(MixtralTopKRouter):
    """Picks the best of the true and the null experts and shares the weight among the true ones.

    `shift` is added to the null experts' logits: the larger it is, the fewer true experts run.
    """

    def __init__(self, config, router, nulls):
        super().__init__(config)
        self.weight = router.weight
        self.null_weight = torch.nn.Parameter(router.weight.detach()[:nulls].clone())
        self.top_k = 2 * config.num_experts_per_tok - 1 if nulls else config.num_experts_per_tok
        self.shift = 0.0

    def forward(self, hidden_states):
        """Returns the logits of all experts, the weights of the picks and their ids.

        A null's weight is 0 and its id is `num_experts`, which the experts pass over.
        """
        with torch.autocast("cpu", enabled=False):
            hidden = hidden_states.reshape(-1, self.hidden_dim).float()
            nulls = F.linear(hidden, self.null_weight) + self.shift
            logits = torch.cat((F.linear(hidden, self.weight), nulls), 1)
            picked, ids = top_k(logits, self.top_k)
            is_null = ids >= self.num_experts
            weights = picked.masked_fill(is_null, torch.finfo(picked.dtype).min).softmax(-1).masked_fill(is_null, 0.0)
        return logits, weights, ids.clamp(max=self.num_experts)


def top_k(logits, k):
    """The k largest; ties go to the lower id, and so to a true expert before a null one."""
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], ids[:, :k]


@torch.compiler.disable
def padded_true_experts(self, hidden, top_k_index, top_k_weights):
    """train.py's experts for the picks of true experts only."""
    picks = top_k_index.shape[1]
    chosen = (top_k_index.flatten() < self.num_experts).nonzero()[:, 0]
    pairs = hidden[:, None].expand(-1, picks, -1).flatten(0, 1)
    weights = GatherRows.apply(top_k_weights.reshape(-1, 1), chosen)
    rows = padded_experts(self, GatherRows.apply(pairs, chosen), top_k_index.reshape(-1, 1)[chosen], weights)
    return ScatterRows.apply(rows, chosen, 1, len(pairs)).unflatten(0, (-1, picks)).sum(1)


def load_base(folder, **implementations):
    """The model of a folder in float32."""
    ALL_EXPERTS_FUNCTIONS.register("padded_true", padded_true_experts)
    ALL_ATTENTION_FUNCTIONS.register("banded", banded_attention)
    return MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32, **implementations)


def add_nulls(model, nulls):
    """Gives the model null experts whose gates are copies of the true experts'."""
    for layer in model.model.layers:
        layer.mlp.gate = NullExpertRouter(model.config, layer.mlp.gate, nulls)
    return model


def routers(model):
    return [layer.mlp.gate for layer in model.model.layers]


def set_shift(model, shift):
    for router in routers(model):
        router.shift = shift


# --- training -------------------------------------------------------------------------------------


def balancing_loss(logits, true_experts, k):
    """(n + m) sum_i f_i P_i of one layer, where all nulls share one f, their average.

    f_i is the share of tokens that picked i, P_i its mean probability.
    """
    share = top_k(logits, k)[1].flatten().bincount(minlength=logits.shape[1]) / len(logits)
    share[true_experts:] = share[true_experts:].mean()
    return logits.shape[1] * (share * logits.softmax(-1).mean(0)).sum()


def make_forward(model):
    """Compiled: a batch to its logits and to those of the routers."""

    def forward(batch):
        output = model.model(batch, output_router_logits=True, use_cache=False)
        return model.lm_head(output.last_hidden_state), output.router_logits

    return torch.compile(forward)


def tune_step(model, forward, optimizer, batch, alpha, rate):
    """One update; returns the cross-entropy in bits per byte and the load."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        logits, router_logits = forward(batch)
    cross_entropy = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten())
    experts, k = model.config.num_local_experts, routers(model)[0].top_k
    balancing = sum(balancing_loss(layer, experts, k) for layer in router_logits)
    (cross_entropy + alpha * balancing).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    true_picks = sum((top_k(layer.detach(), k)[1] < experts).float().sum(1).mean().item() for layer in router_logits)
    return cross_entropy.item() / math.log(2), true_picks / len(router_logits)


def tune(model, forward, optimizer, draw, stage, minutes):
    """One stage, an equal part of the given time of all; returns its steps and the averages of its last tenth."""
    seconds, recent, begin = 60 * minutes / len(ALPHAS), [], time.monotonic()
    with tqdm(total=seconds, unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}") as bar:
        bar.set_description(f"stage {stage + 1}")
        while (elapsed := time.monotonic() - begin) < seconds:
            rate = RATE * learning_rate((stage + elapsed / seconds) / len(ALPHAS))
            recent.append(tune_step(model, forward, optimizer, draw(), ALPHAS[stage], rate))
            bits, load = recent[-1]
            bar.set_postfix(step=len(recent), bpb=f"{bits:.3f}", load=f"{load:.3f}", refresh=False)
            bar.update(elapsed - bar.n)
    last = torch.tensor(recent[-math.ceil(len(recent) / 10) :]).mean(0).tolist()
    return {
        "alpha": ALPHAS[stage],
        "steps": len(recent),
        "training_bits_per_byte": round(last[0], 4),
        "training_load": round(last[1], 4),
    }


def tuned_tensors(model):
    """What tuning changed, in bfloat16."""
    return {name: p.detach().to(torch.bfloat16, copy=True) for name, p in model.named_parameters() if p.requires_grad}


# --- evaluation -----------------------------------------------------------------------------------


class LoadCounter:
    """Counts, while it is entered, for each layer the tokens with 0, 1, 2 ... true experts."""

    def __init__(self, model):
        self.routers = routers(model)
        self.tokens = torch.zeros(len(self.routers), self.routers[0].top_k + 1)

    def __enter__(self):
        self.hooks = [router.register_forward_hook(self.hook(layer)) for layer, router in enumerate(self.routers)]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def hook(self, layer):
        def count(router, _inputs, output):
            true_experts = (output[2] < router.num_experts).sum(1)
            self.tokens[layer] += true_experts.bincount(minlength=self.tokens.shape[1])

        return count

    def shares(self):
        return self.tokens / self.tokens.sum(1, keepdim=True)

    def load_by_layer(self):
        return self.shares() @ torch.arange(self.tokens.shape[1]).float()


def evaluate(model, tokens):
    """The held-out figures, at the model's present shift."""
    with LoadCounter(model) as counter:
        bits = bits_per_byte(model, tokens)
    return {
        "null_logit_shift": round(routers(model)[0].shift, 5),
        "validation_bits_per_byte": round(bits, 5),
        "load": round(counter.load_by_layer().mean().item(), 4),
        "load_by_layer": [round(load, 4) for load in counter.load_by_layer().tolist()],
        "share_of_tokens_by_true_experts": [round(share, 4) for share in counter.shares().mean(0).tolist()],
    }


@torch.inference_mode()
def load_of(model, windows):
    with LoadCounter(model) as counter:
        for batch in windows.split(BATCH):
            model(batch, use_cache=False)
    return counter.load_by_layer().mean().item()


def calibrate_shift(model, windows):
    """Bisects the shift at which the windows' load is nearest to TARGET_LOAD, and leaves the model with it."""
    low, high = -LARGEST_SHIFT, LARGEST_SHIFT
    for _ in tqdm(range(SHIFT_STEPS), desc="shift", leave=False):
        middle = (low + high) / 2
        set_shift(model, middle)
        low, high = (middle, high) if load_of(model, windows) > TARGET_LOAD else (low, middle)


def evaluate_shifted(model, tokens, windows):
    """The held-out figures at the shift that brings the training text's load to TARGET_LOAD."""
    calibrate_shift(model, windows)
    figures = {"calibration_load": round(load_of(model, windows), 4), **evaluate(model, tokens)}
    set_shift(model, 0.0)
    return figures


def calibration_windows(training):
    """Windows from all over the text."""
    starts = torch.linspace(0, len(training) - CONTEXT, CALIBRATION_WINDOWS).long()
    return training[starts[:, None] + torch.arange(CONTEXT)]


@torch.inference_mode()
def compare_start(base, converted, tokens):
    """How far the converted model, still untuned, is from the base: nothing but rounding is expected."""
    batch = tokens[: BATCH * CONTEXT].view(BATCH, CONTEXT)
    expected, got = base(batch, use_cache=False).logits, converted(batch, use_cache=False).logits
    with LoadCounter(converted) as counter:
        converted(batch, use_cache=False)
    difference = (got - expected).abs().max().item()
    if difference > 1e-4 * expected.abs().max().item():
        raise SystemExit(f"the converted model does not start as the base: its logits differ by {difference}")
    return {
        "bytes": batch.numel(),
        "largest_logit": round(expected.abs().max().item(), 4),
        "largest_logit_difference": difference,
        "load_by_layer": counter.load_by_layer().tolist(),
    }


# --- output ---------------------------------------------------------------------------------------


def checkpoint_names(tensors):
    """Renames to the published checkpoints' names and gives every expert a tensor of its own."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace(".mlp.", ".block_sparse_moe.").replace("gate.null_weight", "gate2.weight")
        if name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            renamed |= {f"{stem}{expert}.w2.weight": matrix.contiguous() for expert, matrix in enumerate(tensor)}
        else:
            renamed[name] = tensor
    return renamed


def save(tensors, base, nulls, k, out):
    """Writes adamoe.safetensors, the tensors that replace or join the base's, and config.json."""
    save_file(checkpoint_names(tensors), out / "adamoe.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config |= {
        "architectures": ["AdaMoeMixtral"],
        "model_type": "adamoe",
        "num_null_experts": nulls,
        "num_experts_per_tok": k,
        "router_aux_loss_coef": ALPHAS[-1],
    }
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_saved(base, out, nulls):
    """The model as a reader finds it: the base's file, replaced tensor by tensor, and the gates of the nulls."""
    tensors = load_file(base / "model.safetensors") | load_file(out / "adamoe.safetensors")
    gates = {name: tensors.pop(name) for name in list(tensors) if name.endswith("gate2.weight")}
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text((base / "config.json").read_text())
        model = add_nulls(load_base(folder, experts_implementation="eager"), nulls)
    for layer, router in enumerate(routers(model)):
        router.null_weight.data.copy_(gates[f"model.layers.{layer}.block_sparse_moe.gate2.weight"])
    return model


def parse_arguments():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="wall-clock time of tuning (default: %(default)s)")
    parser.add_argument("--base", type=Path, default=here, help="folder of the trained model (default: this one)")
    parser.add_argument("--out", type=Path, default=here / "adamoe", help="folder to write to (default: adamoe)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--control", action="store_true", help="tune without nulls; write control_metrics.json only")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    base, out = arguments.base, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    training, validation, _ = split(read_books())
    training, tokens = as_tokens(training), as_tokens(validation)
    calibration = calibration_windows(training)

    model = load_base(base, experts_implementation="padded_true", attn_implementation="banded")
    nulls = 0 if arguments.control else model.config.num_local_experts
    add_nulls(model, nulls).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINED))

    original = load_base(base, experts_implementation="eager")
    evaluated = add_nulls(copy.deepcopy(original), nulls)
    metrics = {
        "base_sha256": hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest(),
        "true_experts": model.config.num_local_experts,
        "null_experts": nulls,
        "experts_per_token": routers(model)[0].top_k,
        "tuned_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "untuned_against_base": compare_start(original, evaluated, tokens),
        "before": evaluate(evaluated, tokens),
    }
    del original

    forward, optimizer = make_forward(model), make_optimizer(model)
    generator = torch.Generator().manual_seed(1)

    def draw():
        return random_batch(training, generator)

    for stage in range(len(ALPHAS)):
        key = f"after_stage_{stage + 1}"
        stage_figures = tune(model, forward, optimizer, draw, stage, arguments.minutes)
        if not arguments.control:
            save(tuned_tensors(model), base, nulls, routers(model)[0].top_k, out)
            evaluated = load_saved(base, out, nulls)
        else:
            evaluated.load_state_dict(tuned_tensors(model), strict=False)
        metrics[key] = {**stage_figures, **evaluate(evaluated, tokens)}
        if not arguments.control:
            metrics[f"{key}_shifted"] = evaluate_shifted(evaluated, tokens, calibration)
        print(json.dumps(metrics[key]))

    if not arguments.control:
        write_reference(evaluated, tokens, out)
    text = json.dumps(metrics, indent=1)
    (out / ("control_metrics.json" if arguments.control else "metrics.json")).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
