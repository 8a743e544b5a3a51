# dsv_header_units(TARGET ROOT): one tiny translation unit for every public header under ROOT/include that no
# source file of the same name begins with (lint.include_order sees to it that those do): together they
# show that every public header compiles on its own.
function(dsv_header_units target root)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${root}/include ${root}/include/*.h)
  set(units)
  foreach(header ${headers})
    string(REGEX REPLACE "^dsv/(.*)\\.h$" "src/\\1.cpp" own_source ${header})
    if(NOT EXISTS ${root}/${own_source})
      set(unit ${CMAKE_CURRENT_BINARY_DIR}/${target}/${header}.cpp)
      file(CONFIGURE OUTPUT ${unit} CONTENT "#include \"${header}\"\n")
      list(APPEND units ${unit})
    endif()
  endforeach()
  add_library(${target} OBJECT ${units})
  target_include_directories(${target} PRIVATE ${root}/include)
  target_compile_options(${target} PRIVATE -O0 -Wall -Wextra -Wno-missing-field-initializers -Werror)
  target_compile_features(${target} PRIVATE cxx_std_20)
endfunction()
