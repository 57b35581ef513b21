// All tensors of a checkpoint, in one safetensors file or in the shards that an index names.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <moe/error.hpp>
#include <moe/io/json.hpp>
#include <moe/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::io {

/// What a `model.safetensors.index.json` says.
struct SafetensorsIndex {
  struct Entry {
    std::string tensor;
    std::uint32_t shard = 0;  // index into `shards`
  };
  std::vector<std::string> shards;  // plain file names, sorted
  std::vector<Entry> entries;       // sorted by tensor
};

namespace detail {

/// A name that stays in the index's own folder and means the same to every file system.
inline bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of("/\\") == std::string_view::npos && !has_control_characters(name);
}

/// Reads `{"weight_map": {tensor: shard, ..}, ..}`; other members ("metadata") are skipped.
class IndexEvents : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  std::vector<std::pair<std::string, std::string>> pairs;  // tensor, shard
  bool seen_map = false;

  bool null() { return value("null"); }
  bool boolean(bool v) { return value(v ? "true" : "false"); }
  bool number_integer(std::int64_t v) { return value(std::to_string(v)); }
  bool number_unsigned(std::uint64_t v) { return value(std::to_string(v)); }
  bool number_float(double, const std::string& text) { return value(text.substr(0, 40)); }
  bool start_array(std::size_t) { return open("an array"); }
  bool start_object(std::size_t) {
    if (depth_ != 1 || !in_map_) return open("an object");
    ++depth_;
    return true;
  }
  bool end_array() { return --depth_, true; }
  bool end_object() { return --depth_, true; }
  bool key(std::string& name) {
    if (depth_ == 1) return member(name);
    if (in_map_) tensor_ = std::move(name);
    return true;
  }
  bool string(std::string& text) {
    if (!in_map_ || depth_ != 2) return value("a string");
    if (!is_plain_file_name(text))
      fail(concat("tensor ", in_quotes(tensor_)), "a plain file name as its shard", in_quotes(text));
    pairs.emplace_back(std::move(tensor_), std::move(text));
    return true;
  }

 private:
  static constexpr std::size_t deepest = 32;

  bool member(const std::string& name) {
    in_map_ = name == "weight_map";
    if (in_map_ && std::exchange(seen_map, true)) fail("key \"weight_map\"", "each key once", "a second one");
    return true;
  }
  bool value(const std::string& found) const {
    if (!in_map_) return true;
    if (depth_ == 1) fail("key \"weight_map\"", "an object", found);
    fail(concat("tensor ", in_quotes(tensor_)), "a file name", found);
  }
  bool open(const std::string& found) {
    value(found);
    if (++depth_ > deepest) fail("JSON", concat("at most ", deepest, " levels"), "a deeper one");
    return true;
  }

  std::size_t depth_ = 0;
  bool in_map_ = false;
  std::string tensor_;
};

}  // namespace detail

/// Parses and validates the text of an index file. Throws `IoError` that names `file_name` and the entry.
inline SafetensorsIndex parse_safetensors_index(std::string_view text, std::string_view file_name) {
  const std::string name(file_name);
  detail::IndexEvents events(name, 0);
  detail::parse_events(text, events);
  if (!events.seen_map) raise(IoError(name, "key \"weight_map\"", "an object", "none"));
  std::sort(events.pairs.begin(), events.pairs.end());
  SafetensorsIndex index;
  for (const auto& [tensor, shard] : events.pairs) index.shards.push_back(shard);
  std::sort(index.shards.begin(), index.shards.end());
  index.shards.erase(std::unique(index.shards.begin(), index.shards.end()), index.shards.end());
  for (auto& [tensor, shard] : events.pairs) {
    if (!index.entries.empty() && index.entries.back().tensor == tensor) {
      raise(IoError(concat(name, ": tensor ", in_quotes(tensor)), "duplicate entry", "each name once", "a second one"));
    }
    const auto at = std::lower_bound(index.shards.begin(), index.shards.end(), shard) - index.shards.begin();
    index.entries.push_back({std::move(tensor), static_cast<std::uint32_t>(at)});
  }
  return index;
}

