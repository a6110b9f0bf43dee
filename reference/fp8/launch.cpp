#include "launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "fault.h"

namespace kilotoken::fp8 {

namespace {

struct Names {
  const char* by;
  const char* rank;
  const char* ranks;
  const char* local_rank;
};

constexpr Names kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
};

uint32_t number(const char* name, const char* text, uint32_t most) {
  uint32_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, value);
  if (text == end || error != std::errc() || stopped != end || value > most)
    throw RankFault(std::string(name) + " is \"" + std::string(text).substr(0, 40) + "\", not a number from 0 to " + std::to_string(most));
  return value;
}

}  // namespace

Launch read_launch(const Environment& given) {
  const Environment value = given ? given : Environment([](const char* name) { return static_cast<const char*>(std::getenv(name)); });
  const auto needed = [&](const char* name, const char* by, const char* why) {
    const char* text = value(name);
    if (text == nullptr || *text == '\0') throw RankFault(std::string(name) + " is not set (" + by + "): " + why);
    return text;
  };
  for (const Names& names : kLaunchers) {
    const char* rank = value(names.rank);
    if (rank == nullptr || *rank == '\0') continue;
    Launch launch;
    launch.by = names.by;
    launch.rank = number(names.rank, rank, 1u << 16);
    launch.ranks = number(names.ranks, needed(names.ranks, names.by, "how many ranks there are"), 1u << 16);
    if (launch.ranks == 0 || launch.rank >= launch.ranks)
      throw RankFault(std::string(names.rank) + " is " + std::to_string(launch.rank) + " but " + names.ranks + " is " + std::to_string(launch.ranks));
    launch.local_rank = number(names.local_rank, needed(names.local_rank, names.by, "which GPU of this machine is this rank's"), 1u << 16);
    launch.address = needed("MASTER_ADDR", names.by, "the machine of rank 0, for the ranks to meet");
    const uint32_t port = number("MASTER_PORT", needed("MASTER_PORT", names.by, "the port on which rank 0 waits for the others"), 65534);
    if (port == 0) throw RankFault("MASTER_PORT is 0: every rank must know the port");
    const char* agent = value("TORCHELASTIC_USE_AGENT_STORE");
    launch.port = static_cast<uint16_t>(port + (agent != nullptr && std::strcmp(agent, "True") == 0 ? 1 : 0));
    return launch;
  }
  throw RankFault("not launched as ranks: none of RANK (torchrun), OMPI_COMM_WORLD_RANK (mpirun), SLURM_PROCID (srun) is set");
}

}  // namespace kilotoken::fp8
