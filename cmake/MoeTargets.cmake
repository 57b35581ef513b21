# The three targets that users link: the library and its two optional components.
# Dependencies are system packages and never downloaded. A component whose dependency is missing here is
# still defined and installed (a header needs no building), it only cannot be linked.

find_package(Threads REQUIRED)
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 3.4 QUIET NO_MODULE)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3 QUIET)
endif()

set(MOE_INCLUDE_DIR "${PROJECT_SOURCE_DIR}/include")
file(GLOB_RECURSE MOE_HEADERS CONFIGURE_DEPENDS "${MOE_INCLUDE_DIR}/moe/*.hpp")
file(GLOB_RECURSE MOE_KERNELS CONFIGURE_DEPENDS "${MOE_INCLUDE_DIR}/moe/*.inl")
set(MOE_EIGEN_HEADERS ${MOE_HEADERS})
list(FILTER MOE_EIGEN_HEADERS INCLUDE REGEX "/moe/executors/eigen\\.hpp$")
set(MOE_IO_HEADERS ${MOE_HEADERS})
list(FILTER MOE_IO_HEADERS INCLUDE REGEX "/moe/io/")
list(FILTER MOE_HEADERS EXCLUDE REGEX "/moe/(executors/eigen\\.hpp$|io/)")

# moe_component(<target> <dependency> <headers>...): one INTERFACE library with its headers.
function(moe_component target dependency)
  add_library(${target} INTERFACE)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${MOE_INCLUDE_DIR}" FILES ${ARGN})
  target_link_libraries(${target} INTERFACE ${dependency})
endfunction()

moe_component(moelayer Threads::Threads ${MOE_HEADERS})
moe_component(moelayer_eigen Eigen3::Eigen ${MOE_EIGEN_HEADERS})
moe_component(moelayer_io nlohmann_json::nlohmann_json ${MOE_IO_HEADERS})
target_link_libraries(moelayer_eigen INTERFACE moelayer)
target_link_libraries(moelayer_io INTERFACE moelayer)
set_target_properties(moelayer_eigen PROPERTIES EXPORT_NAME eigen)
set_target_properties(moelayer_io PROPERTIES EXPORT_NAME io)

add_library(moelayer::moelayer ALIAS moelayer)
add_library(moelayer::eigen ALIAS moelayer_eigen)
add_library(moelayer::io ALIAS moelayer_io)

target_compile_features(moelayer INTERFACE cxx_std_20)

# Kernel texts belong to cpu/targets.hpp, which includes them into its target regions: installed, but no headers
# of their own.
target_sources(moelayer INTERFACE FILE_SET kernels TYPE HEADERS BASE_DIRS "${MOE_INCLUDE_DIR}" FILES ${MOE_KERNELS})
set_target_properties(moelayer PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)

# What of the two components can be used here; said once.
set(MOE_COMPONENTS)
if(TARGET Eigen3::Eigen)
  list(APPEND MOE_COMPONENTS eigen)
else()
  set_target_properties(moelayer_eigen PROPERTIES VERIFY_INTERFACE_HEADER_SETS OFF)
endif()
if(TARGET nlohmann_json::nlohmann_json)
  list(APPEND MOE_COMPONENTS io)
else()
  set_target_properties(moelayer_io PROPERTIES VERIFY_INTERFACE_HEADER_SETS OFF)
endif()
