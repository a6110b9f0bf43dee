// NCCL as far as the reference needs it, found at run time: nothing of it is needed to build, nor to run one rank alone. Functions and
// constants are declared here from NCCL's public API documentation (docs.nvidia.com/deeplearning/nccl, "NCCL API"), whose binary interface
// has been stable since 2.4.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "collectives.h"

namespace kilotoken::fp8 {

struct NcclId {
  char bytes[128];
};
using NcclComm = void*;

inline constexpr int kNcclSuccess = 0, kNcclInProgress = 7;
inline constexpr int kNcclFloat32 = 7;
inline constexpr int kNcclSum = 0;

struct Nccl {
  int (*get_version)(int* version);
  const char* (*error_string)(int result);
  const char* (*last_error)(NcclComm comm);
  int (*get_unique_id)(NcclId* id);
  int (*init_rank)(NcclComm* comm, int ranks, NcclId id, int rank);
  int (*destroy)(NcclComm comm);
  int (*abort)(NcclComm comm);
  int (*async_error)(NcclComm comm, int* result);
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int op, NcclComm comm, cudaStream_t stream);
  int (*all_gather)(const void* from, void* to, size_t count_each, int type, NcclComm comm, cudaStream_t stream);

  int version = 0;   // major * 10000 + minor * 100 + patch
  std::string path;  // where it was found
};

// The file NCCL_LIBRARY names, else libnccl.so.2 where the loader looks. Loaded once. NVLink multicast stays off (NCCL_NVLS_ENABLE=0) unless the
// environment says otherwise. Throws DeviceLack with what the loader said.
const Nccl& nccl();

// Throws RankFault with NCCL's own words; `what` completes "while ...".
void check_nccl(int result, const char* what, NcclComm comm = nullptr);

std::string nccl_version_text(int version);

// Collectives over a communicator that somebody else makes, watches and destroys.
class NcclCollectives final : public Collectives {
 public:
  explicit NcclCollectives(NcclComm comm) : comm_(comm) {}
  void all_gather(const float* x, size_t count, float* y, cudaStream_t stream) override;
  void all_reduce(float* x, size_t count, cudaStream_t stream) override;

 private:
  const NcclComm comm_;
};

}  // namespace kilotoken::fp8
