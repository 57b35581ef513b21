# cmake -DCOMPILER=... -DINCLUDE=... [-DSYSTEM=include;dirs] -DTABLE=... [-DUPDATE=ON] -P lines.cmake: counts the lines
# that each header comes to when it is preprocessed, which is what its users' compilers have to read, and fails on a
# header that has grown by more than 10 % over the table. UPDATE writes the table anew.

cmake_policy(VERSION 3.25)

set(flags -std=c++20 "-I${INCLUDE}")
foreach(folder IN LISTS SYSTEM)
  list(APPEND flags -isystem "${folder}")
endforeach()

# lines_of(<variable> <header>): of `#include <header>`, without blank lines and line marks.
function(lines_of variable header)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E echo "#include <${header}>"
    COMMAND "${COMPILER}" ${flags} -E -P -x c++ -
    COMMAND wc -l
    OUTPUT_VARIABLE lines RESULTS_VARIABLE results OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT results STREQUAL "0;0;0")
    message(FATAL_ERROR "${header} cannot be preprocessed")
  endif()
  set(${variable} ${lines} PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE headers RELATIVE "${INCLUDE}" "${INCLUDE}/moe/*.hpp")
list(SORT headers)
if(UPDATE)
  set(text "")
  foreach(header IN LISTS headers)
    lines_of(lines ${header})
    string(APPEND text "${header} ${lines}\n")
  endforeach()
  file(WRITE "${TABLE}" "${text}")
  return()
endif()

set(how "write the table anew if that is meant: cmake --build --preset dev --target header_lines")
set(known "")
set(errors "")
file(STRINGS "${TABLE}" rows)
foreach(row IN LISTS rows)
  string(REGEX MATCH "^([^ ]+) ([0-9]+)$" row "${row}")
  set(header "${CMAKE_MATCH_1}")
  set(before "${CMAKE_MATCH_2}")
  list(APPEND known "${header}")
  if(NOT header IN_LIST headers)
    string(APPEND errors "\n  ${header} is in the table and not in include/")
    continue()
  endif()
  lines_of(now ${header})
  math(EXPR most "${before} * 11 / 10")
  if(now GREATER most)
    string(APPEND errors "\n  ${header}: ${now} lines after preprocessing, ${before} in the table")
  endif()
endforeach()
foreach(header IN LISTS headers)
  if(NOT header IN_LIST known)
    string(APPEND errors "\n  ${header} is not in the table")
  endif()
endforeach()
if(errors)
  message(FATAL_ERROR "${errors}\n${how}")
endif()