/// Every tensor of a checkpoint by name, whatever file holds it. Opening validates all headers and the index against
/// each other; tensors are read on request, by several threads at once if need be.
class TensorSet {
 public:
  static constexpr const char* index_name = "model.safetensors.index.json";
  static constexpr const char* single_name = "model.safetensors";
  static constexpr std::uint64_t most_index_bytes = 100'000'000;

  /// `path`: a .safetensors file, an index (.json), or a directory that holds `index_name` or else `single_name`.
  /// Throws `IoError`; nothing is half-open then.
  explicit TensorSet(const std::filesystem::path& path) {
    const std::filesystem::path file = is_folder(path) ? inside(path) : path;
    if (file.extension() == ".json") {
      open_shards(file);
    } else {
      files_.emplace_back(file);
    }
    collect();
    if (file.extension() == ".json") check_index(file);
  }
  /// The tensors of `path`, and over them those of the file `over`: a fine-tuned variant that is stored as what
  /// changed. A tensor of both is the one in `over`. Throws `IoError` unless it has the shape of the one that it
  /// replaces.
  TensorSet(const std::filesystem::path& path, const std::filesystem::path& over) : TensorSet(path) {
    files_.emplace_back(over);
    for (const TensorInfo& tensor : files_.back().tensors()) lay_over(tensor);
    std::sort(entries_.begin(), entries_.end(), by_name);
  }

  std::span<const SafetensorsFile> files() const noexcept { return files_; }
  /// Number of tensors.
  std::size_t size() const noexcept { return entries_.size(); }
  /// The tensor at position `i` in the order of names.
  const TensorInfo& operator[](std::size_t i) const { return *entries_[i].tensor; }
  /// Bytes of all tensors together.
  std::uint64_t bytes() const noexcept { return bytes_; }

  /// Null if no file has a tensor of this name. Pointers stay valid as long as the set, also when it is moved.
  const TensorInfo* find(std::string_view name) const {
    const Entry* entry = entry_of(name);
    return entry == nullptr ? nullptr : entry->tensor;
  }
  /// Throws `IoError` if no file has a tensor of this name.
  const TensorInfo& at(std::string_view name) const {
    const Entry* entry = entry_of(name);
    if (entry == nullptr) {
      const std::string where = concat(path_text(), ": tensor ", in_quotes(name));
      raise(IoError(where, "missing", concat("it among the ", size(), " tensors"), "none"));
    }
    return *entry->tensor;
  }
  /// The file that holds a tensor of this set.
  const SafetensorsFile& file_of(const TensorInfo& tensor) const {
    const Entry* entry = entry_of(tensor.name);
    if (entry == nullptr || entry->tensor != &tensor) {
      raise(Error(concat(path_text(), ": tensor ", in_quotes(tensor.name)), "origin", "a tensor of this set",
                  "another one"));
    }
    return files_[entry->file];
  }
  /// "FILE: tensor "NAME" at byte N", for messages.
  std::string place(const TensorInfo& tensor) const {
    return detail::tensor_place(file_of(tensor).path().string(), tensor);
  }

  /// Reads a whole tensor; `to` has exactly its bytes. Throws `IoError`.
  void read(const TensorInfo& tensor, std::span<std::byte> to) const { file_of(tensor).read(tensor, to); }
  /// Reads `to.size()` bytes of a tensor from its byte `first` on.
  void read(const TensorInfo& tensor, std::uint64_t first, std::span<std::byte> to) const {
    file_of(tensor).read(tensor, first, to);
  }

 private:
  struct Entry {
    const TensorInfo* tensor;
    std::size_t file;
  };

