#!/usr/bin/env python3
"""Trains predictors of the routing of the model next to this script and writes them there.

The path predictor (ExpertFlow, He et al. 2024; include/moe/predictors/path_predictor.hpp) sees only the bytes so far
and says which experts every layer will pick for the newest one, before the first layer runs.  It learns from what the
model picks on its own training text.  The first-layer gate (AdapMoE, Zhong et al. 2024; first_gate.hpp) says which
experts layer 0 will pick for the next byte, before that byte is known.  Compares them with the library's other
predictors on the held-out books.  Needs what train.py needs; one core and ten minutes are enough.

    OMP_NUM_THREADS=1 python train_path_predictor.py

writes path_predictor.safetensors, path_predictor.json (sizes and figures), path_predictor_reference.safetensors
(what the predictor says about the first bytes of validation.txt, and what the model picked) and
first_gate.safetensors, which is all that --first-gate-only writes, in a minute.
"""

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm, trange
from transformers import MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from train import BATCH, CONTEXT, as_tokens, read_books, split, windows

WIDTH, WINDOW, HIDDEN = 32, 8, 384  # d, W, h
DECAYS = (0.8, 0.9, 0.95, 0.98, 0.995)
STEPS, RATE, WARM_UP = 1500, 4e-3, 50
FIRST_GATE_WINDOWS, FIRST_GATE_STEPS, FIRST_GATE_RATE = 256, 300, 2e-2
REFERENCE_BYTES = 160


# --- what the model picks -------------------------------------------------------------------------


class Recorder:
    """Runs the model and keeps what its routers saw and picked."""

    def __init__(self, model):
        self.model, self.seen = model, {}
        self.routers = [module for module in model.modules() if isinstance(module, MixtralTopKRouter)]
        for layer, router in enumerate(self.routers):
            router.register_forward_hook(self.hook_of(layer))

    def hook_of(self, layer):
        def keep(_module, inputs, output):
            self.seen[layer] = inputs[0], output[2]

        return keep

    @torch.inference_mode()
    def __call__(self, batch):
        """Returns picks [B,T,L,k], guesses of each next layer's gate [B,T,L-1,E], last hidden states [B,T,H]."""
        last = self.model.model(batch, use_cache=False).last_hidden_state
        shape = (*batch.shape, -1)
        picks = [self.seen[layer][1].view(shape).to(torch.uint8) for layer in range(len(self.routers))]
        guesses = [
            F.linear(self.seen[layer][0].reshape(shape), router.weight) for layer, router in enumerate(self.routers[1:])
        ]
        return torch.stack(picks, 2), torch.stack(guesses, 2), last


def record_training(record, tokens, count, used):
    """Returns `used` of `count` spread windows in random order [N,T], their picks [N,T,L,k], last hidden states of the
    first ones."""
    starts = torch.linspace(0, len(tokens) - CONTEXT, count).long()[torch.randperm(count)[:used]]
    batches = tokens[starts[:, None] + torch.arange(CONTEXT)]
    picks, lasts = [], []
    for batch in tqdm(batches.split(2 * BATCH), desc="model on the training text"):
        picked, _, last = record(batch)
        picks.append(picked)
        if sum(map(len, lasts)) < FIRST_GATE_WINDOWS:
            lasts.append(last)
    return batches, torch.cat(picks), torch.cat(lasts)


def multi_hot(picks, experts):
    """[..,k] ids to [..,E] zeros and ones."""
    return torch.zeros(*picks.shape[:-1], experts).scatter_(-1, picks.long(), 1.0)


# --- the predictors -------------------------------------------------------------------------------


class PathPredictor(nn.Module):
    """The network of path_predictor.hpp, over whole sequences of at most CONTEXT tokens at once."""

    def __init__(self, vocabulary, layers, experts):
        super().__init__()
        self.outputs = layers, experts
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.enter = nn.Linear(WIDTH * (WINDOW + len(DECAYS)), HIDDEN)
        self.leave = nn.Linear(HIDDEN, layers * experts)
        self.register_buffer("decays", torch.tensor(DECAYS))
        lag = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
        weights = (1 - self.decays) * self.decays ** lag.clamp(min=0)[..., None]
        self.averaging = torch.where(lag[..., None] >= 0, weights, 0.0).permute(2, 0, 1)  # [R,T,T]

    def forward(self, ids):
        length, x = ids.shape[1], self.embedding(ids)
        padded = F.pad(x, (0, 0, WINDOW - 1, 0))
        recent = [padded[:, WINDOW - 1 - back :][:, :length] for back in range(WINDOW)]
        averages = [average[:length, :length] @ x for average in self.averaging]
        hidden = F.silu(self.enter(torch.cat(recent + averages, -1)))
        return self.leave(hidden).unflatten(-1, self.outputs)


