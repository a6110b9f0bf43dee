// Which rank of how many this process is, as the program that launched it says through the environment: torchrun, Slurm's srun, or Open MPI's
// mpirun. Free of CUDA.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace kilotoken::fp8 {

struct Launch {
  std::string by;       // "torchrun", "Slurm" or "Open MPI"
  uint32_t rank = 0, ranks = 1;
  uint32_t local_rank = 0;  // among the processes of this machine
  std::string address;  // of rank 0's machine
  uint16_t port = 0;
};

// value: of an environment variable, or null; std::getenv by default.
using Environment = std::function<const char*(const char*)>;

// RANK and WORLD_SIZE (torchrun) before OMPI_COMM_WORLD_* (mpirun) before SLURM_* (srun), since a launcher may itself run under Slurm. MASTER_ADDR and
// MASTER_PORT say where rank 0 is; under torchrun, whose agent listens there itself, rank 0 takes the next port.
// Throws RankFault naming the variable that is missing or no number.
Launch read_launch(const Environment& value = {});

}  // namespace kilotoken::fp8
