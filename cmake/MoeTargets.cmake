# The targets that users link: the library and its optional components.
# Dependencies are system packages and never downloaded. A component whose dependency is missing here is
# still defined and installed (a header needs no building), it only cannot be linked.

find_package(Threads REQUIRED)
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 3.4 QUIET NO_MODULE)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3 QUIET)
endif()
list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
find_package(MoeXxhash QUIET)
find_package(MoeUring QUIET)

set(MOE_INCLUDE_DIR "${PROJECT_SOURCE_DIR}/include")
file(GLOB_RECURSE MOE_HEADERS CONFIGURE_DEPENDS "${MOE_INCLUDE_DIR}/moe/*.hpp")
file(GLOB_RECURSE MOE_KERNELS CONFIGURE_DEPENDS "${MOE_INCLUDE_DIR}/moe/*.inl")
# moe_take_headers(<list> <regular expression>): moves headers of components out of MOE_HEADERS.
function(moe_take_headers list regex)
  set(taken ${MOE_HEADERS})
  list(FILTER taken INCLUDE REGEX "${regex}")
  list(FILTER MOE_HEADERS EXCLUDE REGEX "${regex}")
  set(${list} ${taken} PARENT_SCOPE)
  set(MOE_HEADERS ${MOE_HEADERS} PARENT_SCOPE)
endfunction()
moe_take_headers(MOE_EIGEN_HEADERS "/moe/executors/eigen\\.hpp$")
moe_take_headers(MOE_XXHASH_HEADERS "/moe/io/xxh3\\.hpp$")
moe_take_headers(MOE_URING_HEADERS "/moe/io/uring\\.hpp$")
moe_take_headers(MOE_IO_HEADERS "/moe/io/")

# moe_component(<target> <dependency> <headers>...): one INTERFACE library with its headers.
function(moe_component target dependency)
  add_library(${target} INTERFACE)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${MOE_INCLUDE_DIR}" FILES ${ARGN})
  target_link_libraries(${target} INTERFACE ${dependency})
endfunction()

moe_component(moelayer Threads::Threads ${MOE_HEADERS})
add_library(moelayer::moelayer ALIAS moelayer)

# What of the components can be used here; said once.
set(MOE_COMPONENTS)
# moe_optional_component(<name> <dependency> <headers>...): moelayer::<name>.
function(moe_optional_component name dependency)
  moe_component(moelayer_${name} ${dependency} ${ARGN})
  target_link_libraries(moelayer_${name} INTERFACE moelayer)
  set_target_properties(moelayer_${name} PROPERTIES EXPORT_NAME ${name})
  add_library(moelayer::${name} ALIAS moelayer_${name})
  if(TARGET ${dependency})
    set(MOE_COMPONENTS ${MOE_COMPONENTS} ${name} PARENT_SCOPE)
  else()
    set_target_properties(moelayer_${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS OFF)
  endif()
endfunction()
moe_optional_component(eigen Eigen3::Eigen ${MOE_EIGEN_HEADERS})
moe_optional_component(io nlohmann_json::nlohmann_json ${MOE_IO_HEADERS})
moe_optional_component(xxhash moe_dependencies::xxhash ${MOE_XXHASH_HEADERS})
moe_optional_component(uring moe_dependencies::uring ${MOE_URING_HEADERS})

target_compile_features(moelayer INTERFACE cxx_std_20)

# Kernel texts belong to cpu/targets.hpp, which includes them into its target regions: installed, but no headers
# of their own.
target_sources(moelayer INTERFACE FILE_SET kernels TYPE HEADERS BASE_DIRS "${MOE_INCLUDE_DIR}" FILES ${MOE_KERNELS})
set_target_properties(moelayer PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
