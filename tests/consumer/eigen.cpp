// The optional component moelayer::eigen from another project.
#include <moe/executors/eigen.hpp>

int main() { return Eigen::Vector2f(1, -1).sum() == 0 ? 0 : 1; }
