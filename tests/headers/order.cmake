# cmake -DINCLUDE=... -P order.cmake: fails on any #include that points to the left of the order in docs/design.md:
#   models > models/rules, {layer, any_layer, prefetch, routers, storage, executors, predictors, offline} > the spine below, last to
#   first                  executors > cpu > routing > ...
# Policies include neither the layer nor each other, but for the tools that storages share.

cmake_policy(VERSION 3.25)

# allow(<files> <what they may include>): regular expressions on paths below moe/.
function(allow files includes)
  set(rule_files ${rule_files} "${files}" PARENT_SCOPE)
  set(rule_includes ${rule_includes} "${includes}" PARENT_SCOPE)
endfunction()

set(spine "none")
foreach(header IN ITEMS config error tensor math activations formats expert layout routing router_hooks scores layer/rows frame layer/observer executor_hooks lending concepts gate shared envelope any_policy layer/form_steps explain layer/call_checks layer/parts)
  allow("${header}[.]hpp" "(${spine})[.]hpp")
  string(APPEND spine "|${header}")
  if(header STREQUAL "routing")
    allow("cpu/.+[.]hpp" "(${spine})[.]hpp|cpu/.+")
    allow("cpu/(activations|kernels)[.]inl" "none")  # included into a target region, where nothing else may be
    allow("cpu/.+[.]inl" "cpu/(activations|kernels)[.]inl")
  endif()
endforeach()
allow("((any_)?layer|prefetch|reuse|soft_moe)[.]hpp" "(${spine})[.]hpp")
allow("routers/.+" "(${spine})[.]hpp|routers/(slots|largest|capacity_factor)[.]hpp")
allow("storage/.+" "(${spine})[.]hpp|storage/(eviction|cache_(guesses|history|plan|room|slots|state|statistics)|host_slots|layer_source|loading|slot_table|ring_(state|table)|pending_reads|posix_file|read_queue|record_(file_head|index|writer)|thread_reader)[.]hpp")
allow("executors/.+" "(${spine})[.]hpp|cpu/.+[.]hpp")
allow("predictors/.+" "(${spine})[.]hpp|predictors/routing_paths[.]hpp")
allow("train/.+" "(${spine})[.]hpp")
allow("offline/.+" "(${spine})[.]hpp|offline/.+[.]hpp|storage/(eviction|cache_history)[.]hpp")
allow("models/rules[.]hpp" "(${spine})[.]hpp")
allow("models[.]hpp" "(${spine}|layer)[.]hpp|models/rules[.]hpp|(routers|storage)/.+|executors/cpu[.]hpp")
allow("moe[.]hpp" "[a-z_]+[.]hpp|(routers|storage|predictors|cpu)/.+[.]hpp|executors/(cpu|expert_parallel)[.]hpp")
allow("io/.+" "(${spine})[.]hpp|models/rules[.]hpp|(io|storage|predictors|cpu)/.+[.]hpp|offline/trace[.]hpp")

# Costly, or of a component: no header of the library has the first, only these the second.
set(costly "(iostream|regex|ranges|functional)")
set(foreign "(Eigen/|nlohmann/|xxhash|liburing|cuda|cub/|thrust/)")
set(foreign_in "(executors/eigen[.]hpp|io/.+|.+[.]cuh)")

set(errors "")
file(GLOB_RECURSE headers RELATIVE "${INCLUDE}/moe" "${INCLUDE}/moe/*")
foreach(header IN LISTS headers)
  set(allowed "")
  foreach(files includes IN ZIP_LISTS rule_files rule_includes)
    if(header MATCHES "^(${files})$")
      set(allowed "${includes}")
    endif()
  endforeach()
  if(NOT allowed)
    string(APPEND errors "\n  ${header}: tests/headers/order.cmake has no rule for it")
    continue()
  endif()
  file(STRINGS "${INCLUDE}/moe/${header}" includes REGEX "^ *# *include ")
  foreach(include IN LISTS includes)
    string(REGEX REPLACE "^ *# *include *" "" include "${include}")
    if(include MATCHES "^<moe/(${allowed})>")
      continue()
    elseif(include MATCHES "^(\"|<moe/|<${costly}>)" OR header MATCHES "[.]inl$")
      string(APPEND errors "\n  ${header} may not include ${include}")
    elseif(include MATCHES "^<${foreign}" AND NOT header MATCHES "^${foreign_in}$")
      string(APPEND errors "\n  ${header} may not include ${include}, which only ${foreign_in} may")
    endif()
  endforeach()

  # The text of an inline function must not depend on the flags of the translation unit, or the linker picks one of
  # two at will. Only config.hpp looks at them, to name the baseline.
  if(NOT header STREQUAL "config.hpp")
    file(STRINGS "${INCLUDE}/moe/${header}" tests REGEX "^ *# *(el)?if.*__(AVX|SSE|FMA|F16C)")
    foreach(test IN LISTS tests)
      string(APPEND errors "\n  ${header} may not depend on the flags of the compiler: ${test}")
    endforeach()
  endif()
endforeach()

if(errors)
  message(FATAL_ERROR "${errors}")
endif()
