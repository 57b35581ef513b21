# cmake -DBUILD=... -DPREFIX=... -P install.cmake: installs a build somewhere else, then moves it to PREFIX.

cmake_policy(VERSION 3.25)

file(REMOVE_RECURSE "${PREFIX}" "${PREFIX}-before")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${PREFIX}-before" COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${PREFIX}-before" "${PREFIX}")
