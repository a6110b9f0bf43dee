// The one portability macro of core/: every function here is plain C++20 on a host compiler and callable from device code
// under nvcc. Nothing else about a compiler or a platform may live in this folder.
#pragma once

#ifdef __CUDACC__
#define KT_HD __host__ __device__
#else
#define KT_HD
#endif
