// The program pack_experts as a user runs it.
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>

#include <doctest/doctest.h>

#include <moe/io/checkpoint.hpp>
#include <moe/io/xxh3.hpp>
#include <moe/storage/file.hpp>

#include "temporary_folder.hpp"

namespace {

using Formats = moe::formats<moe::q4_0, moe::bf16>;
using Packed = moe::File<Formats, moe::PanelLayout, moe::io::Xxh3>;
const std::string model = MOE_MODEL_DIR, program = std::string(MOE_BIN_DIR) + "/pack_experts";

struct Outcome {
  int status;
  std::string out, err;
};
Outcome run(const TemporaryFolder& folder, const std::string& arguments) {
  const std::string out = (folder / "stdout").string(), err = (folder / "stderr").string();
  const int status = std::system((program + " " + arguments + " >" + out + " 2>" + err).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}
bool there_is_a_program() {
  if (std::filesystem::exists(program)) return true;
  MESSAGE("SKIPPED: pack_experts was not built");
  return false;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::vector<std::byte> record(const auto& source, int format, moe::ExpertId e, std::size_t bytes) {
  const moe::Buffer buffer(source.bytes(format));
  moe::PendingReads read(1);
  source.read({e, format, buffer.data(), &moe::PendingReads::done, &read});
  read.wait();
  return {buffer.data(), buffer.data() + bytes};
}

}  // namespace

TEST_CASE("a packed model has the records of the checkpoint, in every format and layer") {
  if (!there_is_a_program()) return;
  const TemporaryFolder folder;
  const std::string out = (folder / "a.moe").string();
  const Outcome packed = run(folder, "--model " + model + " --formats bf16,q4 --out " + out);
  INFO(packed.err);
  REQUIRE(packed.status == 0);
  CHECK(contains(packed.out, "6 layers of 8 experts"));
  CHECK(contains(packed.out, "bf16: 184320 bytes an expert"));
  CHECK(contains(packed.err, "packing 100 %"));

  const auto checkpoint = std::make_shared<const moe::io::Checkpoint>(model);
  const Packed file{out};
  for (int l = 0; l < 6; ++l) {
    const moe::io::CheckpointExperts<moe::bf16> bf16(checkpoint, l);
    const moe::io::CheckpointExperts<moe::q4_0> q4(checkpoint, l);
    for (moe::ExpertId e = 0; e < 8; ++e) {
      const bool same_q4 = record(file.layer(l), 0, e, q4.bytes(0)) == record(q4, 0, e, q4.bytes(0));
      const bool same_bf16 = record(file.layer(l), 1, e, bf16.bytes(0)) == record(bf16, 0, e, bf16.bytes(0));
      CHECK(same_q4);
      CHECK(same_bf16);
    }
  }
}

TEST_CASE("--verify says that a file is right, or which record is not") {
  if (!there_is_a_program()) return;
  const TemporaryFolder folder;
  const std::string out = (folder / "a.moe").string();
  REQUIRE(run(folder, "--model " + model + " --formats q8 --out " + out).status == 0);
  const Outcome right = run(folder, "--verify " + out);
  CHECK(right.status == 0);
  CHECK(contains(right.out, "all 48 records are right: 6 layers of 8 experts in q8_0"));
  std::string bytes = read_file(out);
  bytes[bytes.size() - 1] ^= 1;
  write_file(out, bytes);
  const Outcome wrong = run(folder, "--verify " + out);
  CHECK(wrong.status == 1);
  CHECK(contains(wrong.err, "pack_experts: error: " + out + ": checksum of expert 7 of layer 5 in q8_0"));
}

TEST_CASE("bad input is one message and exit status 1, and no file") {
  if (!there_is_a_program()) return;
  const TemporaryFolder folder;
  const std::string out = (folder / "a.moe").string();
  const auto refuses = [&](const std::string& arguments, const std::string& part) {
    const Outcome o = run(folder, arguments);
    CAPTURE(arguments);
    INFO(o.err);
    CHECK(o.status == 1);
    CHECK(contains(o.err, part));
    CHECK_FALSE(std::filesystem::exists(out));
  };
  refuses("", "required");
  refuses("--model " + model, "--model requires --out");
  refuses("--formats bf16", "--model and --out, or --verify");
  refuses("--model " + model + " --formats q5 --out " + out, "found q5");
  refuses("--model " + model + " --formats q4,q4_0 --out " + out, "q4_0 twice");
  refuses("--model " + folder.path().string() + " --out " + out, "config.json");
  refuses("--model " + model + " --out " + (folder / "none/a.moe").string(), "No such file");
  refuses("--verify " + model + "/config.json", "at least 4096, found 856");
}
