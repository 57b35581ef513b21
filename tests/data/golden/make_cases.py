"""Makes the golden cases of the families in families.py: one folder each, with the files that README.md describes.

    python tests/data/golden/make_cases.py [family ...]      # all families without arguments

Needs transformers 5.23, torch (CPU) and safetensors. Each case is the family's own block from transformers with random
weights, run in float32. The weights are written under the names of the published checkpoints: transformers' conversion
table, reversed, turns its own names into them. Runs repeat bit for bit on the same versions.
"""

import importlib
import inspect
import json
import pathlib
import sys
import types
from dataclasses import dataclass, field

import torch
import transformers
from safetensors.torch import save_file
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from families import FAMILIES

TOKENS = 17
SEEDS = 200
TRIALS = 32  # perturbed copies of each input row, of which none may move a pick
JITTER = 1e-3
GAIN = 2  # of a random matrix: wide enough that limits clamp and scores spread


@dataclass
class Result:
    """What one run of a block gave; `extra` holds tensors that only some families have."""

    router_logits: torch.Tensor
    topk_ids: torch.Tensor
    topk_weights: torch.Tensor
    output: torch.Tensor
    extra: dict = field(default_factory=dict)


# ---- running a block --------------------------------------------------------------------------------------------


def captured(module, call):
    """Calls `call` and returns its result and what `module` returned during it."""
    outputs = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    result = call()
    hook.remove()
    return result, outputs[0]


def run_block(family, block, inputs):
    """A block whose router returns (logits, weights, ids)."""
    router = block.get_submodule(family.router)
    output, (logits, weights, ids) = captured(router, lambda: block(inputs["input"][None]))
    return Result(logits, ids, weights, output[0])


def run_hash(family, block, inputs):
    call = lambda: block(inputs["input"][None], inputs["token_ids"][None])  # noqa: E731
    output, (logits, weights, ids) = captured(block.gate, call)
    return Result(logits, ids, weights, output[0])


def run_dbrx(family, block, inputs):
    output, logits = captured(block.router, lambda: block(inputs["input"][None]))
    weights, ids = block.route_tokens_to_experts(logits)
    return Result(logits, ids, weights, output[0])


def run_gemma4(family, block, inputs):
    (_, weights, ids), logits = captured(block.router.proj, lambda: block.router(inputs["input"]))
    return Result(logits, ids, weights, block.experts(inputs["expert_input"], ids, weights))


def run_zaya(family, block, inputs):
    """Skipped picks leave the router with id 0 and weight 0; the layer's first state is None."""
    state = inputs["router_state_in"][None] if "router_state_in" in inputs else None
    (output, _), (logits, weights, ids, next_state) = captured(block.gate, lambda: block(inputs["input"][None], state))
    ids = ids.masked_fill(weights == 0, -1)
    return Result(logits, ids, weights, output[0], {"router_state_out": next_state[0]})


def run_nllb(family, block, inputs):
    """The sum its authors mean; NllbMoeExperts sends every first pick to expert 1 and every second to expert 0."""
    _, gates, logits = block.router(inputs["input"])
    weights, ids = torch.topk(gates, 2, dim=-1)
    output = torch.zeros_like(inputs["input"])
    for expert in range(block.num_experts):
        output += gates[:, expert, None] * block.experts[f"expert_{expert}"](inputs["input"])
    return Result(logits, ids, weights, output * (1 - block.experts.moe_token_dropout))


# ---- blocks that transformers has only inside a decoder layer ---------------------------------------------------


class GraniteSharedBlock(torch.nn.Module):
    """The two branches that GraniteMoeSharedDecoderLayer adds."""

    def __init__(self, config):
        super().__init__()
        granite = importlib.import_module("transformers.models.granitemoeshared.modeling_granitemoeshared")
        self.block_sparse_moe = granite.GraniteMoeSharedMoE(config)
        self.shared_mlp = granite.GraniteMoeSharedMLP(config)

    def forward(self, hidden_states):
        return self.block_sparse_moe(hidden_states) + self.shared_mlp(hidden_states)


class Gemma4Block(torch.nn.Module):
    """The routed branch of Gemma4TextDecoderLayer, between its norms."""

    def __init__(self, config):
        super().__init__()
        gemma = importlib.import_module("transformers.models.gemma4.modeling_gemma4")
        self.router = gemma.Gemma4TextRouter(config)
        self.experts = gemma.Gemma4TextExperts(config)


# ---- making a case ----------------------------------------------------------------------------------------------


def configuration(family):
    """config.json as published, and the configuration object that transformers reads from it."""
    text = {**family.common, **family.keys}
    kind = text.pop("model_type")
    published = {"model_type": kind, **text}
    if family.nest:
        published = {"model_type": kind, "text_config": {"model_type": family.nest, **text}}
    return published, getattr(transformers, family.config)(**text)


def build(family, config, generator):
    modelling = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    block_class = globals().get(family.block) or getattr(modelling, family.block)
    config._experts_implementation = "eager"
    known = {"layer_idx": family.layer, "ffn_dim": getattr(config, "encoder_ffn_dim", None)}
    wanted = inspect.signature(block_class).parameters
    block = block_class(config, **{name: value for name, value in known.items() if name in wanted}).eval()
    for name, tensor in block.state_dict().items():
        tensor.copy_(random_weight(name, tensor, config, generator))
    return block


