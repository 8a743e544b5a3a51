# Shows that lint_headers can fail: of two small projects, the one whose header leans on another's include
# must not build, and must name it.
function(build_project name header_text result output)
  file(REMOVE_RECURSE ${FOLDER}/${name})
  file(CONFIGURE OUTPUT ${FOLDER}/${name}/include/dsv/base/first.h CONTENT "#pragma once\n#include <string>\n")
  file(CONFIGURE OUTPUT ${FOLDER}/${name}/include/dsv/base/second.h CONTENT "${header_text}")
  file(CONFIGURE OUTPUT ${FOLDER}/${name}/CMakeLists.txt CONTENT "
    cmake_minimum_required(VERSION 3.25)
    project(headers LANGUAGES CXX)
    include(\"${CMAKE_CURRENT_LIST_DIR}/header_units.cmake\")
    dsv_header_units(headers \"${FOLDER}/${name}\")\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX} -S ${FOLDER}/${name}
                          -B ${FOLDER}/${name}/build
                  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${FOLDER}/${name}/build
                  RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
  set(${result} ${code} PARENT_SCOPE)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

build_project(good "#pragma once\n#include <string>\nstd::string second();\n" result output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the good project does not build:\n${output}")
endif()
build_project(bad "#pragma once\nstd::string second();\n" result output)
if(result EQUAL 0 OR NOT output MATCHES "second\\.h")
  message(FATAL_ERROR "a header without its include went unseen (${result}):\n${output}")
endif()