def learning_rate(step):
    """Linear warm-up, then cosine decay to nothing."""
    return RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / STEPS)) / 2


def train_path_predictor(predictor, ids, picks):
    """Binary cross-entropy, summed over experts and averaged over tokens and layers, as in the paper."""
    optimizer = torch.optim.AdamW(predictor.parameters(), weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    experts = predictor.outputs[1]
    with trange(STEPS, desc="path predictor") as steps:
        for step in steps:
            optimizer.param_groups[0]["lr"] = learning_rate(step)
            chosen = torch.randint(len(ids), (BATCH,), generator=generator)
            logits, target = predictor(ids[chosen]), multi_hot(picks[chosen], experts)
            loss = experts * F.binary_cross_entropy_with_logits(logits, target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 0:
                steps.set_postfix(loss=f"{loss.item():.3f}")


def token_frequencies(ids, picks, vocabulary, experts):
    """Counts by token id [V,L,E]."""
    hits = multi_hot(picks, experts).flatten(0, 1)
    return torch.zeros(vocabulary, *hits.shape[1:]).index_add_(0, ids.flatten(), hits)


def train_first_gate(last, picks, experts):
    """AdapMoE's gate: layer 0's picks for a token from the last hidden state of the token before."""
    inputs, target = last[:, :-1].flatten(0, 1), multi_hot(picks[:, 1:, 0], experts).flatten(0, 1)
    gate = nn.Linear(inputs.shape[1], experts)
    nn.init.zeros_(gate.weight)  # a convex loss: the same gate whatever was drawn before
    nn.init.zeros_(gate.bias)
    optimizer = torch.optim.Adam(gate.parameters(), lr=FIRST_GATE_RATE)
    for _ in trange(FIRST_GATE_STEPS, desc="first-layer gate"):
        F.binary_cross_entropy_with_logits(gate(inputs), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return gate


# --- evaluation -----------------------------------------------------------------------------------


class Recall:
    """The share of the model's picks that are among a predictor's best n of each layer."""

    def __init__(self, sizes):
        self.found, self.picks = {n: 0 for n in sizes}, 0

    def add(self, logits, picks):
        """[..,L,E] and [..,L,k]; sums by layer."""
        target = multi_hot(picks, logits.shape[-1])
        self.picks += target.sum((0, 1, 3))
        for n in self.found:
            self.found[n] += target.gather(-1, logits.topk(n, -1).indices).sum((0, 1, 3))

    def figures(self):
        share = {f"recall@{n}": round((found.sum() / self.picks.sum()).item(), 4) for n, found in self.found.items()}
        best = next(iter(self.found))
        by_layer = [round(value, 4) for value in (self.found[best] / self.picks).tolist()]
        return {**share, f"recall@{best} by layer": by_layer}


def predictions_of_gate(first_gate, picks, last):
    """{name: (logits, picks)}, as `evaluate` wants them."""
    return {"first-layer gate": (first_gate(last[:, :-1])[:, :, None], picks[:, 1:, :1])}


def predictions_of_all(predictor, counts, first_gate, batch, skip, picks, guesses, last):
    paths = predictor(batch)[:, skip:]
    return {
        "path predictor": (paths, picks),
        "token frequencies": (counts[batch[:, skip:]], picks),
        "next layer's gate": (guesses, picks[:, :, 1:]),
        "path predictor, layers that a gate can predict": (paths[:, :, 1:], picks[:, :, 1:]),
        **predictions_of_gate(first_gate, picks, last),
        "path predictor, first layer": (paths[:, 1:, :1], picks[:, 1:, :1]),
    }


@torch.inference_mode()
def evaluate(record, predictions_of, tokens, sizes):
    """Figures of predictors, by name, on the bytes that train.py's protocol scores."""
    recalls = {}
    for batch, skip in tqdm(list(windows(tokens, CONTEXT)), desc="held-out books"):
        seen = (part[:, skip:] for part in record(batch))
        for name, (logits, picked) in predictions_of(batch, skip, *seen).items():
            recalls.setdefault(name, Recall(sizes)).add(logits, picked)
    return {name: recall.figures() for name, recall in recalls.items()}


# --- output ---------------------------------------------------------------------------------------


def save_predictor(predictor, description, out):
    """Writes the tensors that moe::io::read_path_predictor wants."""
    layers, experts = predictor.outputs
    inputs = WINDOW + len(DECAYS)
    tensors = {
        "decays": predictor.decays,
        "embedding": predictor.embedding.weight,
        "enter.weight": predictor.enter.weight.view(HIDDEN, inputs, WIDTH),
        "enter.bias": predictor.enter.bias,
        "leave.weight": predictor.leave.weight.view(layers, experts, HIDDEN),
        "leave.bias": predictor.leave.bias.view(layers, experts),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "path_predictor": json.dumps(description)}
    save_file(tensors, out / "path_predictor.safetensors", metadata)
    (out / "path_predictor.json").write_text(json.dumps(description, indent=1) + "\n")


def save_first_gate(gate, windows, figures, out):
    """Writes the tensors that moe::io::read_first_gate wants."""
    description = {
        "training_bytes": windows * CONTEXT,
        "steps": FIRST_GATE_STEPS,
        "held_out": figures["first-layer gate"],
    }
    tensors = {"weight": gate.weight.detach(), "bias": gate.bias.detach()}
    metadata = {"format": "pt", "first_gate": json.dumps(description)}
    save_file(tensors, out / "first_gate.safetensors", metadata)
    print(json.dumps(description, indent=1))


@torch.inference_mode()
def write_reference(record, predictor, tokens, out):
    batch = tokens[None, :REFERENCE_BYTES].contiguous()
    reference = {
        "token_ids": batch[0].to(torch.uint8),
        "logits": predictor(batch)[0].contiguous(),
        "picks": record(batch)[0][0].contiguous(),
    }
    save_file(reference, out / "path_predictor_reference.safetensors")


def parse_arguments():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1536, help="windows of the training text (default: %(default)s)")
    parser.add_argument("--first-gate-only", action="store_true", help="train and write nothing else")
    parser.add_argument("--out", type=Path, default=here, help="folder to write to (default: this one)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    return parser.parse_args()


def sizes_of(config):
    """How many of each layer's experts a predictor may name."""
    k = config.num_experts_per_tok
    return k, math.ceil(1.5 * k), 2 * k


def train_gate_only(record, training, validation, config, arguments):
    _, picks, last = record_training(record, training, arguments.windows, FIRST_GATE_WINDOWS)
    gate = train_first_gate(last, picks, config.num_local_experts)

    def predictions_of(_batch, _skip, picks, _guesses, last):
        return predictions_of_gate(gate, picks, last)

    figures = evaluate(record, predictions_of, validation, sizes_of(config))
    save_first_gate(gate, len(last), figures, arguments.out)


def train_all(record, training, validation, config, arguments):
    experts = config.num_local_experts
    ids, picks, last = record_training(record, training, arguments.windows, arguments.windows)
    predictor = PathPredictor(config.vocab_size, config.num_hidden_layers, experts)
    train_path_predictor(predictor, ids, picks)
    counts = token_frequencies(ids, picks, config.vocab_size, experts)
    first_gate = train_first_gate(last, picks[: len(last)], experts)
    predictions_of = partial(predictions_of_all, predictor, counts, first_gate)
    figures = evaluate(record, predictions_of, validation, sizes_of(config))
    description = {
        "width": WIDTH,
        "window": WINDOW,
        "decays": DECAYS,
        "hidden": HIDDEN,
        "layers": config.num_hidden_layers,
        "experts": experts,
        "k": config.num_experts_per_tok,
        "parameters": sum(parameter.numel() for parameter in predictor.parameters()),
        "training_bytes": ids.numel(),
        "steps": STEPS,
        "cpu_minutes": round(time.process_time() / 60, 1),
        "held_out": figures,
    }
    save_first_gate(first_gate, len(last), figures, arguments.out)
    save_predictor(predictor, description, arguments.out)
    write_reference(record, predictor, validation, arguments.out)
    print(json.dumps(description, indent=1))


def main():
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    training, validation, _ = split(read_books())
    model = MixtralForCausalLM.from_pretrained(Path(__file__).parent, dtype=torch.float32).eval()
    train = train_gate_only if arguments.first_gate_only else train_all
    train(Recorder(model), as_tokens(training), as_tokens(validation), model.config, arguments)


if __name__ == "__main__":
    main()