def random_weight(name, tensor, config, generator):
    if name.endswith("tid2eid"):
        rows = [torch.randperm(config.n_routed_experts, generator=generator) for _ in range(tensor.shape[0])]
        return torch.stack(rows)[:, : tensor.shape[1]]
    value = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() > 1 and "bias" not in name:
        return GAIN * value / tensor.shape[-1] ** 0.5
    return 1 + 0.2 * value if "norm" in name or "scale" in name else 0.2 * value


def random_inputs(family, config, rows, generator):
    randn = lambda width: torch.randn(rows, width, generator=generator)  # noqa: E731
    inputs = {"input": randn(config.hidden_size)}
    if family.run == "run_hash":
        inputs["token_ids"] = torch.randint(config.vocab_size, (rows,), generator=generator)
    if family.run == "run_gemma4":
        inputs["expert_input"] = randn(config.hidden_size)
    if family.name == "zaya":
        inputs["router_state_in"] = randn(config.router_hidden_size)
    return inputs


def picks(result):
    return result.topk_ids.sort(dim=-1).values


def steady_rows(run, inputs, generator):
    """Rows whose picks stay when every element of every input changes by up to JITTER of itself."""
    steady = torch.ones(len(inputs["input"]), dtype=torch.bool)
    expected = picks(run(inputs))
    for _ in range(TRIALS):
        changed = {
            name: value * (1 + JITTER * (2 * torch.rand(value.shape, generator=generator) - 1))
            if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        steady &= (picks(run(changed)) == expected).all(dim=-1)
    return {name: value[steady] for name, value in inputs.items()}


def published_tensors(family, block, config):
    """The block's weights under the names of the checkpoints."""
    weights = {family.prefix + name: tensor for name, tensor in block.state_dict().items()}
    table = get_checkpoint_conversion_mapping(family.conversion or family.keys["model_type"]) or []
    model = types.SimpleNamespace(_weight_conversions=table or None, config=config)
    table_names = revert_weight_conversion(model, weights) if table else weights
    old, new = family.published
    return {
        new + name.removeprefix(old) if old and name.startswith(old) else name: tensor.clone().contiguous()
        for name, tensor in table_names.items()
    }


def fault(family, block, result, run, inputs):
    """What keeps a result from being a good case: an expert that is never picked, or a tensor that does not matter."""
    skips = {-1} if family.run == "run_zaya" else set()
    experts = set(range(result.router_logits.shape[-1] - len(skips))) | skips
    missing = experts - set(result.topk_ids.flatten().tolist())
    if missing:
        return f"experts {missing} are never picked"
    for name, tensor in block.state_dict().items():
        kept = tensor.clone()
        tensor.copy_(tensor.roll(1))
        changed = run(inputs)
        tensor.copy_(kept)
        if torch.equal(changed.output, result.output):
            return f"{name} changes nothing"
    return ""


def tensors(inputs, result):
    named = {name: getattr(result, name) for name in ("router_logits", "topk_ids", "topk_weights", "output")}
    return {name: value.contiguous() for name, value in {**inputs, **named, **result.extra}.items()}


def write(path, document):
    path.write_text(json.dumps(document, indent=1) + "\n")


def attempt(family, seed):
    """A block, its inputs and results for one seed, and what is wrong with them as a case (nothing: empty)."""
    generator = torch.Generator().manual_seed(seed)
    published, config = configuration(family)
    block = build(family, config, generator)
    run = lambda inputs: globals()[family.run](family, block, inputs)  # noqa: E731
    rows = steady_rows(run, random_inputs(family, config, 4 * TOKENS, generator), generator)
    many = {name: value[:TOKENS] for name, value in rows.items()}
    one = {name: value[TOKENS : TOKENS + 1] for name, value in rows.items()}
    if len(one["input"]) == 0:
        return None, "too few steady rows"
    result, single = run(many), run(one)
    files = {
        "model": published_tensors(family, block, config),
        "io": tensors(many, result),
        "io_t1": tensors(one, single),
    }
    reason = "the single token picks nothing" if (single.topk_ids < 0).all() else ""
    return (published, files), reason or fault(family, block, result, run, many)


def make(family, folder):
    for seed in range(SEEDS):
        case, reason = attempt(family, seed)
        if not reason:
            break
    else:
        raise RuntimeError(f"{family.name}: no seed gives a good case; last: {reason}")
    published, files = case
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        save_file(content, folder / f"{name}.safetensors", metadata={"format": "pt"})
    write(folder / "config.json", published)
    write(folder / "case.json", {
        "family": family.name,
        "model_class": family.block,
        "layer": family.layer,
        "hidden_size": files["io"]["input"].shape[1],
        "router_tensor": router_tensor(files["model"]),
        "notes": family.note,
        "seed": seed,
        "transformers": transformers.__version__,
    })


def router_tensor(names):
    """The tensor whose product with the input the router starts from."""
    endings = ("gate.weight", "gate.wg.weight", "router.weight", "router.layer.weight", "router.proj.weight",
               "router.gate.weight", "classifier.weight", "gate.down_proj.weight")
    (name,) = [name for name in names if name.endswith(endings) and "shared" not in name]
    return name


def main():
    chosen = sys.argv[1:]
    here = pathlib.Path(__file__).parent
    with torch.no_grad():
        for family in FAMILIES:
            if not chosen or family.name in chosen:
                make(family, here / family.name)
                print(family.name, flush=True)


if __name__ == "__main__":
    main()
