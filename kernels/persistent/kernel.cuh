// The resident kernel: one block a multiprocessor, eleven warps in three roles, one instruction list, of which each role walks what it has a part in. The math warps wait for what an
// instruction needs, work, and report; the finishing warps drain accumulators; the fetching warp goes far ahead, because
// weights depend on nothing but the choice of experts. A whole generation is one launch: draft, verify, accept, next block, without the host.
// The same kernel launched over one instruction at a time is the CUDA-graph build: same functions, same bits.
#pragma once

#include "instruction.h"
#include "kernels/comm/comm.h"
#include "state.h"

namespace kilotoken::stack {

// What a role has a part in, in the order of the list; [0, verify) drafts. Stepping over an instruction of others costs a role a third of a microsecond.
struct RoleList {
  const Instruction* list;  // device
  int verify, count;
};

// The parts of a round in the list: [0, verify) drafts, [verify, count) verifies, accepts and prepares the next step. DeviceList makes one of a list.
struct Program {
  const Instruction* list;  // device
  int verify, count;
  RoleList of[kRoles];      // what the resident kernel walks
  uint32_t* done;           // [count], one line of 128 bytes each: reports of an instruction since the launch; at kEarlyWord those of up products before their last round
  Epoch* epoch;             // device
  Comm comm;
  long long* trace;         // [count][blocks][4]: the multiprocessor's clock when an instruction could begin, when its math and when its finishing were done, and
                            // %globaltimer when it could begin; or null
};

inline constexpr int kLineWords = 32, kEarlyWord = 1;  // words of a line of Program::done

// Runs until the sequence ends or `rounds` more rounds have been recorded. A cooperative launch: all blocks must be resident. `done` is zero.
cudaError_t launch_resident(const Program& program, SessionState* state, Mailbox* mailbox, uint32_t rounds, int blocks, cudaStream_t stream);

// One instruction of the list.
cudaError_t launch_instruction(const Program& program, int index, SessionState* state, Mailbox* mailbox, int blocks, cudaStream_t stream);

// Before either, once a device. Also loads the code, so that nothing is loaded while a kernel spins.
cudaError_t prepare_kernel();

}  // namespace kilotoken::stack
