// The optional component moelayer::xxhash from another project.
#include <moe/io/xxh3.hpp>

int main() { return moe::io::Xxh3::of({}) == 0x2d06800538d394c2u ? 0 : 1; }
