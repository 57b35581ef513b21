// Shell: the project's programs, run as a user runs them, with a folder for the files of one test.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "support.hpp"

namespace engine_test {

inline const std::string bin = MOE_BIN_DIR;

struct Outcome {
  int status = -1;
  std::string out, err;
};

/// A folder for the files of one test, and programs run with paths quoted.
class Shell {
 public:
  Outcome run(const std::string& command) const {
    const std::string out = path("stdout"), err = path("stderr");
    const int status = std::system((bin + "/" + command + " >" + out + " 2>" + err + " </dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
  }
  /// One message on stderr that holds `part`, nothing on stdout, exit status 1.
  void refuses(const std::string& command, const std::string& part) const {
    CAPTURE(command);
    const Outcome o = run(command);
    CHECK(o.status == 1);
    CHECK(o.out.empty());
    CAPTURE(o.err);
    CHECK(io_test::contains(o.err, part));
  }
  std::string accepts(const std::string& command) const {
    CAPTURE(command);
    const Outcome o = run(command);
    CAPTURE(o.err);
    CHECK(o.status == 0);
    return o.out;
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    write_file(folder_.path() / name, text);
    return path(name);
  }
  /// A model whose tokens are bytes.
  std::string byte_model() const {
    moe::io::Json config = small_config("mixtral");
    config["vocab_size"] = 256;
    config["sliding_window"] = 16;
    const RandomModel written(folder_.path(), config);
    return folder_.path().string();
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace engine_test
