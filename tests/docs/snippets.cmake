# cmake -DINPUT="a.md b.md" -DOUTPUT=<folder> -P snippets.cmake
# Writes every fenced C++ block that follows a line `<!-- snippet: some name -->` to <folder>/some_name.inc, so that a test
# compiles the text that readers see.

function(write_snippet heading block)
  string(REGEX REPLACE "^<!-- snippet: (.*) -->$" "\\1" name "${heading}")
  string(MAKE_C_IDENTIFIER "${name}" name)
  file(WRITE "${OUTPUT}/${name}.inc.new" "${block}")
  file(COPY_FILE "${OUTPUT}/${name}.inc.new" "${OUTPUT}/${name}.inc" ONLY_IF_DIFFERENT)
  file(REMOVE "${OUTPUT}/${name}.inc.new")
endfunction()

# Lists cannot hold code (semicolons, brackets), so the text is cut with string(FIND).
function(take_until text_var end taken_var)
  string(FIND "${${text_var}}" "${end}" at)
  string(SUBSTRING "${${text_var}}" 0 ${at} taken)
  string(LENGTH "${end}" length)
  math(EXPR at "${at} + ${length}")
  string(SUBSTRING "${${text_var}}" ${at} -1 rest)
  set(${taken_var} "${taken}" PARENT_SCOPE)
  set(${text_var} "${rest}" PARENT_SCOPE)
endfunction()

separate_arguments(INPUT)
foreach(input IN LISTS INPUT)
  file(READ "${input}" text)
  string(FIND "${text}" "<!-- snippet: " at)
  while(at GREATER_EQUAL 0)
    string(SUBSTRING "${text}" ${at} -1 text)
    take_until(text "\n```cpp\n" heading)
    take_until(text "\n```" block)
    write_snippet("${heading}" "${block}\n")
    string(FIND "${text}" "<!-- snippet: " at)
  endwhile()
endforeach()
