// Everything that compiles with a plain C++20 compiler and the standard library.
#pragma once

// clang-format off: the spine in reading order
#include <moe/concepts.hpp>
#include <moe/config.hpp>
#include <moe/error.hpp>
#include <moe/executors/cpu.hpp>
#include <moe/expert.hpp>
#include <moe/formats.hpp>
#include <moe/frame.hpp>
#include <moe/gate.hpp>
#include <moe/layer.hpp>
#include <moe/layout.hpp>
#include <moe/math.hpp>
#include <moe/models.hpp>
#include <moe/routers/top_k.hpp>
#include <moe/routing.hpp>
#include <moe/storage/background.hpp>
#include <moe/storage/cached.hpp>
#include <moe/storage/eviction.hpp>
#include <moe/storage/file.hpp>
#include <moe/storage/resident.hpp>
#include <moe/tensor.hpp>
// clang-format on
