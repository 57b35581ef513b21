// A golden model that a test may bend before it is opened.
#pragma once

#include <cstring>
#include <map>
#include <moe/io/checkpoint.hpp>
#include <string>
#include <vector>

#include "io/support.hpp"

namespace io_test {

using moe::io::Dtype;
using moe::io::Json;
using moe::io::TensorData;
using moe::io::TensorInfo;
using moe::io::TensorSet;

inline const std::string golden = MOE_TEST_DATA "/golden/";

/// A copy of a golden model that a test may bend before it is written to a folder of its own.
struct Model {
  struct Tensor {
    Dtype dtype;
    std::vector<std::uint64_t> shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors;
  Json config;
  TemporaryFolder folder;

  explicit Model(const std::string& family) : config(Json::parse(read_file(concat(golden, family, "/config.json")))) {
    const moe::io::SafetensorsFile file(concat(golden, family, "/model.safetensors"));
    for (const TensorInfo& info : file.tensors()) {
      Tensor& tensor = tensors[info.name] = {info.dtype, info.shape, std::string(info.bytes, '\0')};
      file.read(info, std::as_writable_bytes(std::span(tensor.bytes)));
    }
  }
  std::vector<TensorData> data() const {
    std::vector<TensorData> all;
    for (const auto& [name, tensor] : tensors)
      all.push_back({name, tensor.dtype, tensor.shape, as_bytes(tensor.bytes)});
    return all;
  }
  void write() const {
    write_file(folder / "config.json", config.dump());
    moe::io::write_safetensors(folder / "model.safetensors", data());
  }
  /// Tensor i goes to shard i mod 3.
  void write_sharded() const {
    write_file(folder / "config.json", config.dump());
    std::vector<std::vector<TensorData>> shards(3);
    Json index;
    std::size_t i = 0;
    for (const TensorData& tensor : data()) {
      index["weight_map"][tensor.name] = concat("model-", i % 3, ".safetensors");
      shards[i++ % 3].push_back(tensor);
    }
    for (i = 0; i < 3; ++i) moe::io::write_safetensors(folder / concat("model-", i, ".safetensors"), shards[i]);
    write_file(folder / TensorSet::index_name, index.dump());
  }
  std::string message() const {
    write();
    return message_of([&] { moe::io::Checkpoint checkpoint(folder.path()); });
  }
  void set_float(const std::string& name, std::size_t i, float value) {
    std::memcpy(tensors.at(name).bytes.data() + 4 * i, &value, 4);
  }
};

}  // namespace io_test
