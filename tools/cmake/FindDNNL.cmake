# FindDNNL.cmake - oneDNN 2 or 3 by its C header and library: DNNL_FOUND, DNNL_VERSION, DNNL::dnnl.
#
# Debian's package has no CMake files, and those of other builds ask for their own choice of thread
# library; we call the C interface only, so header and library are enough.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h)
find_library(DNNL_LIBRARY dnnl)
mark_as_advanced(DNNL_INCLUDE_DIR DNNL_LIBRARY)
if(DNNL_INCLUDE_DIR AND EXISTS ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h)
  file(READ ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h text)
  set(DNNL_VERSION)
  foreach(part MAJOR MINOR PATCH)
    if(text MATCHES "DNNL_VERSION_${part} +([0-9]+)")
      list(APPEND DNNL_VERSION ${CMAKE_MATCH_1})
    endif()
  endforeach()
  list(JOIN DNNL_VERSION "." DNNL_VERSION)
endif()
if(DNNL_VERSION AND (DNNL_VERSION VERSION_LESS 2 OR NOT DNNL_VERSION VERSION_LESS 4))
  message(STATUS "oneDNN ${DNNL_VERSION} in ${DNNL_INCLUDE_DIR} is not used: 2 or 3 is needed")
  set(DNNL_INCLUDE_DIR DNNL_INCLUDE_DIR-NOTFOUND)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(DNNL REQUIRED_VARS DNNL_LIBRARY DNNL_INCLUDE_DIR
                                  VERSION_VAR DNNL_VERSION)
if(DNNL_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
