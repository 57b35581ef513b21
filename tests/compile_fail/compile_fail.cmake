# cmake -DCOMPILER=... -DSOURCE=... -DINCLUDE=... -P compile_fail.cmake: tries one case, as CMakeLists.txt describes.

cmake_policy(VERSION 3.25)

file(STRINGS "${SOURCE}" first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: the first line must be '// expect: MESSAGE'")
endif()
set(expected "${CMAKE_MATCH_1}")

set(ENV{LC_ALL} C)
set(compile "${COMPILER}" -std=c++20 -fsyntax-only "-I${INCLUDE}" "${SOURCE}")

execute_process(COMMAND ${compile} RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "does not compile without its fault:\n${output}")
endif()

execute_process(COMMAND ${compile} -DMOE_FAULT RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "compiles with its fault")
endif()
if(NOT output MATCHES "[^\n]*error:[^\n]*")
  message(FATAL_ERROR "fails without an error line:\n${output}")
endif()
set(found "${CMAKE_MATCH_0}")

string(FIND "${found}" "${expected}" at)
if(at EQUAL -1 AND NOT found MATCHES "${expected}")
  message(FATAL_ERROR "the first error line is\n  ${found}\nand not\n  ${expected}\nin:\n${output}")
endif()