  static bool is_folder(const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::is_directory(path, ignored);
  }
  static std::filesystem::path inside(const std::filesystem::path& folder) {
    for (const char* name : {index_name, single_name}) {
      std::error_code ignored;
      if (std::filesystem::exists(folder / name, ignored)) return folder / name;
    }
    raise(IoError(folder.string(), "no weights", concat(index_name, " or ", single_name), "neither"));
  }
  void open_shards(const std::filesystem::path& file) {
    index_ = parse_safetensors_index(read_text(file, most_index_bytes), file.string());
    if (index_.shards.empty()) raise(IoError(file.string(), "key \"weight_map\"", "at least one tensor", "none"));
    files_.reserve(index_.shards.size());
    for (const std::string& shard : index_.shards) files_.emplace_back(file.parent_path() / shard);
  }
  /// Sorts the tensors of all files by name; a name in two files is refused.
  void collect() {
    for (std::size_t file = 0; file < files_.size(); ++file) {
      for (const TensorInfo& tensor : files_[file].tensors()) {
        entries_.push_back({&tensor, file});
        bytes_ += tensor.bytes;
      }
    }
    std::sort(entries_.begin(), entries_.end(), by_name);
    const auto twice = std::adjacent_find(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return a.tensor->name == b.tensor->name;
    });
    if (twice == entries_.end()) return;
    raise(IoError(file_place(twice[1]), "duplicate tensor", "each name in one shard",
                  concat("it in ", in_quotes(file_name(twice[0].file)), " too")));
  }
  static bool by_name(const Entry& a, const Entry& b) { return a.tensor->name < b.tensor->name; }
  void lay_over(const TensorInfo& tensor) {
    bytes_ += tensor.bytes;
    const auto below = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.tensor->name == tensor.name; });
    if (below == entries_.end()) return entries_.push_back({&tensor, files_.size() - 1});
    if (below->tensor->shape != tensor.shape) {
      raise(IoError(detail::tensor_place(files_.back().path().string(), tensor), "shape",
                    concat(shape_text(below->tensor->shape), ", that of the tensor which it replaces"),
                    shape_text(tensor.shape)));
    }
    bytes_ -= below->tensor->bytes;
    *below = {&tensor, files_.size() - 1};
  }
  /// The index and the shards name the same tensors, in the same files. Both lists are sorted: one walk.
  void check_index(const std::filesystem::path& file) {
    std::size_t i = 0;
    for (const SafetensorsIndex::Entry& listed : index_.entries) {
      const std::string& shard = index_.shards[listed.shard];
      if (i < entries_.size() && entries_[i].tensor->name < listed.tensor) unlisted(file, entries_[i]);
      if (i == entries_.size() || entries_[i].tensor->name != listed.tensor)
        missing(file, listed.tensor, shard, "none");
      if (entries_[i].file != listed.shard)
        missing(file, listed.tensor, shard, concat("it in ", in_quotes(file_name(entries_[i].file))));
      ++i;
    }
    if (i < entries_.size()) unlisted(file, entries_[i]);
    index_ = {};
  }
  [[noreturn]] void unlisted(const std::filesystem::path& file, const Entry& entry) const {
    raise(IoError(file_place(entry), "unlisted tensor", concat("an entry in ", file.string()), "none"));
  }
  [[noreturn]] static void missing(const std::filesystem::path& file, const std::string& tensor,
                                   const std::string& shard, const std::string& found) {
    raise(IoError(concat(file.string(), ": tensor ", in_quotes(tensor)), "missing from its shard",
                  concat("it in ", in_quotes(shard)), found));
  }

  const Entry* entry_of(std::string_view name) const {
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), name,
                                     [](const Entry& entry, std::string_view n) { return entry.tensor->name < n; });
    return at != entries_.end() && at->tensor->name == name ? &*at : nullptr;
  }
  std::string file_name(std::size_t file) const { return files_[file].path().filename().string(); }
  std::string file_place(const Entry& entry) const {
    return detail::tensor_place(files_[entry.file].path().string(), *entry.tensor);
  }
  std::string path_text() const {
    if (files_.size() == 1) return files_[0].path().string();
    return files_.empty() ? "no file" : files_[0].path().parent_path().string();
  }

  std::vector<SafetensorsFile> files_;
  std::vector<Entry> entries_;  // by name
  std::uint64_t bytes_ = 0;
  SafetensorsIndex index_;  // while opening
};

}  // namespace moe::io
