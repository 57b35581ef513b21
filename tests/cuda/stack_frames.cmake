# cmake -DNVCC=... -DINCLUDE=... -DSOURCE=... -DOUTPUT=... -P stack_frames.cmake: compiles for a device and fails if a
# kernel needs more stack than this. The driver reserves it for every thread that could be resident: 512 bytes are
# 0.13 GB of an H100.
cmake_policy(VERSION 3.25)
set(most 512)

execute_process(
  COMMAND "${NVCC}" -std=c++20 -arch=sm_90 -cubin -Werror all-warnings -Xptxas -v "-I${INCLUDE}" "${SOURCE}" -o "${OUTPUT}"
  OUTPUT_VARIABLE log ERROR_VARIABLE log RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${log}")
endif()
string(REGEX MATCHALL "[0-9]+ bytes stack frame" frames "${log}")
if(NOT frames)
  message(FATAL_ERROR "ptxas names no stack frame:\n${log}")
endif()
string(REGEX MATCHALL "Function properties for [^\n]+\n *[0-9]+ bytes stack frame" functions "${log}")
foreach(function IN LISTS functions)
  string(REGEX MATCH "for ([^\n]+)\n *([0-9]+)" _ "${function}")
  if(CMAKE_MATCH_2 GREATER most)
    message(SEND_ERROR "${CMAKE_MATCH_1} needs ${CMAKE_MATCH_2} bytes of stack, at most ${most} are allowed")
  endif()
endforeach()
