// The optional component moelayer::eigen from another project.
#include <Eigen/Core>
#if __has_include(<moe/executors/eigen.hpp>)
#include <moe/executors/eigen.hpp>
#endif

int main() { return Eigen::Vector2f(1, -1).sum() == 0 ? 0 : 1; }
