# What only this project's own tests, benchmarks and examples need: warnings, ccache, their dependencies, and the
# one function that makes a program of a source file.

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(MOE_CCACHE ccache)
  if(MOE_CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${MOE_CCACHE}")
  endif()
endif()

# Warnings are errors in the presets only (CMAKE_COMPILE_WARNING_AS_ERROR), so that a compiler newer than ours can
# still build the tests.
set(MOE_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
add_library(moe_dev_warnings INTERFACE)
target_compile_options(moe_dev_warnings INTERFACE ${MOE_WARNINGS})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 warns of `"text" + std::string()` by mistake (GCC bug 105651). Tests and programs may write it; our headers
  # avoid it, as the consumers of tests/consumer show, which do without this line.
  target_compile_options(moe_dev_warnings INTERFACE -Wno-restrict)
endif()

# moe_dependency(<package> <target> <Debian package> <what is left out without it>)
macro(moe_dependency package target debian without)
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target})
    message(STATUS "moelayer: ${package} not found, so no ${without} (Debian: apt-get install ${debian})")
  endif()
endmacro()

moe_dependency(Eigen3 Eigen3::Eigen libeigen3-dev "moelayer::eigen")
moe_dependency(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev
               "moelayer::io and programs that read models")
moe_dependency(MoeXxhash moe_dependencies::xxhash libxxhash-dev "moelayer::xxhash and programs that read models")
moe_dependency(MoeUring moe_dependencies::uring liburing-dev "moelayer::uring")
if(MOE_BUILD_EXAMPLES)
  moe_dependency(CLI11 CLI11::CLI11 libcli11-dev "programs with a command line")
endif()
if(MOE_BUILD_TESTING)
  moe_dependency(doctest doctest::doctest doctest-dev "tests")
endif()
if(MOE_BUILD_BENCHMARKS)
  moe_dependency(benchmark benchmark::benchmark libbenchmark-dev "benchmarks")
endif()

# moe_missing_component(<result> <source>): the component that the source includes and that cannot be linked here.
function(moe_missing_component result source)
  set(${result} "" PARENT_SCOPE)
  foreach(component IN ITEMS "eigen;<(moe/executors/eigen\\.hpp|Eigen/)" "xxhash;<moe/io/xxh3\\.hpp"
                             "uring;<moe/io/uring\\.hpp" "io;<(moe/io/|nlohmann/)")
    list(POP_FRONT component name)
    file(STRINGS "${source}" includes REGEX "^#include ${component}")
    if(includes AND NOT name IN_LIST MOE_COMPONENTS)
      set(${result} ${name} PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# moe_program(<name> <source>): a program with our warnings and every component there is. Makes no target, and
# says so, if the source includes a component that is missing.
function(moe_program name source)
  moe_missing_component(missing "${source}")
  if(missing)
    message(STATUS "moelayer: ${name} is left out, it needs moelayer::${missing}")
    return()
  endif()
  add_executable(${name} "${source}")
  list(TRANSFORM MOE_COMPONENTS PREPEND moelayer:: OUTPUT_VARIABLE components)
  target_link_libraries(${name} PRIVATE moelayer::moelayer ${components} moe_dev_warnings)
endfunction()

# moe_name(<result> <source>): the program's name, from its path below the current folder:
# storage/cached_test.cpp is storage_cached_test.
function(moe_name result source)
  cmake_path(RELATIVE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
  cmake_path(REMOVE_EXTENSION source)
  string(REPLACE "/" "_" source "${source}")
  set(${result} "${source}" PARENT_SCOPE)
endfunction()
