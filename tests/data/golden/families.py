"""The families of make_cases.py: where each one's block is in transformers, and how its checkpoints are published."""

from dataclasses import dataclass, field

HIDDEN, EXPERTS, PICKS, INNER, VOCABULARY = 32, 8, 3, 20, 24
COMMON = {
    "hidden_size": HIDDEN,
    "hidden_act": "silu",
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}


@dataclass
class Family:
    name: str  # the folder
    block: str  # class in transformers' modelling file, or in make_cases.py
    config: str  # class in transformers
    keys: dict  # of the published config.json, as far as the MoE block needs it
    note: str = ""  # for case.json
    nest: str = ""  # model type of the language model, where config.json holds its keys under text_config
    prefix: str = "model.layers.0.mlp."  # of the block's tensors inside transformers
    conversion: str = ""  # entry of transformers' conversion table that is reversed; the model type where empty
    published: tuple = ("", "")  # start of a name inside transformers and in the checkpoint, where the table has none
    router: str = "gate"  # attribute of the block
    layer: int = 0
    run: str = "run_block"  # function of make_cases.py
    common: dict = field(default_factory=lambda: COMMON)


def deepseek_like(**keys):
    """Keys that the descendants of DeepSeek-V3 share."""
    return {
        "moe_intermediate_size": INNER,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": PICKS,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "first_k_dense_replace": 0,
        **keys,
    }


def qwen_like(**keys):
    """Keys that the descendants of Qwen2-MoE share."""
    return {
        "moe_intermediate_size": INNER,
        "num_experts": EXPERTS,
        "num_experts_per_tok": PICKS,
        **keys,
    }


QWEN_NEXT = qwen_like(
    shared_expert_intermediate_size=28, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[]
)
DEEPSEEK_V4 = {
    "model_type": "deepseek_v4",
    "moe_intermediate_size": INNER,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": PICKS,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 1.25,
    "num_hash_layers": 1,
    "num_hidden_layers": 2,
}
NEMOTRON = {
    "model_type": "nemotron_h",
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": PICKS,
    "n_shared_experts": 1,
    "moe_intermediate_size": INNER,
    "moe_shared_expert_intermediate_size": 28,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "hybrid_override_pattern": "E",
}
ZAYA = {
    "model_type": "zaya",
    "num_hidden_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": INNER,
    "router_hidden_size": 12,
    "rms_norm_eps": 1e-5,
}
ON_OUTPUT = "the scale multiplies the routed output and is not in topk_weights"

