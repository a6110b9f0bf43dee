#include "attention_layer.h"

#include <algorithm>
#include <cmath>

namespace kilotoken {

namespace {

template <class V>
void grow(V& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

// Per head: norm if the layer has one, then RoPE.
void norm_and_turn(const AttentionContext& c, const std::vector<float>& norm, const RopeRow& turn, size_t heads,
                   size_t head_dim, float* row) {
  for (size_t h = 0; h < heads; ++h) {
    float* head = row + h * head_dim;
    if (!norm.empty()) c.ops.rmsnorm(head, norm.data(), head_dim, c.epsilon, head);
    rope(turn, head);
  }
}

}  // namespace

void cache_keys_values(const AttentionContext& c, const AttentionPlan& plan, const AttentionWeights& w, const LinearInput& in,
                       size_t first_position, const std::vector<RopeRow>& turns, KvLayer& cache, AttentionScratch& s) {
  const size_t k_row = plan.kv_heads * plan.head_dim, v_row = plan.kv_heads * plan.v_head_dim;
  grow(s.k, in.rows * k_row);
  grow(s.v, in.rows * v_row);
  apply_linear(c.ops, w.k, in, s.k.data());
  apply_linear(c.ops, w.v, in, s.v.data());
  for (size_t r = 0; r < in.rows; ++r) {
    float* key = s.k.data() + r * k_row;
    const float* value = s.v.data() + r * v_row;
    norm_and_turn(c, w.k_norm, turns[r], plan.kv_heads, plan.head_dim, key);
    for (size_t h = 0; h < plan.kv_heads; ++h)
      cache.put(h, first_position + r, key + h * plan.head_dim, value + h * plan.v_head_dim, c.value_scale);
  }
}

void attend(const AttentionContext& c, const AttentionPlan& plan, const AttentionWeights& w, const LinearInput& in,
            const std::vector<RopeRow>& turns, const KvLayer& cache, AttentionScratch& s, float* y) {
  const size_t rows = in.rows;
  const size_t group = plan.q_heads / plan.kv_heads;
  const size_t q_row = plan.q_heads * plan.head_dim, out_row = plan.q_heads * plan.v_head_dim;
  grow(s.q, rows * q_row);
  grow(s.heads_out, rows * out_row);
  apply_linear(c.ops, w.q, in, s.q.data());
  for (size_t r = 0; r < rows; ++r) norm_and_turn(c, w.q_norm, turns[r], plan.q_heads, plan.head_dim, s.q.data() + r * q_row);

  const size_t keys = *std::max_element(s.end.begin(), s.end.begin() + rows) -
                      *std::min_element(s.first.begin(), s.first.begin() + rows);
  const size_t queries = std::min<size_t>(rows, kAttentionRows) * group;
  grow(s.packed_queries, queries * cache.key_stride);
  grow(s.logits, queries * keys);
  grow(s.denominators, queries);

  for (size_t h = 0; h < plan.kv_heads; ++h) {
    AttentionHead head{};
    head.rows = rows;
    head.heads = group;
    head.head_dim = plan.head_dim;
    head.value_dim = plan.v_head_dim;
    head.queries = s.q.data() + h * group * plan.head_dim;
    head.query_row_stride = q_row;
    head.keys = cache.keys_of(h);
    head.key_stride = cache.key_stride;
    head.values = cache.values_of(h);
    head.value_stride = cache.value_stride;
    head.first = s.first.data();
    head.end = s.end.data();
    head.sinks = w.sinks.empty() ? nullptr : w.sinks.data() + h * group;
    head.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(plan.head_dim)));
    head.out = s.heads_out.data() + h * group * plan.v_head_dim;
    head.out_row_stride = out_row;
    head.packed_queries = s.packed_queries.data();
    head.logits = s.logits.data();
    head.denominators = s.denominators.data();
    (cache.format == KvFormat::bf16 ? c.ops.attention_bf16 : c.ops.attention_f32)(head);
  }
  apply_linear(c.ops, w.o, linear_input(c.ops, c.activations, s.heads_out.data(), rows, out_row, s.output_input), y);
}

}  // namespace kilotoken
