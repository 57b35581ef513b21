# cmake -DPROGRAMS=a;b;... -P one_answer.cmake: runs all programs; they must print the same.

cmake_policy(VERSION 3.25)

foreach(program IN LISTS PROGRAMS)
  execute_process(COMMAND "${program}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${program} failed (${result}):\n${output}")
  endif()
  if(NOT DEFINED answer)
    set(answer "${output}")
    message(STATUS "${answer}")
  endif()
  if(NOT output STREQUAL answer)
    message(FATAL_ERROR "${program} prints\n${output}\nand not\n${answer}")
  endif()
endforeach()
