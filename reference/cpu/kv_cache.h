// Keys and values of every layer and key/value head, BF16, one row a position: keys after RoPE, values after the value scale.
// Rolling back is forgetting a length: rows beyond it are overwritten before anyone reads them. Growth doubles, up to the rows
// that were asked for; running out of memory throws and leaves the cache as it was.
#pragma once

#include <cstdint>
#include <vector>

#include "core/bf16.h"
#include "core/lanes.h"
#include "memory.h"

namespace kilotoken {

struct KvHead {
  AlignedVector<uint16_t> keys;    // [capacity][key_stride]
  AlignedVector<uint16_t> values;  // [capacity][value_stride]
};

struct KvLayer {
  size_t head_dim = 0, key_stride = 0;
  size_t value_dim = 0, value_stride = 0;
  std::vector<KvHead> heads;

  KvLayer(size_t kv_heads, size_t head_dim, size_t value_dim)
      : head_dim(head_dim),
        key_stride(round_up(head_dim, kLanes)),
        value_dim(value_dim),
        value_stride(round_up(value_dim, kLanes)),
        heads(kv_heads) {}

  void put(size_t head, size_t position, const float* key, const float* value, float value_scale) {
    uint16_t* k = heads[head].keys.data() + position * key_stride;
    uint16_t* v = heads[head].values.data() + position * value_stride;
    for (size_t d = 0; d < head_dim; ++d) k[d] = float_to_bf16(key[d]);
    for (size_t d = 0; d < value_dim; ++d) v[d] = float_to_bf16(value[d] * value_scale);
  }
};

struct KvCache {
  std::vector<KvLayer> layers;
  size_t length = 0;  // valid positions

  void reserve(size_t positions) {
    if (positions <= capacity_) return;
    const size_t capacity = positions > 2 * capacity_ ? positions : 2 * capacity_;
    for (KvLayer& layer : layers)
      for (KvHead& head : layer.heads) {
        head.keys.resize(capacity * layer.key_stride);
        head.values.resize(capacity * layer.value_stride);
      }
    capacity_ = capacity;
  }

 private:
  size_t capacity_ = 0;
};

}  // namespace kilotoken
