// Everything that compiles with a plain C++20 compiler and the standard library.
#pragma once

// In reading order.
// clang-format off
#include <moe/config.hpp>
#include <moe/error.hpp>
#include <moe/tensor.hpp>
#include <moe/math.hpp>
#include <moe/formats.hpp>
#include <moe/expert.hpp>
#include <moe/layout.hpp>
#include <moe/routing.hpp>
#include <moe/frame.hpp>
#include <moe/concepts.hpp>
#include <moe/gate.hpp>
#include <moe/layer.hpp>
#include <moe/any_layer.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/storage/resident.hpp>
#include <moe/storage/background.hpp>
#include <moe/storage/eviction.hpp>
#include <moe/storage/cached.hpp>
#include <moe/storage/file.hpp>
#include <moe/executors/cpu.hpp>
#include <moe/models.hpp>
// clang-format on
