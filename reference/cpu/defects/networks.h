// The rules of ../networks.h with the mistakes of the registry in their places. Without a chosen defect each function is the correct
// one. A network is loaded with at most one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "registry.h"

namespace kilotoken {

struct DraftPlan;
struct LinearWeights;
struct Ops;
struct TargetPlan;
struct TargetWeights;

class Networks {
 public:
  // False if there is no such id.
  bool choose(const std::string& id) {
    for (const NetworkDefectEntry& entry : kNetworkDefects)
      if (id == entry.id) defect_ = entry.defect;
    return defect_ != NetworkDefect::kNone;
  }

  // Called with the plans as they arrive from outside. `draft` may be that of no draft.
  void plans(TargetPlan& target, DraftPlan& draft) const;

  const Ops& ops(const Ops& best) const;
  size_t split_groups(size_t stored, LinearWeights& fused) const;
  void weights(TargetWeights& weights) const;

  float expert_score(float score, float biased) const { return is(NetworkDefect::kRouterBias) ? biased : score; }

  bool masked(int32_t id, int32_t mask_token_id) const { return id == mask_token_id && !is(NetworkDefect::kMaskRow); }
  size_t block_end(size_t position, size_t end) const { return is(NetworkDefect::kCausalBlock) ? position + 1 : end; }

 private:
  bool is(NetworkDefect defect) const { return defect_ == defect; }

  NetworkDefect defect_ = NetworkDefect::kNone;
};

}  // namespace kilotoken
