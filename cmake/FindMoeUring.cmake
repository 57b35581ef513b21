# liburing, which has no CMake package of its own, as moe_dependencies::uring.

find_path(MOE_URING_INCLUDE_DIR liburing.h)
find_library(MOE_URING_LIBRARY uring)
mark_as_advanced(MOE_URING_INCLUDE_DIR MOE_URING_LIBRARY)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MoeUring REQUIRED_VARS MOE_URING_LIBRARY MOE_URING_INCLUDE_DIR)
if(MoeUring_FOUND AND NOT TARGET moe_dependencies::uring)
  add_library(moe_dependencies::uring INTERFACE IMPORTED)
  target_include_directories(moe_dependencies::uring INTERFACE "${MOE_URING_INCLUDE_DIR}")
  target_link_libraries(moe_dependencies::uring INTERFACE "${MOE_URING_LIBRARY}")
endif()
