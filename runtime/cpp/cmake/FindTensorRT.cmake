# Finds the runtime of TensorRT 10 or 11 or of TensorRT-RTX, and the CUDA runtime.
#
# Looks in TensorRT_ROOT and CUDAToolkit_ROOT (CMake variables or environment) and in the usual places. Sets
# TensorRT_FOUND, TensorRT_VERSION and TensorRT_RTX (true for TensorRT-RTX), and defines the target TensorRT::runtime.
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h)
# Python wheels contain the libraries only under versioned names.
find_library(TensorRT_LIBRARY NAMES nvinfer tensorrt_rtx libnvinfer.so.10 libnvinfer.so.11 libtensorrt_rtx.so.1)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDAToolkit_ROOT} ENV CUDAToolkit_ROOT /usr/local/cuda PATH_SUFFIXES include)
find_library(TensorRT_CUDA_LIBRARY NAMES cudart libcudart.so.12 libcudart.so.13
  HINTS ${CUDAToolkit_ROOT} ENV CUDAToolkit_ROOT /usr/local/cuda PATH_SUFFIXES lib lib64)

set(TensorRT_RTX FALSE)
if(TensorRT_INCLUDE_DIR AND EXISTS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h)
  file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h definitions REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)")
  foreach(part MAJOR MINOR PATCH)
    # Up to 10.8 NV_TENSORRT_MAJOR is the number; later it names TRT_MAJOR_ENTERPRISE, and in TensorRT-RTX TRT_MAJOR_RTX.
    string(REGEX MATCH "(NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE|TRT_${part}_RTX) ([0-9]+)" line "${definitions}")
    set(version_${part} ${CMAKE_MATCH_2})
    if(CMAKE_MATCH_1 MATCHES "_RTX$")
      set(TensorRT_RTX TRUE)
    endif()
  endforeach()
  set(TensorRT_VERSION ${version_MAJOR}.${version_MINOR}.${version_PATCH})
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDA_LIBRARY TensorRT_CUDA_INCLUDE_DIR TensorRT_VERSION)
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDA_LIBRARY)
# TensorRT-RTX has its own version numbers. All versions have the interface of TensorRT 10.
if(TensorRT_FOUND AND NOT TensorRT_RTX AND TensorRT_VERSION VERSION_LESS 10)
  message(STATUS "TensorRT ${TensorRT_VERSION} is too old: rsicrc needs 10 or newer")
  set(TensorRT_FOUND FALSE)
endif()

if(TensorRT_FOUND AND NOT TARGET TensorRT::runtime)
  add_library(TensorRT::runtime INTERFACE IMPORTED)
  target_include_directories(TensorRT::runtime SYSTEM INTERFACE ${TensorRT_INCLUDE_DIR} ${TensorRT_CUDA_INCLUDE_DIR})
  target_link_libraries(TensorRT::runtime INTERFACE ${TensorRT_LIBRARY} ${TensorRT_CUDA_LIBRARY})
endif()
