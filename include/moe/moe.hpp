// Everything that compiles with a plain C++20 compiler and the standard library.
#pragma once

// In reading order.
// clang-format off
#include <moe/config.hpp>
#include <moe/error.hpp>
#include <moe/tensor.hpp>
#include <moe/math.hpp>
#include <moe/activations.hpp>
#include <moe/formats.hpp>
#include <moe/expert.hpp>
#include <moe/layout.hpp>
#include <moe/routing.hpp>
#include <moe/scores.hpp>
#include <moe/frame.hpp>
#include <moe/concepts.hpp>
#include <moe/gate.hpp>
#include <moe/shared.hpp>
#include <moe/envelope.hpp>
#include <moe/any_policy.hpp>
#include <moe/layer.hpp>
#include <moe/any_layer.hpp>
#include <moe/reuse.hpp>
#include <moe/soft_moe.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/routers/approximate_key.hpp>
#include <moe/routers/base.hpp>
#include <moe/routers/capacity.hpp>
#include <moe/routers/exit.hpp>
#include <moe/routers/expert_choice.hpp>
#include <moe/routers/expert_skip.hpp>
#include <moe/routers/hash.hpp>
#include <moe/routers/mixed_experts.hpp>
#include <moe/routers/noisy.hpp>
#include <moe/routers/null_experts.hpp>
#include <moe/routers/relu.hpp>
#include <moe/routers/remap.hpp>
#include <moe/routers/self_contrast.hpp>
#include <moe/routers/sensitivity_gate.hpp>
#include <moe/routers/sinkhorn.hpp>
#include <moe/routers/sparse_k.hpp>
#include <moe/routers/sparse_mixer.hpp>
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_any.hpp>
#include <moe/routers/top_p.hpp>
#include <moe/storage/resident.hpp>
#include <moe/storage/background.hpp>
#include <moe/storage/eviction.hpp>
#include <moe/storage/cached.hpp>
#include <moe/storage/mixed.hpp>
#include <moe/storage/file.hpp>
#include <moe/storage/subset.hpp>
#include <moe/storage/concat.hpp>
#include <moe/executors/cpu.hpp>
#include <moe/models.hpp>
// clang-format on
