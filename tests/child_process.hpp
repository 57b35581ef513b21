// in_child: runs a part of a test in a process of its own, whose limits, mounts and filters of calls go with it.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include <doctest/doctest.h>

/// The result of a child whose body throws.
inline constexpr int child_threw = 99;

/// The int that `body` returns in the child; `child_threw` if it throws, -1 if the child is killed.
template <class Body>
int in_child(const Body& body) {
  std::fflush(nullptr);  // or the child prints it too
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int result = child_threw;
    try {
      result = body();
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
