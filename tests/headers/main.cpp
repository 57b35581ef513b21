// Prints the answers of two translation units compiled with different flags; they must agree.
#include <cstdio>
#include <string>

std::string MOE_FIRST();
std::string MOE_SECOND();

int main() {
  const std::string first = MOE_FIRST();
  const std::string second = MOE_SECOND();
  std::printf("%s\n", first.c_str());
  if (first == second) return 0;
  std::printf("but the second unit says\n%s\n", second.c_str());
  return 1;
}
