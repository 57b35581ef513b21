# xxHash's header, as moe_dependencies::xxhash: its functions are inline in io/xxh3.hpp, so there is nothing to link.

find_path(MOE_XXHASH_INCLUDE_DIR xxhash.h)
mark_as_advanced(MOE_XXHASH_INCLUDE_DIR)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(MoeXxhash REQUIRED_VARS MOE_XXHASH_INCLUDE_DIR)
if(MoeXxhash_FOUND AND NOT TARGET moe_dependencies::xxhash)
  add_library(moe_dependencies::xxhash INTERFACE IMPORTED)
  target_include_directories(moe_dependencies::xxhash INTERFACE "${MOE_XXHASH_INCLUDE_DIR}")
endif()
