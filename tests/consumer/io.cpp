// The optional component moelayer::io from another project.
#include <cstdio>
#include <moe/io/checkpoint.hpp>

int main() {
  try {
    const moe::io::SafetensorsFile file("no such file");
  } catch (const moe::Error& error) {
    std::puts(error.what());
    return 0;
  }
  return 1;
}