FAMILIES = [
    Family(
        "deepseek_v4", "DeepseekV4SparseMoeBlock", "DeepseekV4Config", DEEPSEEK_V4,
        prefix="model.layers.1.mlp.", published=("model.", ""), layer=1,
        note="a layer that scores; the limit clamps the shared expert too; the scale is in topk_weights",
    ),
    Family(
        "deepseek_v4_hash", "DeepseekV4SparseMoeBlock", "DeepseekV4Config", DEEPSEEK_V4,
        published=("model.", ""), run="run_hash",
        note="a layer whose picks are rows of tid2eid, read by token_ids; the gate gives the weights only; no bias",
    ),
    Family(
        "qwen3_next", "Qwen3NextSparseMoeBlock", "Qwen3NextConfig", {"model_type": "qwen3_next", **QWEN_NEXT},
    ),
    Family(
        "qwen3_5_moe", "Qwen3_5MoeSparseMoeBlock", "Qwen3_5MoeTextConfig",
        {"model_type": "qwen3_5_moe", **QWEN_NEXT}, prefix="model.language_model.layers.0.mlp.",
        conversion="none", nest="qwen3_5_moe_text",
        note="experts are published stacked: gate_up_proj [E, 2I, H] (halves), down_proj [E, H, I]; no norm_topk_prob "
        "key is read, weights are always renormalised",
    ),
    Family(
        "glm4_moe", "Glm4MoeMoE", "Glm4MoeConfig",
        {"model_type": "glm4_moe", **deepseek_like(routed_scaling_factor=2.5)},
        note="the scale is in topk_weights",
    ),
    Family(
        "minimax_m2", "MiniMaxM2SparseMoeBlock", "MiniMaxM2Config",
        {
            "model_type": "minimax_m2",
            "intermediate_size": INNER,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": PICKS,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "shared_intermediate_size": 0,
        },
        note="renormalised without an epsilon",
    ),
    Family(
        "dbrx", "DbrxFFN", "DbrxConfig",
        {
            "model_type": "dbrx",
            "d_model": HIDDEN,
            "n_heads": 4,
            "n_layers": 1,
            "max_seq_len": 64,
            "vocab_size": VOCABULARY,
            "ffn_config": {
                "hidden_size": HIDDEN,
                "ffn_act_fn": {"name": "silu"},
                "ffn_hidden_size": INNER,
                "moe_num_experts": EXPERTS,
                "moe_top_k": PICKS,
            },
        },
        prefix="transformer.blocks.0.ffn.", router="router", run="run_dbrx", common={},
        note="moe_normalize_expert_weights is absent in published configs and means 1: divided by the sum; "
        "w1 (gate), v1 (up) and w2 (down) are [E * I, H]; w2 is stored input-major: y = h @ w2[e]",
    ),
    Family(
        "jamba", "JambaSparseMoeBlock", "JambaConfig",
        {
            "model_type": "jamba",
            "intermediate_size": INNER,
            "num_experts": EXPERTS,
            "num_experts_per_tok": PICKS,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
        },
        prefix="model.layers.0.feed_forward.", router="router",
    ),
    Family(
        "granitemoeshared", "GraniteSharedBlock", "GraniteMoeSharedConfig",
        {
            "model_type": "granitemoeshared",
            "intermediate_size": INNER,
            "shared_intermediate_size": 28,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": PICKS,
        },
        prefix="model.layers.0.", router="block_sparse_moe.router",
        note="the shared expert lies beside the block, in shared_mlp; its sum is part of `output`, the decoder's "
        "residual_multiplier is not",
    ),
    Family(
        "hunyuan_v1_moe", "HunYuanMoEV1Moe", "HunYuanMoEV1Config",
        {
            "model_type": "hunyuan_v1_moe",
            "intermediate_size": INNER,
            "moe_intermediate_size": [INNER],
            "num_experts": EXPERTS,
            "num_shared_expert": [1],
            "moe_topk": [PICKS],
            "use_mixed_mlp_moe": True,
        },
    ),
    Family(
        "ernie4_5_moe", "Ernie4_5_MoeSparseMoeBlock", "Ernie4_5_MoeConfig",
        {
            "model_type": "ernie4_5_moe",
            "moe_num_experts": EXPERTS,
            "moe_k": PICKS,
            "moe_num_shared_experts": 2,
            "moe_intermediate_size": INNER,
            "moe_layer_start_index": 0,
            "moe_layer_interval": 1,
            "moe_use_aux_free": True,
        },
        note="the bias is [1, E] and is added to the softmax; weights divided by max(sum, moe_norm_min)",
    ),
    Family(
        "dots1", "Dots1MoE", "Dots1Config",
        {
            "model_type": "dots1",
            **deepseek_like(n_shared_experts=2, routed_scaling_factor=2.5, scoring_func="noaux_tc"),
        },
        note="the scale is in topk_weights; published configs say scoring_func noaux_tc, which means sigmoid",
    ),
    Family(
        "exaone_moe", "ExaoneMoeSparseMoEBlock", "ExaoneMoeConfig",
        {
            "model_type": "exaone_moe",
            **qwen_like(num_shared_experts=1, n_group=4, topk_group=2, norm_topk_prob=True),
            "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "first_k_dense_replace": 0,
        },
        note="the bias is stored at mlp.e_score_correction_bias; the scale is in topk_weights",
    ),
    Family(
        "kimi_linear", "KimiLinearMoE", "KimiLinearConfig",
        {
            "model_type": "kimi_linear",
            "moe_intermediate_size": INNER,
            "num_experts": EXPERTS,
            "num_experts_per_token": PICKS,
            "num_shared_experts": 1,
            "num_expert_group": 4,
            "topk_group": 2,
            "moe_renormalize": True,
            "moe_router_activation_func": "sigmoid",
            "routed_scaling_factor": 2.446,
            "first_k_dense_replace": 0,
            "use_grouped_topk": True,
        },
        note="the scale is in topk_weights",
    ),
    Family(
        "afmoe", "AfmoeSparseMoeBlock", "AfmoeConfig",
        {
            "model_type": "afmoe",
            **qwen_like(num_shared_experts=2, num_dense_layers=0),
            "route_norm": True,
            "route_scale": 2.826,
            "score_func": "sigmoid",
            "n_group": 1,
            "topk_group": 1,
        },
        router="router", note="the scale is in topk_weights",
    ),
    Family(
        "lfm2_moe", "Lfm2MoeSparseMoeBlock", "Lfm2MoeConfig",
        {
            "model_type": "lfm2_moe",
            **qwen_like(num_dense_layers=0, use_expert_bias=True, norm_topk_prob=True, routed_scaling_factor=1.5),
        },
        prefix="model.layers.0.feed_forward.",
        note="divided by sum + 1e-6; the scale is in topk_weights; published scales are 1.0",
    ),
    Family(
        "hy_v3", "HYV3MoE", "HYV3Config",
        {
            "model_type": "hy_v3",
            **qwen_like(num_shared_experts=1, route_norm=True, router_scaling_factor=2.826),
            "expert_hidden_dim": INNER,
            "moe_router_use_sigmoid": True,
            "moe_router_enable_expert_bias": True,
            "first_k_dense_replace": 0,
        },
        note="the scale is in topk_weights",
    ),
    Family(
        "minimax_m3", "MiniMaxM3VLSparseMoeBlock", "MiniMaxM3VLTextConfig",
        {
            "model_type": "minimax_m3_vl",
            "hidden_act": "swigluoai",
            "intermediate_size": INNER,
            "shared_intermediate_size": 28,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": PICKS,
            "n_shared_experts": 1,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "routed_scaling_factor": 2.0,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 1.25,
            "moe_layer_freq": [1],
        },
        prefix="model.language_model.layers.0.mlp.", nest="minimax_m3",
        note=ON_OUTPUT + "; the shared expert has the same activation and limit",
    ),
    Family(
        "step3p5", "Step3p7SparseMoeBlock", "Step3p7TextConfig",
        {
            "model_type": "step3p5",
            "moe_intermediate_size": INNER,
            "moe_num_experts": EXPERTS,
            "moe_top_k": PICKS,
            "share_expert_dim": 28,
            "moe_router_activation": "sigmoid",
            "moe_router_scaling_factor": 3.0,
            "use_moe_router_bias": True,
            "norm_expert_weight": True,
            "moe_layers_enum": "0",
            "swiglu_limits": [0.75],
            "swiglu_limits_shared": [0.5],
        },
        conversion="step3p7", prefix="model.language_model.layers.0.mlp.",
        note=ON_OUTPUT + "; the limits clamp silu(gate) from above and up on both sides, one limit per layer, "
        "0 is none; Step-3.7 nests the same keys under text_config",
    ),
    Family(
        "cohere2_moe", "Cohere2MoeSparseMoeBlock", "Cohere2MoeConfig",
        {
            "model_type": "cohere2_moe",
            "intermediate_size": INNER,
            "num_experts": EXPERTS,
            "num_experts_per_tok": PICKS,
            "num_shared_experts": 2,
            "shared_expert_combination_strategy": "average",
            "expert_selection_fn": "sigmoid",
            "norm_topk_prob": True,
            "first_k_dense_replace": 0,
        },
        note="picks by logit, weight is its sigmoid over their sum; output is (routed + shared) / 2",
    ),
    Family(
        "mistral4", "Mistral4MoE", "Mistral4Config",
        {"model_type": "mistral3", **deepseek_like(n_group=4, topk_group=2, routed_scaling_factor=1.5)},
        nest="mistral4", conversion="none", published=("model.", "language_model.model."),
        note="experts stacked: gate_up_proj [E, 2I, H] (halves), down_proj [E, H, I]; the scale is in topk_weights; "
        "published scales are 1.0",
    ),
    Family(
        "aria", "AriaTextMoELayer", "AriaTextConfig",
        {
            "model_type": "aria",
            "intermediate_size": INNER,
            "moe_num_experts": EXPERTS,
            "moe_topk": PICKS,
            "moe_num_shared_experts": 2,
        },
        conversion="aria_text", published=("model.", "language_model.model."), nest="aria_text", router="router",
        note="fc1 [E, H, 2I] (halves), fc2 [E, I, H]; the first published configuration calls intermediate_size "
        "moe_intermediate_size",
    ),
    Family("flex_olmo", "FlexOlmoSparseMoeBlock", "FlexOlmoConfig", {
        "model_type": "flex_olmo",
        "intermediate_size": INNER,
        "num_experts": EXPERTS,
        "num_experts_per_tok": PICKS,
        "norm_topk_prob": False,
    }),
    Family(
        "nemotron_h", "NemotronHMoE", "NemotronHConfig", NEMOTRON,
        prefix="model.layers.0.mixer.", note="the scale is in topk_weights",
    ),
    Family(
        "nemotron_h_latent", "NemotronHMoE", "NemotronHConfig", {**NEMOTRON, "moe_latent_size": 16},
        prefix="model.layers.0.mixer.",
        note="routed experts work in moe_latent_size, between fc1_latent_proj and fc2_latent_proj; the router and the "
        "shared expert see the hidden state; the scale is in topk_weights",
    ),
    Family(
        "gemma4", "Gemma4Block", "Gemma4TextConfig",
        {
            "model_type": "gemma4",
            "hidden_activation": "gelu_pytorch_tanh",
            "enable_moe_block": True,
            "num_experts": EXPERTS,
            "top_k_experts": PICKS,
            "moe_intermediate_size": INNER,
            "rms_norm_eps": 1e-6,
        },
        prefix="model.language_model.layers.0.", nest="gemma4_text", router="router", run="run_gemma4",
        note="`input` enters the router, `expert_input` the experts; router_logits are proj's product, after the norm "
        "and the scale; the norms around the branch and the dense branch are not part of the block",
    ),
    Family(
        "zaya", "ZayaSparseMoeBlock", "ZayaConfig", ZAYA,
        prefix="model.layers.1.mlp.", layer=1, run="run_zaya",
        note="class E is no expert: id -1, weight 0; router_state_in is the previous layer's router_state_out",
    ),
    Family(
        "zaya_first", "ZayaSparseMoeBlock", "ZayaConfig", ZAYA, run="run_zaya",
        note="the first layer: no router_state_in and no router_states_scale",
    ),
    Family(
        "nllb_moe", "NllbMoeSparseMLP", "NllbMoeConfig",
        {
            "model_type": "nllb-moe",
            "d_model": HIDDEN,
            "encoder_ffn_dim": INNER,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_sparse_step": 1,
            "num_experts": EXPERTS,
            "activation_function": "relu",
            "router_bias": False,
            "router_dtype": "float32",
            "second_expert_policy": "all",
            "normalize_router_prob_before_dropping": False,
            "batch_prioritized_routing": False,
            "moe_eval_capacity_token_fraction": 1.0,
            "moe_token_dropout": 0.2,
        },
        prefix="model.encoder.layers.0.ffn.", router="router", run="run_nllb", common={"vocab_size": VOCABULARY},
        note="output is the sum over both picks times (1 - moe_token_dropout), which is not in topk_weights; "
        "nothing is dropped at inference; the sum is ours, transformers' own is wrong",
    ),
    Family(
        "mellum", "MellumSparseMoeBlock", "MellumConfig", {"model_type": "mellum", **qwen_like(norm_topk_prob=True)},
    ),
    Family(
        "qwen4_exp", "Qwen4ExpTextSparseMoeBlock", "Qwen4ExpTextConfig",
        {"model_type": "qwen4_exp", **QWEN_NEXT}, prefix="model.language_model.layers.0.mlp.",
        conversion="none", nest="qwen4_exp_text",
        note="as qwen3_5_moe, and norm_topk_prob is read",
    ),
]
