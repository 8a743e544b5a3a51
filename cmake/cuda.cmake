# Finds what the CUDA backend needs. DSV_CUDA=AUTO takes it when everything is there and says what is missing
# otherwise; ON makes that an error.
set(DSV_WITH_CUDA OFF)
if(DSV_CUDA STREQUAL "OFF")
  return()
endif()

function(dsv_cuda_missing what)
  if(DSV_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DSV_CUDA=ON: ${what} was not found")
  endif()
  message(STATUS "CUDA backend: off, ${what} was not found")
endfunction()

include(CheckLanguage)
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below: sm_90a needs the -gencode form
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  dsv_cuda_missing("nvcc")
  return()
endif()
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
# A kernel that spills registers does not compile (tests/lint/spilling_kernel.cu shows it).
set(DSV_CUDA_FLAGS -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -lineinfo
                   -Xptxas=--warn-on-spills,--warning-as-error
                   -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers -Xcudafe=--diag_suppress=177)
list(JOIN DSV_CUDA_FLAGS " " flags)
string(APPEND CMAKE_CUDA_FLAGS " ${flags}")

find_package(CUDAToolkit)
if(NOT TARGET CUDA::cublasLt)
  dsv_cuda_missing("cuBLASLt")
  return()
endif()
find_path(CUDNN_INCLUDE cudnn_backend.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR})
find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
foreach(part CUDNN NCCL)
  if(NOT ${part}_INCLUDE OR NOT ${part}_LIBRARY)
    dsv_cuda_missing(${part})
    return()
  endif()
endforeach()
add_library(CUDNN::cudnn UNKNOWN IMPORTED)
set_target_properties(CUDNN::cudnn PROPERTIES IMPORTED_LOCATION ${CUDNN_LIBRARY}
                      INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_INCLUDE})
add_library(NCCL::nccl UNKNOWN IMPORTED)
set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
                      INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE})
set(DSV_WITH_CUDA ON)
message(STATUS "CUDA backend: on (CUDA ${CUDAToolkit_VERSION})")
