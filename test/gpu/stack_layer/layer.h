// One layer of a pro-synthetic model by its definition, in double, from residual to residual: RMSNorm, grouped-query attention with RoPE on the first 64 dimensions, sinks
// and windows, and a feed-forward layer or a mixture of them. Weights come row by row from (seed, tensor, place); keys and values are rounded to BF16, inputs of E4M3
// linears to E4M3 by 128, h of an expert by 32.
#pragma once

#include <cstdint>
#include <vector>

#include "core/synthetic.h"
#include "estimate.h"
#include "kernels/stack.h"

namespace kilotoken::layer {

struct Network {
  uint64_t seed;
  SyntheticShape shape;
  SyntheticShard shard;
  stack::TargetShape target;  // what the shard holds, as a network of its own
};

// Row `id` of the embedding.
std::vector<double> embedding(const Network& n, int id);

// The residual behind attention of rows first .. in.count - 1; in: the residual of positions 0 .. in.count - 1.
Rows behind_attention(const Network& n, int layer, const Rows& in, int first);

struct Routing {
  int agree = 0, near_ties = 0, differ = 0;  // rows
};

// The residual behind the feed-forward branch. A mixture: chosen: [rows][experts per token] of the device, which stand where the reference would have others by a near tie:
// scores closer together than kDeviations of their errors.
Rows behind_feed_forward(const Network& n, int layer, const Rows& in, const int32_t* chosen, std::vector<Routing>& routing);

}  // namespace kilotoken::layer
