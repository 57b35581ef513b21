// The optional component moelayer::uring from another project.
#include <cstdio>
#include <moe/io/uring.hpp>

int main(int, char** argv) {
  const moe::InputFile self(argv[0]);
  const moe::io::UringReader reader(self, 1, {});
  std::puts(reader.uring() ? "io_uring" : "threads");
}
