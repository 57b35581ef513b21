# Installs headers, a CMake package with components, and a pkg-config file. Everything is independent of the
# architecture and can be moved as a whole.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(MOE_CMAKE_DIR "${CMAKE_INSTALL_DATADIR}/cmake/moelayer")
set(MOE_PKGCONFIG_DIR "${CMAKE_INSTALL_DATADIR}/pkgconfig")

# One export set a component, so that find_package looks only for the dependencies of those it is asked for.
install(
  TARGETS moelayer
  EXPORT moelayer-targets
  FILE_SET HEADERS
  FILE_SET kernels)
foreach(component IN ITEMS eigen io xxhash uring)
  install(TARGETS moelayer_${component} EXPORT moelayer-${component}-targets FILE_SET HEADERS)
endforeach()
foreach(export IN ITEMS moelayer moelayer-eigen moelayer-io moelayer-xxhash moelayer-uring)
  install(EXPORT ${export}-targets NAMESPACE moelayer:: DESTINATION "${MOE_CMAKE_DIR}")
endforeach()
install(FILES cmake/FindMoeXxhash.cmake cmake/FindMoeUring.cmake DESTINATION "${MOE_CMAKE_DIR}")

configure_package_config_file(cmake/moelayer-config.cmake.in "${PROJECT_BINARY_DIR}/moelayer-config.cmake"
                              INSTALL_DESTINATION "${MOE_CMAKE_DIR}")
# Before 1.0 a new minor version may break its users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/moelayer-config-version.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/moelayer-config.cmake" "${PROJECT_BINARY_DIR}/moelayer-config-version.cmake"
        DESTINATION "${MOE_CMAKE_DIR}")

# From where the .pc file lies to the prefix, so that the file stays true when the prefix is moved.
file(RELATIVE_PATH MOE_PREFIX_FROM_PC "/prefix/${MOE_PKGCONFIG_DIR}" "/prefix")
configure_file(cmake/moelayer.pc.in "${PROJECT_BINARY_DIR}/moelayer.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/moelayer.pc" DESTINATION "${MOE_PKGCONFIG_DIR}")
